"""Low-rank adapters through PEFT: targets by module structure, parameter accounting, merge and unmerge."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posttrain.config.files import command_directory
from posttrain.errors import ModelError, suggest
from posttrain.models.settings import LoraSettings


@dataclass(frozen=True, slots=True)
class ParameterCount:
    """``full``: entries of the adapted matrices, sum of d * k. ``adapter``: sum of rank * (d + k). ``total``: the whole model."""

    adapter: int
    full: int
    total: int

    @property
    def share(self) -> float:
        """Adapter entries over entries of the matrices they adapt."""
        return self.adapter / self.full


def adapter_size(rank: int, outputs: int, inputs: int) -> int:
    """Entries of A [rank, inputs] and B [outputs, rank]: ``rank * (outputs + inputs)``."""
    return rank * (outputs + inputs)


def find_targets(model: nn.Module, targets: str | tuple[str, ...]) -> list[str]:
    """Names of the linear modules a preset or list means, as PEFT's ``target_modules`` wants them.

    A linear layer belongs to the attention when it sits in a decoder layer's child whose name contains "attn" or "attention", to the MLP
    when it sits anywhere else in a decoder layer. Raises ModelError when nothing or an unknown name is meant.
    """
    attention: set[str] = set()
    mlp: set[str] = set()
    for layer in model.base_model.layers:  # type: ignore[union-attr]
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear):
                inside = name.split(".")[0].lower()
                (attention if "attn" in inside or "attention" in inside else mlp).add(name.split(".")[-1])
    chosen = {"attention": attention, "attention+mlp": attention | mlp}.get(targets) if isinstance(targets, str) else set(targets)
    if not chosen:
        raise ModelError(f"LoRA targets '{targets}' name no linear layer of this model", hint=suggest(str(targets), attention | mlp))
    for name in chosen:
        if name not in attention | mlp:
            raise ModelError(f"LoRA target '{name}' is no linear layer of this model's decoder", hint=suggest(name, attention | mlp))
    return sorted(chosen)


def add_adapter(model: Any, settings: LoraSettings, *, seed: int, task_type: str | None = "CAUSAL_LM") -> Any:
    """Freeze ``model`` and wrap it with fresh adapters; the same seed gives the same A (B starts at zero). ``task_type`` is PEFT's."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.resolved_alpha,
        lora_dropout=settings.dropout,
        target_modules=find_targets(model, settings.targets),
        task_type=task_type,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with warnings.catch_warnings():  # peft asks transformers for gradient checkpointing under its old name
            warnings.simplefilter("ignore", FutureWarning)
            return get_peft_model(model, config, autocast_adapter_dtype=False)


def count_parameters(model: Any, settings: LoraSettings) -> ParameterCount:
    """What ``settings`` would add to ``model``: sum of ``rank * (d + k)`` over the targeted matrices, beside their d * k."""
    names = set(find_targets(model, settings.targets))
    shapes = [
        (module.out_features, module.in_features)
        for layer in model.base_model.layers
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in names
    ]
    return ParameterCount(
        adapter=sum(adapter_size(settings.rank, outputs, inputs) for outputs, inputs in shapes),
        full=sum(outputs * inputs for outputs, inputs in shapes),
        total=sum(parameter.numel() for parameter in model.parameters()),
    )


def merge(model: Any) -> dict[str, torch.Tensor]:
    """Add ``(alpha / r) B A`` to the base weights in place. Returns the original weights, which :func:`unmerge` puts back bit for bit."""
    from peft.tuners.lora import LoraLayer

    originals = {
        name: layer.get_base_layer().weight.detach().clone() for name, layer in model.named_modules() if isinstance(layer, LoraLayer)
    }
    model.merge_adapter()
    return originals


@torch.no_grad()
def unmerge(model: Any, originals: Mapping[str, torch.Tensor]) -> None:
    """Undo :func:`merge`: subtracting would leave rounding behind, so the weights kept are copied back."""
    model.unmerge_adapter()
    modules = dict(model.named_modules())
    for name, weight in originals.items():
        modules[name].get_base_layer().weight.copy_(weight)


@contextmanager
def merged(model: Any) -> Iterator[Any]:
    """The model with its adapter merged for the length of the block."""
    originals = merge(model)
    try:
        yield model
    finally:
        unmerge(model, originals)


def merge_adapter(base_path: str | Path, adapter_path: str | Path, out: str | Path) -> Path:
    """Write ``base + (alpha / r) B A`` as a plain Hugging Face folder, products in float32, weights in the base's dtype. Returns
    ``out``. Raises ConfigError where ``out`` holds anything but an earlier merge.
    """
    from posttrain.models.loading import load_for_inference, tokenizer_files
    from posttrain.models.weights import quiet_transformers

    with command_directory(out, "posttrain models merge") as folder, quiet_transformers():
        model = load_for_inference(base_path, adapter_path, dtype="float32", merge=True)
        model.save_pretrained(folder)
        for file in {file.name: file for source in (base_path, adapter_path) for file in tokenizer_files(source)}.values():
            (folder / file.name).write_bytes(file.read_bytes())
    return Path(out)
