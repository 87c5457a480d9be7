"""Run a suite on a generator: ask, score, write each sample as it finishes, go on after a kill, sum up."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from posttrain.config import content_hash, file_hash
from posttrain.config.files import write_json, write_text
from posttrain.episodes.progress import plain
from posttrain.errors import ConfigError
from posttrain.evaluation.cache import GenerationCache, episode_rows, request_hash
from posttrain.evaluation.cases import Case
from posttrain.evaluation.episodes import Versions, answer_with_tools, changed_versions, depends_on, is_episode, world_versions
from posttrain.evaluation.freeze import read_lock
from posttrain.evaluation.machine import machine_name
from posttrain.evaluation.results import (
    CASES,
    MODEL_SCORES,
    RESULTS,
    RUN,
    SUMMARY,
    CaseInfo,
    EvaluationResult,
    ResultsWriter,
    SampleResult,
    drop_errors,
    drop_torn_line,
    read_model_scores,
    read_results,
    read_samples,
    results_hash,
    scores_row,
)
from posttrain.evaluation.scores import Asked, ModelScorer, Score, Scorer, ScoringModels, unscored
from posttrain.evaluation.suite import BuiltScorer, Suite
from posttrain.evaluation.summary import summarise
from posttrain.records import CallRecord, Generation, GenerationRequest

if TYPE_CHECKING:
    from posttrain.generation import Generator


@dataclass(frozen=True, slots=True)
class EvaluationProgress:
    """How far an evaluation is. ``num_reused`` samples were there from an earlier run, ``num_cached`` came from the cache."""

    num_done: int
    num_total: int
    num_reused: int
    num_cached: int


def evaluate(
    suite: Suite,
    generator: "Generator",
    *,
    out_dir: str | Path,
    cache_dir: str | Path | None = None,
    on_progress: Callable[[EvaluationProgress], None] | None = None,
    name: str = "",
    trained_at: str | None = None,
    concurrency: int | None = None,
    models: ScoringModels | None = None,
) -> EvaluationResult:
    """Ask every case, score every answer, return the results as they lie in ``out_dir``.

    Samples are written one by one; called again after a kill it goes on where it was, and a finished folder is only read.
    A folder that holds results of another suite, model or setting raises ConfigError and is left alone. ``name`` is shown in
    reports; ``trained_at`` (ISO time with zone) is when training of this model began, for the check that the suite was frozen
    before; ``concurrency`` is how many requests run at once (the generator's batch size when it has one), which latency is kept by;
    ``models`` are those that model scorers (reward, likelihood, drift) need: a suite that has some raises ConfigError without them.
    """
    root = Path(out_dir)
    cache = GenerationCache(Path(cache_dir) if cache_dir is not None else None)
    at_once: int = getattr(generator, "batch_size", 1) if concurrency is None else concurrency
    if suite.needs_models and models is None:
        names = ", ".join(scorer.name for scorer in suite.scorers if scorer.needs_models)
        raise ConfigError(f"{suite.path}: the scores {names} need models, and none were given", hint="see `posttrain eval --help`")
    versions = world_versions(suite)
    _open_folder(root, suite, generator.identity, name, trained_at, models, versions)
    drop_torn_line(root / RESULTS)
    drop_errors(root)
    done = {result.key for result in read_results(root / RESULTS)}
    wanted = [(case, sample) for case in suite.cases for sample in range(suite.config.samples_per_case)]
    todo = [(case, sample) for case, sample in wanted if (case.id, sample) not in done]
    progress = _Counter(len(wanted), len(wanted) - len(todo), on_progress)
    writer = ResultsWriter(root / RESULTS)
    try:
        ask = _answer_cached(suite, todo, generator.identity, versions, cache, writer, progress)
        _answer_rest(suite, ask, generator, cache, writer, progress, at_once)
    finally:
        writer.close()
    if models is not None:
        _score_with_models(suite, root, models)
    samples = read_samples(root)
    order = {(case.id, sample): place for place, (case, sample) in enumerate(wanted)}
    samples.sort(key=lambda result: order[result.key])
    infos = case_infos(suite)
    figures = summarise(samples, infos, suite.slices, suite.score_names)
    run = json.loads((root / RUN).read_text(encoding="utf-8"))
    write_json(root / SUMMARY, {"format": 1, **run, **figures, "results_hash": results_hash(root)})
    return EvaluationResult.load(root)


_Todo = tuple[Case, int]
_Asked = tuple[Case, int, GenerationRequest, str]


def _score_with_models(suite: Suite, root: Path, models: ScoringModels) -> None:
    """Scores that need a model, scorer by scorer, written as they come; those there from an earlier run are not made again."""
    cases = {case.id: case for case in suite.cases}
    results, done = read_results(root / RESULTS), read_model_scores(root / MODEL_SCORES)
    writer = ResultsWriter(root / MODEL_SCORES)
    try:
        for built in suite.scorers:
            todo = [result for result in results if (*result.key, built.name) not in done] if built.needs_models else []
            answered = [result for result in todo if result.finish_reason != "error"]
            asked = [Asked(cases[result.case], result.text, result.token_ids) for result in answered]
            scores = cast(ModelScorer, built.score)(asked, models) if asked else iter(())
            for result in todo:
                found = next(scores) if result.finish_reason != "error" else [unscored(n, "no answer was generated") for n in built.outputs]
                row = {"case": result.case, "sample": result.sample, "scorer": built.name}
                writer.add_row({**row, "scores": scores_row({score.name: score for score in found})})
    finally:
        writer.close()
        models.close_policy()


def _answer_cached(
    suite: Suite,
    todo: list[_Todo],
    identity: Mapping[str, Any],
    versions: Versions,
    cache: GenerationCache,
    writer: ResultsWriter,
    progress: "_Counter",
) -> list[_Asked]:
    """Write the samples whose answers are in the cache; return the others with their requests and cache keys."""
    ask: list[_Asked] = []
    for case, sample in todo:
        request = GenerationRequest(case.messages, case.tools, suite.config.sampling.settings(sample), f"{case.id}#{sample}")
        key = request_hash(identity, request, depends_on(suite, case, versions))
        found = cache.get(key)
        if found is None:
            ask.append((case, sample, request, key))
        else:
            writer.add(_result(suite.scorers, case, sample, found, seconds=None, concurrency=0))
            progress.add(cached=True)
    return ask


def _answer_rest(
    suite: Suite,
    ask: list[_Asked],
    generator: "Generator",
    cache: GenerationCache,
    writer: ResultsWriter,
    progress: "_Counter",
    concurrency: int,
) -> None:
    """Generate what is missing; every answer is cached, scored and written as it arrives."""

    def keep(asked: list[_Asked], index: int, generation: Generation) -> None:
        case, sample, _, key = asked[index]
        calls = tuple(CallRecord(**plain(asdict(call))) for call in generation.calls)
        generation = replace(generation, text=plain(generation.text), calls=calls)  # half of a surrogate pair is no text
        if generation.finish_reason != "error":
            cache.put(key, generation)
        writer.add(_result(suite.scorers, case, sample, generation, seconds=generation.seconds, concurrency=concurrency))
        progress.add(cached=False)

    single = [asked for asked in ask if not is_episode(suite, asked[0])]
    if single:
        generator.generate([request for _, _, request, _ in single], on_done=partial(keep, single))
    episodes = [asked for asked in ask if is_episode(suite, asked[0])]
    if episodes:
        requests = [(case, request) for case, _, request, _ in episodes]
        answer_with_tools(suite, requests, generator, partial(keep, episodes), concurrency)


def _result(
    built: Sequence[BuiltScorer], case: Case, sample: int, generation: Generation, *, seconds: float | None, concurrency: int
) -> SampleResult:
    return SampleResult(
        case=case.id,
        sample=sample,
        text=generation.text,
        finish_reason=generation.finish_reason,
        num_prompt_tokens=generation.num_prompt_tokens,
        num_completion_tokens=generation.num_completion_tokens,
        seconds=seconds,
        machine=machine_name() if seconds is not None else "",
        concurrency=concurrency,
        scores=score_sample(built, case, generation),
        token_ids=tuple(generation.token_ids) if any(scorer.needs_models for scorer in built) else (),
        **episode_rows(generation),
    )


def score_sample(built: Iterable[BuiltScorer], case: Case, generation: Generation) -> dict[str, Score]:
    """Every score of one sample that needs no model. An answer that never came (``finish_reason`` "error") is unscored, not wrong."""
    scores: dict[str, Score] = {}
    for scorer in built:
        if scorer.needs_models:
            continue
        if generation.finish_reason == "error":
            reason = str(generation.outcome.get("error", "no answer was generated"))
            scores |= {output: unscored(output, reason) for output in scorer.outputs}
        else:
            scores |= {score.name: score for score in cast(Scorer, scorer.score)(case, generation)}
    return scores


def _open_folder(
    root: Path,
    suite: Suite,
    identity: Mapping[str, Any],
    name: str,
    trained_at: str | None,
    models: ScoringModels | None,
    versions: Versions,
) -> None:
    lock = read_lock(suite.path)
    used = sorted(output for scorer in suite.scorers if scorer.used_in_training for output in scorer.outputs)
    run: dict[str, Any] = {
        "name": name or str(identity.get("adapter") or identity.get("model") or "model")[:40],
        "suite": {
            "name": suite.config.name,
            "version": suite.config.version,
            "hash": suite.hash,
            "frozen_at": lock["frozen_at"] if lock else None,
            "slices": list(suite.slices),
            "scores": list(suite.score_names),
            "kinds": {output: scorer.kind for scorer in suite.scorers for output in scorer.outputs},
            "used_in_training": used,
            "max_unscored_share": suite.config.max_unscored_share,
        },
        "generator": dict(identity),
        "generator_hash": content_hash(identity),
        "trained_at": trained_at,
        "models": _identity_of(models) if models and suite.needs_models else {},
        "worlds": versions,
    }
    if (root / RUN).is_file():
        before = json.loads((root / RUN).read_text(encoding="utf-8"))
        had = before.get("worlds", {})
        for what, old, new in (
            ("suite", before["suite"]["hash"], suite.hash),
            ("model or generator", before["generator_hash"], run["generator_hash"]),
            ("reference or reward model", content_hash(before.get("models", {})), content_hash(run["models"])),
            (f"version of {changed_versions(had, versions)}", content_hash(had), content_hash(versions)),
        ):
            if old != new:
                raise ConfigError(f"{root} holds results of another {what} ({old[:18]}, now {new[:18]})", hint="use another folder")
        return
    write_text(root / CASES, "".join(json.dumps(asdict(info), ensure_ascii=False) + "\n" for info in case_infos(suite).values()))
    write_json(root / RUN, run)


def _identity_of(models: ScoringModels) -> dict[str, str]:
    """Which weights play which role."""
    folders = {"reference": models.reference, **{f"reward {name}": path for name, path in models.rewards.items()}}
    weights = {
        name: sorted(file for pattern in ("*.safetensors", "pytorch_model*.bin") for file in Path(path).glob(pattern))
        for name, path in folders.items()
        if path is not None
    }
    return {"dtype": models.dtype} | {name: content_hash([file_hash(file) for file in files]) for name, files in weights.items()}


def case_infos(suite: Suite) -> dict[str, CaseInfo]:
    """What results keep of the suite's cases, by id."""
    infos, groups = {}, suite.groups
    for case in suite.cases:
        messages = tuple({key: value for key, value in asdict(message).items() if value} for message in case.messages)
        infos[case.id] = CaseInfo(case.id, messages, case.expected, case.slices, groups[case.id])
    return infos


class _Counter:
    def __init__(self, total: int, reused: int, listener: Callable[[EvaluationProgress], None] | None) -> None:
        self._total, self._reused, self._listener = total, reused, listener
        self._done, self._cached = reused, 0
        self._tell()

    def add(self, *, cached: bool) -> None:
        self._done += 1
        self._cached += cached
        self._tell()

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener(EvaluationProgress(self._done, self._total, self._reused, self._cached))
