"""Find and open model folders. Remote code is never trusted, and nothing here reaches the network."""

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from posttrain.config import model_cache
from posttrain.errors import ModelError, suggest
from posttrain.models.adapter_base import check_base
from posttrain.models.families import FOREST_FAMILIES
from posttrain.models.quantization import keep_weights_unpacked, kernel_advice_muted, nf4_config
from posttrain.models.weights import check_finite, open_stock, read_config, read_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "contract.json",
)


def find_model(source: str | Path) -> Path:
    """The folder ``source`` means: itself, or the cached model of that name. Raises ModelError saying what was looked for and where."""
    folder, cached = Path(source).expanduser(), model_cache() / str(source)
    for candidate in (folder, cached):
        if (candidate / "config.json").is_file():
            weights = [*candidate.glob("*.safetensors"), *candidate.glob("pytorch_model*.bin")]
            if not weights:
                raise ModelError(f"{candidate}: config.json but no weights (*.safetensors)", hint="copy the model's weight files there")
            read_json(candidate / "config.json")
            return candidate
    names = [entry.name for entry in model_cache().glob("*") if (entry / "config.json").is_file()]
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder} is an adapter, not a model", hint="give the base model as the model and this folder as the adapter")
    seen = "a file" if folder.is_file() else "a folder without config.json" if folder.is_dir() else "not there"
    raise ModelError(
        f"'{source}' is no model: looked for {folder / 'config.json'} ({folder} is {seen}) and {cached / 'config.json'}",
        hint=f"`posttrain models add {source}` fetches or converts one; of those cached, {suggest(str(source), names)}",
    )


def check_adapter(path: str | Path) -> Path:
    """The adapter folder, or ModelError saying which file is missing."""
    folder = Path(path).expanduser()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"'{path}' is no adapter: {folder / name} is missing", hint="give a folder written by PEFT or `posttrain sft`")
    return folder


def choose_dtype(dtype: str, device: str | torch.device = "cpu") -> torch.dtype:
    """Resolve "auto": bfloat16 on CUDA that has it and on CPUs with AMX or AVX512-BF16 products, else float32."""
    if dtype != "auto":
        if dtype not in DTYPES:
            raise ModelError(f"unknown dtype '{dtype}'", hint=suggest(dtype, ["auto", *DTYPES]))
        return DTYPES[dtype]
    if torch.device(device).type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") else torch.float32


def load_model(path: Path, dtype: torch.dtype, *, quantization: str | None = None, attention: str = "sdpa") -> Any:
    """A stock causal language model from a local folder. Raises ModelError where a weight is missing, of another shape or not finite, and
    for a sequence classifier, whose head writes no text.
    """
    from transformers import AutoModelForCausalLM

    check_attention(read_config(path))
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention}
    if quantization == "nf4":
        options["quantization_config"] = nf4_config(dtype)
    model, _ = open_stock(AutoModelForCausalLM, path, **options)
    if quantization == "nf4":
        keep_weights_unpacked(model)
    return model


def check_attention(config: Any) -> None:
    """Raise ModelError for a family whose attention cannot be replaced: it is no causal language model, or not one of attention layers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    known = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if known is None or not getattr(known, "_supports_sdpa", False):
        what = "is no causal language model" if known is None else "has no attention that can be replaced (a state-space model, say)"
        raise ModelError(f"'{config.model_type}' {what}", hint="choose another family: " + ", ".join(sorted(FOREST_FAMILIES)))


def open_adapter(model: Any, path: str | Path, base: Path, *, trainable: bool = False) -> Any:
    """``model``, opened from folder ``base``, under the PEFT adapter in folder ``path``. Raises ModelError naming a missing file, and for
    one that is damaged or of another model.
    """
    with kernel_advice_muted():
        from peft import PeftModel

    folder = check_adapter(path)
    check_base(folder, base)
    try:
        with warnings.catch_warnings():  # peft asks transformers for gradient checkpointing under its old name
            warnings.simplefilter("ignore", FutureWarning)
            opened = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable, autocast_adapter_dtype=False)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder}: the adapter cannot be read: {error}", hint="copy it again, or train it again") from error
    except RuntimeError as error:
        seen = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line or "shape" in line), str(error)[:200])
        raise ModelError(f"{folder}: the adapter does not fit the model: {seen}", hint="give the model it was trained on") from error
    check_finite(opened, folder)
    return opened


def load_for_inference(
    model_path: str | Path,
    adapter_path: str | Path | None = None,
    dtype: str = "auto",
    *,
    device: str | torch.device = "cpu",
    merge: bool = False,
    attention: str = "sdpa",
) -> Any:
    """A stock model in eval mode, with its own attention, for generation; ``merge`` folds the adapter into the weights.

    Weights are merged in float32 and lowered once: added to a weight that is bfloat16 already, a change below half its step would be lost.
    """
    chosen, merged = choose_dtype(dtype, device), merge and adapter_path is not None
    folder = find_model(model_path)
    model = load_model(folder, torch.float32 if merged else chosen, attention=attention)
    if adapter_path is not None:
        model = open_adapter(model, adapter_path, folder)
        if merged:
            model = model.merge_and_unload()
            for parameter in model.parameters():  # not the buffers: rotary frequencies stay float32
                if parameter.is_floating_point():  # a 4-bit base folder holds packed integers
                    parameter.data = parameter.data.to(chosen)
    return model.to(device).eval()


def tokenizer_files(folder: str | Path) -> list[Path]:
    """The tokenizer's files in a model or adapter folder (or cached model), those that are there."""
    place = Path(folder).expanduser()
    if not place.is_dir():
        place = find_model(folder)
    return [place / name for name in TOKENIZER_FILES if (place / name).is_file()]
