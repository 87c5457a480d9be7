"""A recipe: one file from the start model to the gate, validated before anything runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.config import Config, apply_overrides, model_cache, parse, read_yaml
from posttrain.errors import ConfigError, suggest
from posttrain.lineage import check_loggers
from posttrain.stages import STAGES

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"


class TinyStart(Config):
    """A tiny Llama with random weights and a tokenizer trained on the recipe's own data: for learning the ropes and for tests."""

    vocabulary_size: int = Field(default=1024, ge=300, le=32768)
    """Entries of the byte-level BPE vocabulary."""
    hidden_size: int = Field(default=128, ge=16, le=1024)
    """Width of the residual stream."""
    num_layers: int = Field(default=4, ge=1, le=32)
    """Decoder layers."""
    num_heads: int = Field(default=4, ge=1, le=32)
    """Attention heads (key/value heads are half of them)."""
    context_length: int = Field(default=512, ge=64, le=8192)
    """Longest sequence in tokens."""


class StartModel(Config):
    """Where the recipe starts: a model by path, hub id or known name, or a tiny one made on the spot."""

    path: str = ""
    """A folder, a GGUF file, a hub id or a known name such as smollm2-135m."""
    tiny: TinyStart | None = None
    """Make a tiny model instead."""
    chat_template: str = ""
    """Use this chat template instead of the model's own: one that ships (chatml-tools) or a Jinja file of the project."""

    @model_validator(mode="after")
    def _one_of(self) -> "StartModel":
        if bool(self.path) == (self.tiny is not None):
            raise ValueError("give either a path or `tiny: {...}`")
        return self


class CurationSettings(Config):
    """Duplicates and contamination, before any training."""

    drop_duplicates: bool = True
    """Remove exact and near duplicates from the training data (they are listed in the report either way)."""
    near_duplicate_jaccard: float = Field(default=0.85, gt=0, le=1)
    """Shingle overlap from which two rows count as near duplicates."""
    ngram: int = Field(default=13, ge=5, le=50)
    """Tokens in a row that must agree for a training row to be called contaminated by a suite case."""
    waiver: str = ""
    """Go on in spite of contamination, for this written reason (recorded in the lineage)."""


class EvaluationSettings(Config):
    """How the recipe's evaluations generate. What is generated (temperature, length) is the suite's business."""

    batch_size: int = Field(default=16, ge=1, le=512)
    """Rows decoded together."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the generator."""


class LabelSettings(Config):
    """How judgements of several people become pairs (for data of comparisons)."""

    method: Literal["dawid_skene", "majority", "mean"] = "mean"
    """``dawid_skene`` weighs annotators by how reliable they are, ``mean`` takes the share of votes, ``majority`` a hard label."""
    min_confidence: float = Field(default=0.5, ge=0.5, lt=1)
    """Leave out pairs whose better answer is less certain than this: max(p, 1 - p)."""


class StageEntry(Config):
    """One training stage: its kind and settings, what it is meant to move, what must not suffer."""

    kind: str
    settings: dict[str, Any]
    name: str = Field(pattern=NAME_PATTERN)
    """Names the stage in the output folder, and a reward model in suites and later stages; the kind when left out."""
    labels: LabelSettings | None = None
    """The data are comparisons with judgements: check them and make pairs of them first."""
    target: str = ""
    """The metric this stage is meant to move."""
    guardrails: tuple[str, ...] = ()
    """Metrics that must not suffer."""


class Recipe(Config):
    """The whole file. Paths are relative to ``root``, which is relative to the recipe's own folder."""

    name: str = Field(pattern=NAME_PATTERN)
    """Names the output folder: small letters, digits, - and _."""
    root: str = "."
    """Folder the other paths start from, seen from the recipe's folder."""
    model: StartModel
    """The start model: a string is short for {path: ...}."""
    policy: str
    """The written rules, versioned."""
    suites: tuple[str, ...] = Field(min_length=1)
    """Evaluation suites, written and frozen before training: a recipe without one is refused."""
    gate: str
    """The release criteria."""
    seed: int = Field(default=17, ge=0, lt=2**31)
    """Decides every random choice of the run."""
    curation: CurationSettings = CurationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    stages: tuple[StageEntry, ...] = Field(min_length=1)
    """Training stages in order."""
    loggers: tuple[str | dict[str, dict[str, Any]], ...] = ("jsonl",)
    """Where curves go: names (jsonl, mlflow), or {name: {option: value}}."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        data = dict(data)
        if isinstance(data.get("model"), str):
            data["model"] = {"path": data["model"]}
        if isinstance(data.get("stages"), list):
            data["stages"] = [_stage(entry, number) for number, entry in enumerate(data["stages"])]
        return data


def _stage(entry: Any, number: int) -> Any:
    """``{sft: {...}, target: x}`` -> the fields of :class:`StageEntry`."""
    if not isinstance(entry, dict):
        return entry
    if "kind" in entry:
        return {"name": entry["kind"], **entry}
    extras = {key: value for key, value in entry.items() if key in ("name", "labels", "target", "guardrails")}
    kinds = [key for key in entry if key not in extras]
    if len(kinds) != 1:
        raise ValueError(f"stages.{number}: expected one stage kind ({', '.join(STAGES)}), found {kinds}")
    return {"kind": kinds[0], "settings": entry[kinds[0]] or {}, "name": kinds[0], **extras}


class LoadedRecipe(Config):
    """A recipe with its place: ``path`` the file, ``root`` the folder its paths start from."""

    recipe: Recipe
    path: Path
    root: Path

    def at(self, path: str) -> Path:
        """A path of the recipe as an absolute one."""
        return (self.root / path).resolve()

    def chat_template(self) -> str:
        """The text of the chat template the recipe gives its model; empty when the model keeps its own."""
        from posttrain.chat import template_text

        name = self.recipe.model.chat_template
        return template_text(self.at(name) if self.at(name).is_file() else name) if name else ""

    def model_source(self) -> str:
        """The start model as ``add_model`` takes it: a path of the recipe where one exists, else the name or hub id."""
        source = self.recipe.model.path
        place = self.at(str(Path(source).expanduser()))
        return str(place) if place.exists() else source


def stage_files(loaded: LoadedRecipe, entry: StageEntry) -> dict[str, Any]:
    """Settings of a stage that name files or folders besides ``data``, by dotted key, as absolute paths; reward models of the recipe are
    none."""
    stage, found, made = STAGES.get(entry.kind), dict[str, Any](), {other.name for other in loaded.recipe.stages}
    for key in (*stage.files, *stage.models):
        value: Any = entry.settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, dict):
            found[key] = {name: str(loaded.at(str(path))) for name, path in value.items()}
        elif isinstance(value, str) and key in stage.models:
            place = loaded.at(value) if loaded.at(value).exists() else model_cache() / value
            if value not in made and place.exists():
                found[key] = str(place)
        elif isinstance(value, str):
            found[key] = str(loaded.at(value))
    return found


def with_files(settings: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``settings`` with the values of ``files`` (dotted keys, as :func:`stage_files` gives them) in their places."""
    made = dict(settings)
    for key, value in files.items():
        head, _, rest = key.partition(".")
        made[head] = with_files(made[head], {rest: value}) if rest else value
    return made


def _check_files(loaded: LoadedRecipe, number: int) -> None:
    """Every file a stage names is there, and every reward model it names is trained before it, a folder, or in the model cache.

    Its data may be trained on, as far as their card says.
    """
    from posttrain.data import check_consent, load_card

    entry, where = loaded.recipe.stages[number], f"{loaded.path}: stages.{number}.{loaded.recipe.stages[number].kind}"
    data = loaded.at(entry.settings["data"])
    for key, value in {"data": str(data), **stage_files(loaded, entry)}.items():
        for path in value.values() if isinstance(value, dict) else [value]:
            if not Path(path).exists():
                raise ConfigError(f"{where}.{key}: {path}: no such file", hint="paths start from `root`, seen from the recipe's folder")
    check_consent(load_card(data))
    earlier = [other.name for other in loaded.recipe.stages[:number] if STAGES.get(other.kind).makes == "reward_model"]
    for key in STAGES.get(entry.kind).models:
        value = entry.settings.get(key)
        if isinstance(value, str) and value not in earlier and not loaded.at(value).exists() and not (model_cache() / value).exists():
            raise ConfigError(f"{where}.{key}: no earlier stage and no folder is called '{value}'", hint=suggest(value, earlier))


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, override and validate a recipe with everything it names, before anything runs.

    Raises ConfigError, and CheckFailed for data without a card, licence or consent.
    """
    file = Path(path).resolve()
    data = apply_overrides(read_yaml(path), overrides)
    if "suites" not in data or not data["suites"]:
        raise ConfigError(
            f"{path}: no suite: evals come first", hint="write a suite (`posttrain init` shows one) and name it under `suites:`"
        )
    recipe = parse(Recipe, data, where=str(path))
    loaded = LoadedRecipe(recipe=recipe, path=file, root=(file.parent / recipe.root).resolve())
    names: list[str] = []
    for number, entry in enumerate(recipe.stages):
        if entry.kind not in STAGES:
            raise ConfigError(f"{path}: stages.{number}: unknown stage '{entry.kind}'", hint=suggest(entry.kind, STAGES))
        STAGES.get(entry.kind).parse(entry.settings, where=f"{path}: stages.{number}.{entry.kind}")
        if entry.name in names:
            raise ConfigError(f"{path}: stages.{number}: two stages are called '{entry.name}'", hint="give one of them a `name:`")
        names.append(entry.name)
    if all(STAGES.get(entry.kind).makes != "policy" for entry in recipe.stages):
        raise ConfigError(f"{path}: no stage trains the policy", hint="add one: sft, preference, ppo")
    check_loggers(recipe.loggers)
    for number in range(len(recipe.stages)):
        _check_files(loaded, number)
    for field, value in (("policy", recipe.policy), ("gate", recipe.gate), *(("suites", suite) for suite in recipe.suites)):
        if not loaded.at(value).is_file():
            raise ConfigError(
                f"{path}: {field}: {loaded.at(value)}: no such file", hint="paths start from `root`, seen from the recipe's folder"
            )
    return loaded
