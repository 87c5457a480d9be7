"""Results of an evaluation on disk: ``run.json`` (what ran), ``cases.jsonl``, ``results.jsonl`` (a line a sample), ``summary.json``."""

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from posttrain.config import content_hash, file_hash
from posttrain.config.files import write_text
from posttrain.errors import ConfigError, DataError, InfrastructureError
from posttrain.evaluation.scores import Score

RUN, CASES, RESULTS, SUMMARY = "run.json", "cases.jsonl", "results.jsonl", "summary.json"
MODEL_SCORES = "model_scores.jsonl"
"""Scores that came after generation: a line a sample and scorer, beside ``results.jsonl``."""
OPTIONAL = ("token_ids", "transcript", "calls", "outcome")
"""Fields of a sample that are left out of its line where empty."""


@dataclass(frozen=True, slots=True)
class SampleResult:
    """One sample: what was answered, what it cost and how it scored. ``seconds`` is None when the answer came from the cache.

    ``token_ids`` are those generated, kept where a score of the suite needs them. Of an answer with tools: ``transcript`` is what model and
    tools wrote (messages as in ``cases.jsonl``), ``calls`` every call with its result, ``outcome`` what the world said at the end.
    """

    case: str
    sample: int
    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int
    seconds: float | None
    machine: str
    concurrency: int
    scores: Mapping[str, Score]
    token_ids: tuple[int, ...] = ()
    transcript: tuple[Mapping[str, Any], ...] = ()
    calls: tuple[Mapping[str, Any], ...] = ()
    outcome: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        """Names the sample in its suite."""
        return self.case, self.sample


@dataclass(frozen=True, slots=True)
class CaseInfo:
    """What a report shows of a case. ``group`` is never empty: a case without one is its own."""

    id: str
    messages: tuple[Mapping[str, Any], ...]
    expected: Any
    slices: tuple[str, ...]
    group: str


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A finished evaluation, read from its folder."""

    folder: Path
    run: Mapping[str, Any]
    summary: Mapping[str, Any]
    cases: Mapping[str, CaseInfo]
    samples: Mapping[tuple[str, int], SampleResult]

    @property
    def suite_hash(self) -> str:
        """The suite these results belong to."""
        return str(self.run["suite"]["hash"])

    @property
    def name(self) -> str:
        """A short name of what was evaluated."""
        return str(self.run["name"])

    @classmethod
    def load(cls, folder: str | Path) -> "EvaluationResult":
        """Read a folder written by ``evaluate``. An unfinished or foreign folder raises ConfigError."""
        root = Path(folder)
        for file in (RUN, CASES, RESULTS, SUMMARY):
            if not (root / file).is_file():
                what = "not finished" if (root / RUN).is_file() else "not the results of an evaluation"
                raise ConfigError(f"{root}: {what}: no {file}", hint="give the folder that `posttrain eval --out` wrote, and let it finish")
        try:
            run = json.loads((root / RUN).read_text(encoding="utf-8"))
            summary = json.loads((root / SUMMARY).read_text(encoding="utf-8"))
            cases = [CaseInfo(**json.loads(line)) for line in (root / CASES).read_text(encoding="utf-8").split("\n") if line]
            found = cls(root, run, summary, {case.id: case for case in cases}, {result.key: result for result in read_samples(root)})
            found._check()
        except (ValueError, TypeError, KeyError) as error:
            what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"{root}: damaged results: {what}", hint="remove the folder and evaluate again") from None
        return found

    def _check(self) -> None:
        """Raise ValueError, KeyError or TypeError unless all parts fit together and the results are those the summary was made of."""
        for part in ("name", "generator_hash", "suite"):
            self.run[part]
        if not isinstance(self.run["suite"]["hash"], str):
            raise ValueError(f"{RUN} does not say which suite was asked")
        kept = self.summary.get("results_hash")
        if kept is not None and kept != results_hash(self.folder):
            raise ValueError(f"{RESULTS} was changed after {SUMMARY} was made of it")
        scores: set[str] | None = None
        for sample in self.samples.values():
            if sample.case not in self.cases:
                raise ValueError(f"sample {sample.case}#{sample.sample} is of no case in {CASES}")
            scores = set(sample.scores) if scores is None else scores
            if scores != set(sample.scores):
                raise ValueError(f"sample {sample.case}#{sample.sample} has other scores than the first one")


def results_hash(root: Path) -> str:
    """SHA-256 over the lines of all samples and of the scores that came later."""
    return content_hash([file_hash(root / name) if (root / name).is_file() else "" for name in (RESULTS, MODEL_SCORES)])


def drop_errors(root: Path) -> None:
    """Take samples that ended in an error out of the results, with the scores that came later, so that they are asked again."""
    failed = {result.key for result in read_results(root / RESULTS) if result.finish_reason == "error"}
    for name in (RESULTS, MODEL_SCORES) if failed else ():
        if (root / name).is_file():
            lines = [line for line in (root / name).read_text(encoding="utf-8").split("\n") if line]
            rows = [(line, json.loads(line)) for line in lines]
            write_text(root / name, "".join(line + "\n" for line, row in rows if (row["case"], row["sample"]) not in failed))


def read_results(path: Path) -> list[SampleResult]:
    """All whole lines of a results file. Raises DataError for a damaged line and for a sample that occurs twice."""
    if not path.exists():
        return []
    results: list[SampleResult] = []
    seen: set[tuple[str, int]] = set()
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line:
            try:
                data = json.loads(line)
                scores = {name: Score(name, **score) for name, score in data.pop("scores").items()}
                tuples = {name: tuple(data.get(name, ())) for name in ("token_ids", "transcript", "calls")}
                results.append(SampleResult(**data | tuples, scores=scores))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DataError(f"{path}:{number}: damaged line: {error}", hint="remove the folder and evaluate again") from None
            if results[-1].key in seen:
                raise DataError(
                    f"{path}:{number}: sample {data['case']}#{data['sample']} occurs twice", hint="remove the folder and evaluate again"
                )
            seen.add(results[-1].key)
    return results


def read_model_scores(path: Path) -> dict[tuple[str, int, str], dict[str, Score]]:
    """Scores of models by case, sample and scorer."""
    found: dict[tuple[str, int, str], dict[str, Score]] = {}
    if path.exists():
        drop_torn_line(path)
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
            if line:
                try:
                    data = json.loads(line)
                    scores = {name: Score(name, **score) for name, score in data["scores"].items()}
                    found[data["case"], data["sample"], data["scorer"]] = scores
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    raise DataError(f"{path}:{number}: damaged line: {error}", hint="remove the folder and evaluate again") from None
    return found


def read_samples(root: Path) -> list[SampleResult]:
    """All samples of a folder with all their scores."""
    later: dict[tuple[str, int], dict[str, Score]] = {}
    for (case, sample, _), scores in read_model_scores(root / MODEL_SCORES).items():
        later.setdefault((case, sample), {}).update(scores)
    return [replace(result, scores={**result.scores, **later.get(result.key, {})}) for result in read_results(root / RESULTS)]


class ResultsWriter:
    """Appends a line a sample, each on disk before the next, so that a killed run keeps what it finished."""

    def __init__(self, path: Path) -> None:
        self._path = path
        drop_torn_line(path)
        self._stream = open(path, "ab", buffering=0)  # noqa: SIM115  (closed by close())

    def add(self, result: SampleResult) -> None:
        """Append one sample."""
        data = asdict(result)
        data["scores"] = scores_row(result.scores)
        self.add_row({key: value for key, value in data.items() if key not in OPTIONAL or value})

    def add_row(self, data: Mapping[str, Any]) -> None:
        """Append one line."""
        line = json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
        try:
            self._stream.write(line)
            os.fsync(self._stream.fileno())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InfrastructureError(
                    f"no space left while writing {self._path}", hint="free some space and run it again: it goes on"
                ) from error
            raise

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def scores_row(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Scores as JSON, by name."""
    return {name: {key: value for key, value in asdict(score).items() if key != "name"} for name, score in scores.items()}


def drop_torn_line(path: Path) -> None:
    """Cut a results file back to its last whole line (a kill can leave half of one)."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with open(path, "r+b") as stream:
                stream.truncate(whole)
