"""Which models the generator can run exactly, how long their context is, and what names their weights."""

from pathlib import Path
from typing import Any

import torch

from posttrain.config import content_hash
from posttrain.config.base import file_hash
from posttrain.errors import ModelError
from posttrain.generation.batch import Batch, slot_attention_of
from posttrain.generation.row import Row
from posttrain.records import SamplingSettings

PROBE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference between the generator's logits and the model's own, relative to the largest logit."""
ATTENTION_KINDS = {"full_attention", "sliding_attention"}


def context_length(config: Any) -> int:
    """How many tokens a sequence may have. Where rotary embeddings change with length (longrope), the length up to which they do not."""
    length = getattr(config, "max_position_embeddings", None)
    if not length:
        raise ModelError(f"'{config.model_type}' states no max_position_embeddings", hint="add it to the model's config.json")
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("longrope", "dynamic"):
        original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        length = min(length, original or length)
    return int(length)


def check_model(model: Any) -> None:
    """Compare the generator's logits with the model's own on a short prompt, computed in two parts. Raises ModelError when they differ."""
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"]) - ATTENTION_KINDS
    if kinds:
        raise ModelError(
            f"'{config.model_type}' has layers of kind {', '.join(sorted(kinds))}, which the generator does not run",
            hint="choose a model whose layers are all softmax attention, full or with a sliding window",
        )
    vocab = model.get_input_embeddings().weight.shape[0]
    ids = [(7 * i + 3) % vocab for i in range(12)]
    device = next(model.parameters()).device
    with torch.inference_mode():
        theirs = model(input_ids=torch.tensor([ids], device=device), use_cache=False, logits_to_keep=1).logits[0, -1].float()
    seen: list[torch.Tensor] = []
    batch = Batch(model, num_rows=1, num_positions=len(ids) + 1, end_ids=())
    with slot_attention_of(model):
        for length in (9, len(ids)):
            batch.submit(Row(ids[:length], SamplingSettings(), 1, constraint=_Witness(seen)))
            while not batch.step():
                pass
    error = float((seen[-1] - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6))
    if not error <= PROBE_TOLERANCE.get(theirs.dtype if model.dtype not in PROBE_TOLERANCE else model.dtype, 1e-3):
        raise ModelError(
            f"'{config.model_type}' does not give its own logits under the generator's attention (relative difference {error:.1e})",
            hint="choose another model family, or serve this one behind an endpoint",
        )


class _Witness:
    """A constraint that allows everything and keeps the logits it is shown."""

    is_finished = False

    def __init__(self, seen: list[torch.Tensor]) -> None:
        self._seen = seen

    def mask(self, logits: torch.Tensor) -> None:
        """Keep a copy."""
        self._seen.append(logits.clone())

    def push(self, token: int) -> None:
        """Nothing follows from a token."""

    def forced(self) -> list[int]:
        """Never anything."""
        return []


def folder_hash(folder: Path) -> str:
    """``"sha256:..."`` over the weight and configuration files of a model or adapter folder."""
    files = sorted(path for pattern in ("*.safetensors", "*.bin", "config.json", "adapter_config.json") for path in folder.glob(pattern))
    return "sha256:" + content_hash({path.name: file_hash(path) for path in files})
