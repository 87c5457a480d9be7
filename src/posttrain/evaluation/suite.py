"""A suite: a YAML file that says what is asked, how it is sampled and how it is scored, written before training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

import posttrain.evaluation.scoring  # noqa: F401  (registers the built-in scorers)
from posttrain.config import Config, content_hash, file_hash, parse, read_yaml
from posttrain.episodes import EpisodeSettings
from posttrain.errors import ConfigError
from posttrain.evaluation.cases import Case, read_cases
from posttrain.evaluation.scores import ModelScorer, Scorer, ScorerContext, scorers
from posttrain.records import SamplingSettings


class SamplingConfig(Config):
    """How answers are decoded. temperature 0 is greedy."""

    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer."""
    temperature: float = Field(default=0.0, ge=0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus: sample from the smallest set of tokens with this much probability."""
    top_k: int = Field(default=0, ge=0)
    """Sample from this many likeliest tokens; 0 is all."""
    stop: tuple[str, ...] = ()
    """Strings that end an answer."""
    seed: int = Field(default=0, ge=0)
    """Sample i of a case uses seed + i."""

    def settings(self, sample: int = 0) -> SamplingSettings:
        """The generator's form for one sample of a case."""
        return SamplingSettings(**(self.model_dump() | {"seed": self.seed + sample}))


class SuiteConfig(Config):
    """The suite file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """Short name, small letters."""
    version: str = Field(min_length=1)
    """Raised with every change; quote it (`version: "1.0"`)."""
    description: str = ""
    """What the suite is for and where its cases come from."""
    cases: str
    """JSONL file of cases, relative to this file."""
    sampling: SamplingConfig = SamplingConfig()
    """How answers are decoded."""
    samples_per_case: int = Field(1, ge=1, le=1000)
    """Answers drawn for each case; more than one gives pass@k and needs a temperature."""
    episode: EpisodeSettings | None = None
    """Cases with tools run as episodes within these limits; the world a case names answers the calls, without one they are recorded."""
    scorers: tuple[dict[str, dict[str, Any] | None], ...] = Field(min_length=1)
    """Each is one scorer with its options: ``- json_schema: {file: answer.schema.json}``."""
    slices: tuple[str, ...] = ()
    """Slices a case may name; empty accepts any."""
    max_unscored_share: float = Field(0.02, ge=0, le=1)
    """Above this share of samples a scorer could not score, the gate stops as an infrastructure failure."""
    allow_python: bool = False
    """Let `python` scorers run code from files beside the suite."""

    @property
    def settings(self) -> dict[str, Any]:
        """What counts for the suite's hash besides cases and files. A suite without episodes hashes as before there were any."""
        unset = {"episode"} if self.episode is None else set()
        return self.model_dump(mode="json", exclude=unset) | {"cases": "", "description": ""}


@dataclass(frozen=True, slots=True)
class BuiltScorer:
    """A scorer of a suite: its registered kind, its name, the score names it yields."""

    kind: str
    name: str
    outputs: tuple[str, ...]
    used_in_training: bool
    score: Scorer | ModelScorer
    needs_models: bool = False
    reward_role: str = ""
    amounts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """A loaded suite. ``hash`` covers settings, cases and every file the scorers read."""

    config: SuiteConfig
    path: Path
    cases: tuple[Case, ...]
    scorers: tuple[BuiltScorer, ...]
    files: Mapping[str, str]
    hash: str

    @property
    def cases_path(self) -> Path:
        """Where the cases are."""
        return self.path.parent / self.config.cases

    @property
    def texts(self) -> dict[str, str]:
        """Case id to what is the case's own (no system prompt), for contamination checks."""
        return {case.id: case.text for case in self.cases}

    @property
    def slices(self) -> tuple[str, ...]:
        """Declared slices first, then others in order of appearance; only those with a case."""
        seen = dict.fromkeys(name for case in self.cases for name in case.slices)
        return (*[name for name in self.config.slices if name in seen], *[name for name in seen if name not in self.config.slices])

    @property
    def needs_models(self) -> bool:
        """Whether some score is a model's."""
        return any(scorer.needs_models for scorer in self.scorers)

    @property
    def reward_roles(self) -> tuple[str, ...]:
        """The reward models it scores with, by role."""
        return tuple(dict.fromkeys(scorer.reward_role for scorer in self.scorers if scorer.reward_role))

    @property
    def amount_names(self) -> frozenset[str]:
        """Scores that are known to be amounts before a sample is scored."""
        return frozenset(name for scorer in self.scorers for name in scorer.amounts)

    @property
    def score_names(self) -> tuple[str, ...]:
        """All scores a sample gets."""
        return tuple(name for scorer in self.scorers for name in scorer.outputs)


def load_suite(path: str | Path) -> Suite:
    """Read, validate and build a suite; nothing is run. A suite changed since it was frozen is refused (see ``freeze``)."""
    from posttrain.evaluation.freeze import check_frozen

    suite = read_suite(path)
    check_frozen(suite)
    return suite


def read_suite(path: str | Path) -> Suite:
    """As :func:`load_suite`, without looking at the lock file."""
    file = Path(path)
    config = parse(SuiteConfig, read_yaml(file), where=str(file))
    cases = read_cases(file.parent / config.cases)
    if config.slices:
        for case in cases:
            for name in case.slices:
                if name not in config.slices:
                    from posttrain.errors import suggest

                    where = f"{file.parent / config.cases}:{case.line}"
                    raise ConfigError(f"{where}: slice '{name}' is not declared in {file}", hint=suggest(name, config.slices))
    if config.samples_per_case > 1 and config.sampling.temperature == 0:
        raise ConfigError(f"{file}: samples_per_case {config.samples_per_case} with temperature 0 gives the same answer each time")
    built, files = _build_scorers(config, file)
    identity = {"settings": config.settings, "cases": [case.hash for case in cases], "files": files}
    return Suite(config, file, tuple(cases), built, files, "suite:" + content_hash(identity))


def _build_scorers(config: SuiteConfig, file: Path) -> tuple[tuple[BuiltScorer, ...], dict[str, str]]:
    context = ScorerContext(file.parent, config.allow_python)
    built: list[BuiltScorer] = []
    files: dict[str, str] = {}
    for number, entry in enumerate(config.scorers):
        if len(entry) != 1:
            raise ConfigError(
                f"{file}: scorers.{number}: expected one scorer, found {', '.join(entry) or 'none'}", hint="start each with a dash"
            )
        kind_name, raw = next(iter(entry.items()))
        kind = scorers.get(kind_name)
        options = parse(kind.options, raw or {}, where=f"{file}: scorers.{number}.{kind_name}")
        name = options.name or kind_name
        outputs = tuple(kind.outputs(name))
        taken = {output for scorer in built for output in scorer.outputs} & {*outputs}
        if taken:
            raise ConfigError(f"{file}: scorers.{number}: two scores are called '{min(taken)}'", hint="give one of the scorers a `name:`")
        for dependency in kind.files(options):
            if not (file.parent / dependency).is_file():
                raise ConfigError(f"{file}: scorers.{number}.{kind_name}: no file {file.parent / dependency}")
            files[dependency] = file_hash(file.parent / dependency)
        built.append(
            BuiltScorer(
                kind_name,
                name,
                outputs,
                options.used_in_training,
                kind.build(options, name, context),
                kind.needs_models,
                getattr(options, "model", ""),
                tuple(kind.amounts(options, name)),
            )
        )
    return tuple(built), files
