"""Low-rank adapters through PEFT: targets by module structure, parameter accounting, merge and unmerge."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from posttrain.config.files import atomic_directory, check_replaceable, write_json
from posttrain.errors import ConfigError, ModelError, suggest
from posttrain.models.quantization import kernel_advice_muted
from posttrain.models.settings import LoraSettings

MERGE_FILE = "merge.json"
"""In every merged folder, so that merging replaces those and no others."""


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


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers, wherever the family keeps them (``layers``, ``h``, ``decoder.layers``). Raises ModelError for none."""
    count = model.config.get_text_config().num_hidden_layers  # type: ignore[union-attr,operator]
    for module in model.base_model.modules():  # type: ignore[union-attr]
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"'{model.config.model_type}' keeps no list of {count} decoder layers", hint="choose another model family")  # type: ignore[union-attr]


def find_targets(model: nn.Module, targets: str | tuple[str, ...]) -> list[str]:
    """Names of the linear modules a preset or list means, as PEFT's ``target_modules`` wants them.

    A linear layer belongs to the attention when it sits in a decoder layer's child whose name contains "attn" or "attention", to the MLP
    when it sits anywhere else in a decoder layer. Its last name stands for it, or its path in the layer where the other half has that
    name too. Raises ModelError when nothing or an unknown name is meant, and for an MLP of fused experts.
    """
    linear = linear_modules(model)
    attention = {path for path in linear if _is_attention(path)}
    if targets == "attention":
        chosen = attention
    elif targets == "attention+mlp":
        check_mlp(model, set(linear) - attention)
        chosen = set(linear)
    else:
        names = sorted({_last(path) for path in linear} | set(linear))
        for name in targets:
            if not any(_is_meant(path, name) for path in linear):
                raise ModelError(f"LoRA target '{name}' is no linear layer of this model's decoder", hint=suggest(name, names))
        return sorted(set(targets))
    if not chosen:
        raise ModelError(f"LoRA targets '{targets}' name no linear layer of this model", hint=suggest(targets, map(_last, linear)))
    others = {_last(path) for path in set(linear) - chosen}
    return sorted({path if _last(path) in others else _last(path) for path in chosen})


def linear_modules(model: nn.Module) -> dict[str, list[tuple[int, int]]]:
    """The linear modules of the decoder: path in a layer to (outputs, inputs), one entry for each layer that has it."""
    from transformers.pytorch_utils import Conv1D

    found: dict[str, list[tuple[int, int]]] = {}
    for layer in decoder_layers(model):
        for path, module in layer.named_modules():
            if isinstance(module, nn.Linear):
                found.setdefault(path, []).append((module.out_features, module.in_features))
            elif isinstance(module, Conv1D):  # GPT-2's linear layer, its weight the other way round
                found.setdefault(path, []).append((module.nf, module.nx))
    return found


def check_mlp(model: nn.Module, paths: set[str]) -> None:
    """Raise ModelError where the MLP, or a part of it, is no linear module: experts fused into one tensor take no adapter."""
    layers = list(decoder_layers(model).named_modules())
    fused = sorted(
        {
            f"{path.partition('.')[2]}.{name}"
            for path, module in layers
            if not isinstance(module, (nn.Conv1d, nn.Conv2d)) and not _is_attention(path.partition(".")[2])
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.dim() > 2
        }
    )
    if fused or not paths:
        there = f"its experts are fused into {', '.join(fused)}" if fused else "there is no linear layer beside the attention"
        raise ModelError(
            f"LoRA targets 'attention+mlp': the MLP of '{model.config.model_type}' takes no adapter, {there}",  # type: ignore[union-attr]
            hint="set targets: attention, or name the modules",
        )


def _is_attention(path: str) -> bool:
    inside = path.split(".")[0].lower()
    return "attn" in inside or "attention" in inside


def _last(path: str) -> str:
    return path.split(".")[-1]


def _is_meant(path: str, name: str) -> bool:
    """Whether PEFT would adapt the module at ``path`` for this name."""
    return path == name or path.endswith(f".{name}")


def add_adapter(model: Any, settings: LoraSettings, *, seed: int, task_type: str | None = "CAUSAL_LM") -> Any:
    """Freeze ``model`` and wrap it with fresh adapters; the same seed gives the same A (B starts at zero). ``task_type`` is PEFT's."""
    with kernel_advice_muted():
        from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.resolved_alpha,
        lora_dropout=settings.dropout,
        target_modules=find_targets(model, settings.targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type=task_type,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with warnings.catch_warnings():  # peft asks transformers for gradient checkpointing under its old name
            warnings.simplefilter("ignore", FutureWarning)
            return get_peft_model(model, config, autocast_adapter_dtype=False)


def count_parameters(model: Any, settings: LoraSettings) -> ParameterCount:
    """What ``settings`` would add to ``model``: sum of ``rank * (d + k)`` over the targeted matrices, beside their d * k."""
    names = find_targets(model, settings.targets)
    found = linear_modules(model).items()
    shapes = [shape for path, there in found if any(_is_meant(path, name) for name in names) for shape in there]
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
    from posttrain.models.loading import find_model, load_for_inference, tokenizer_files
    from posttrain.models.weights import quiet_transformers

    check_replaceable(out, MERGE_FILE)
    if Path(out).resolve() in (find_model(base_path).resolve(), Path(adapter_path).expanduser().resolve()):
        raise ConfigError(f"{out} is what the merged model is made of", hint="name a new folder")
    model = load_for_inference(base_path, adapter_path, dtype="float32", merge=True)
    with atomic_directory(out) as folder, quiet_transformers():
        write_json(folder / MERGE_FILE, {"command": "posttrain models merge"})
        model.save_pretrained(folder)
        for file in {file.name: file for source in (base_path, adapter_path) for file in tokenizer_files(source)}.values():
            (folder / file.name).write_bytes(file.read_bytes())
    return Path(out)
