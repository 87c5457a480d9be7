"""What a run is a run of: the parts a checkpoint is compared with before it is used."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from posttrain.config import content_hash
from posttrain.models import ForestModel
from posttrain.training.checkpoint import ALL_WEIGHTS
from posttrain.training.plan import BatchPlan
from posttrain.training.settings import TrainingSettings

_NOT_COMPUTED = {"architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "initializer_range", "id2label", "label2id"}


def run_identity(
    model: ForestModel, settings: TrainingSettings, plan: BatchPlan, data: str, contract_record: Mapping[str, Any]
) -> dict[str, Any]:
    """Contract, data, model, settings and the means of computing as plain JSON.

    Call it before anything was trained: it looks at the start weights.
    """
    return {
        "contract": {"hash": contract_record.get("hash", "")},
        "settings": settings.dump(),
        "data": {"steps": plan.num_steps, "content": data, "order": plan.hash},
        "model": {
            "compute_dtype": str(model.compute_dtype).removeprefix("torch."),
            "trainable_tensors": len(model.trainable()),
            "trainable_parameters": sum(parameter.numel() for parameter in model.trainable().values()),
            "start_weights": weights_fingerprint(model),
            "architecture": architecture_hash(model),
            "adapters": adapter_settings(model),
        },
        "computing": model.computing(),
    }


def architecture_hash(model: ForestModel) -> str:
    """Hash of what the model's configuration computes with the weights: sizes, norms, positions, activations; no names, no versions."""
    config = model.model.config.to_diff_dict()
    return content_hash({name: value for name, value in config.items() if not name.startswith("_") and name not in _NOT_COMPUTED})


def adapter_settings(model: ForestModel) -> dict[str, Any]:
    """What adapters compute beside their weights, by name: the numerator of the scale, and dropout. Empty for a full model."""
    found = getattr(model.model, "peft_config", {})
    return {name: {"alpha": one.lora_alpha, "dropout": one.lora_dropout, "rslora": one.use_rslora} for name, one in found.items()}


def weights_fingerprint(model: ForestModel) -> str:
    """``all:`` and SHA-256 over names, shapes, dtypes and every byte of every parameter: about half a second a gigabyte."""
    digest = hashlib.sha256()
    for name, parameter in model.model.named_parameters():
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(parameter.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
    return ALL_WEIGHTS + digest.hexdigest()
