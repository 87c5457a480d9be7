"""What a sweep starts from: a stage's settings, its start model and its training pairs, and pairs held out from them."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from posttrain.config import apply_overrides, content_hash, read_yaml
from posttrain.data import card_path, read_records, write_jsonl
from posttrain.data.preference_sets import dialogue_key
from posttrain.errors import ConfigError, DataError, suggest
from posttrain.recipes.display import SilentDisplay
from posttrain.recipes.recipe import LoadedRecipe, StageEntry, load_recipe, stage_files, with_files
from posttrain.recipes.run import run_recipe
from posttrain.recipes.steps import StepResult
from posttrain.records import PreferencePair, UnpairedLabel

KIND = "preference"
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class SweepSource:
    """The stage as it would run once. ``settings``: raw, with ``data`` as the file to train on. ``adapter``: of the model before it.

    ``parents``: lineage ids of the recipe's model and data; empty outside a recipe.
    """

    name: str
    model: Path
    adapter: Path | None
    settings: Mapping[str, Any]
    parents: tuple[str, ...] = ()

    @property
    def data(self) -> Path:
        """The file of training rows."""
        return Path(self.settings["data"])


def open_source(
    path: str | Path, *, stage: str = "", model: str = "", run_dir: str | Path = "", overrides: Sequence[str] = ()
) -> SweepSource:
    """From a recipe (its stage's clean data and start model, as its own run made them) or from a file of stage settings with ``model``.

    stage: name or kind of the recipe's stage, may be left out where there is one. run_dir: the recipe's output folder, runs/<name> when
    left out. Raises ConfigError for a stage that is not there and for a recipe that has not been run up to the stage.
    """
    if "stages" in read_yaml(path):
        loaded = load_recipe(path, overrides)
        return _from_recipe(loaded, _find_stage(loaded, stage), Path(run_dir or Path("runs") / loaded.recipe.name), model)
    from posttrain.models import find_model

    settings = apply_overrides(read_yaml(path), overrides)
    if not model or "data" not in settings:
        what = "'data'" if model else "a start model"
        raise ConfigError(f"{path}: settings of a single stage need {what}", hint="add `data: FILE`" if model else "name it: --model MODEL")
    return SweepSource(Path(path).stem, find_model(model), None, settings)


def _find_stage(loaded: LoadedRecipe, stage: str) -> StageEntry:
    entries = [entry for entry in loaded.recipe.stages if entry.kind == KIND]
    named = [entry for entry in entries if stage in ("", entry.name, entry.kind)]
    if len(named) != 1:
        problem = f"has no {KIND} stage '{stage}'" if not named else f"has {len(named)} {KIND} stages"
        raise ConfigError(f"{loaded.path} {problem}", hint="name one with --stage; " + suggest(stage, [entry.name for entry in entries]))
    return named[0]


def _from_recipe(loaded: LoadedRecipe, entry: StageEntry, out: Path, model: str) -> SweepSource:
    from posttrain.models import find_model

    again = f"run the recipe up to there first: posttrain run {loaded.path} --out {out}"
    if not out.is_dir():
        raise ConfigError(f"{out}: '{loaded.recipe.name}' has not been run, so there is no start model and no clean data", hint=again)
    steps = {step.name: step for step in run_recipe(loaded, out, display=SilentDisplay(), dry_run=True).steps}

    def finished(name: str) -> StepResult:
        if steps[name].state != "reused":
            raise ConfigError(f"{out}: step '{name}' has not been run with these settings", hint=again)
        return steps[name]

    data = finished(f"curate-{entry.name}").outputs
    settings = with_files(entry.settings, stage_files(loaded, entry))
    settings |= {"data": data["path"], "training": {"seed": loaded.recipe.seed, **(entry.settings.get("training") or {})}}
    if model:
        return SweepSource(entry.name, find_model(model), None, settings, (data["lineage"],))
    from posttrain.stages import STAGES

    place = loaded.recipe.stages.index(entry)
    before = [f"{n + 1}-{e.name}" for n, e in enumerate(loaded.recipe.stages[:place]) if STAGES.get(e.kind).makes == "policy"]
    made = finished(before[-1] if before else "start-model").outputs
    adapter, parents = Path(made["adapter"]) if made.get("adapter") else None, (made["lineage"], data["lineage"])
    return SweepSource(entry.name, Path(made["path"]), adapter, settings, parents)


def hold_out(source: SweepSource, folder: Path, *, seed: int) -> tuple[SweepSource, Path]:
    """Training rows and held-out pairs (a tenth), divided by dialogue, written to ``folder`` with the data's card; source on the former.

    Which prompts are held out depends on their text and ``seed`` alone. Raises DataError where one side would be empty.
    """
    pairs = list(_read(source, source.data))
    if not isinstance(pairs[0], PreferencePair):
        raise DataError(f"{source.data}: holds no pairs, so none can be held out", hint="name held-out pairs: --test FILE")
    ranked = sorted({prompt_key(pair, seed) for pair in pairs})
    held_out = set(ranked[: max(2, round(HELD_OUT_SHARE * len(ranked)))])
    if len(ranked) < 3:
        raise DataError(f"{source.data}: {len(ranked)} prompts are too few to hold some out", hint="name held-out pairs: --test FILE")
    files = folder / "train.jsonl", folder / "held-out.jsonl"
    for file, is_held_out in zip(files, (False, True), strict=True):
        write_jsonl((pair for pair in pairs if (prompt_key(pair, seed) in held_out) is is_held_out), file)
        if card_path(source.data).is_file():
            shutil.copyfile(card_path(source.data), card_path(file))
    return replace(source, settings={**source.settings, "data": str(files[0])}), files[1]


def check_disjoint(source: SweepSource, held_out: Path) -> None:
    """DataError where a held-out dialogue is also trained on, at whatever turn: its figures would be those of memory."""
    trained = {prompt_key(record) for record in _read(source, source.data)}
    shared = sum(prompt_key(record) in trained for record in _read(source, held_out))
    if shared:
        raise DataError(
            f"{held_out}: {shared} of its rows are of dialogues that are also in {source.data}",
            hint="leave them out, or leave --test out: a tenth of the prompts is then held out",
        )


def prompt_key(record: PreferencePair | UnpairedLabel, seed: int = 0) -> str:
    """A hash of the dialogue a row belongs to, by its first user turn; ``seed`` shuffles the order of the hashes."""
    return content_hash([seed, dialogue_key(record)])


def _read(source: SweepSource, path: Path) -> Iterator[PreferencePair | UnpairedLabel]:
    for record in read_records(path, on_bad_row=source.settings.get("on_bad_row", "stop")):
        if not isinstance(record, PreferencePair | UnpairedLabel):
            raise DataError(f"{path}: holds neither pairs nor labelled answers", hint="a sweep is over a preference stage")
        yield record
