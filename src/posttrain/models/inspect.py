"""What a model folder holds, without reading its weights."""

from pathlib import Path
from typing import Any

import torch

from posttrain.models.families import choose_layout
from posttrain.models.loading import find_model
from posttrain.models.lora import ParameterCount, count_parameters
from posttrain.models.settings import LoraSettings
from posttrain.models.sources import PROVENANCE_FILE, verify_model


def build_skeleton(source: str | Path) -> Any:
    """The model of a folder on the meta device: shapes, no weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(find_model(source), local_files_only=True)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        return model


def describe(source: str | Path) -> dict[str, Any]:
    """Family, layout ("forest" shares prefixes, "sequences" cannot), sizes, and the verified provenance where the folder has one."""
    folder, model = find_model(source), build_skeleton(source)
    record: dict[str, Any] = {
        "path": str(folder),
        "family": model.config.model_type,
        "layout": choose_layout(model.config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": model.config.num_hidden_layers,
        "hidden_size": model.config.hidden_size,
        "vocabulary": model.config.vocab_size,
    }
    return {**record, **(verify_model(folder) if (folder / PROVENANCE_FILE).is_file() else {})}


def adapter_parameters(source: str | Path, rank: int, targets: str) -> ParameterCount:
    """Parameter accounting for an adapter on a model folder; ``targets``: a preset, or module names joined by commas."""
    chosen: Any = targets if targets in ("attention", "attention+mlp") else tuple(targets.split(","))
    return count_parameters(build_skeleton(source), LoraSettings(rank=rank, targets=chosen))
