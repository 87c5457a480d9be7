"""What a model folder holds, without reading its weights: only their names and shapes."""

from pathlib import Path
from typing import Any

from posttrain.config import parse
from posttrain.models.families import choose_layout
from posttrain.models.loading import find_model
from posttrain.models.lora import ParameterCount, count_parameters
from posttrain.models.settings import LoraSettings
from posttrain.models.sources import PROVENANCE_FILE, verify_model
from posttrain.models.weights import open_skeleton


def describe(source: str | Path) -> dict[str, Any]:
    """Family, layout ("forest" shares prefixes, "sequences" cannot), sizes, and the verified provenance where the folder has one."""
    folder = find_model(source)
    model = open_skeleton(folder)
    config = model.config.get_text_config()
    record: dict[str, Any] = {
        "path": str(folder),
        "family": model.config.model_type,
        "layout": choose_layout(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "vocabulary": config.vocab_size,
    }
    return {**record, **(verify_model(folder) if (folder / PROVENANCE_FILE).is_file() else {})}


def adapter_parameters(source: str | Path, rank: int, targets: str) -> ParameterCount:
    """Parameter accounting for an adapter on a model folder; ``targets``: a preset, or module names joined by commas."""
    settings = parse(LoraSettings, {"rank": rank, "targets": targets}, where="models params")
    return count_parameters(open_skeleton(find_model(source)), settings)
