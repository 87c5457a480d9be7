"""Find and open model folders. Remote code is never trusted, and nothing here reaches the network."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from posttrain.config import model_cache
from posttrain.errors import ModelError, suggest

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


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep transformers' bars off the terminal inside the block: progress is the caller's to show."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def no_load_report() -> Iterator[None]:
    """Keep transformers' table of missing and unused weights off the terminal: what matters of it is raised by the caller."""
    from transformers.utils import logging

    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(shown)


def find_model(source: str | Path) -> Path:
    """The folder ``source`` means: itself, or the cached model of that name. Raises ModelError saying what was looked for and where."""
    folder, cached = Path(source).expanduser(), model_cache() / str(source)
    for candidate in (folder, cached):
        if (candidate / "config.json").is_file():
            weights = [*candidate.glob("*.safetensors"), *candidate.glob("pytorch_model*.bin")]
            if not weights:
                raise ModelError(f"{candidate}: config.json but no weights (*.safetensors)", hint="copy the model's weight files there")
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
    """A stock causal language model from a local folder.

    ModelError with the library's own words when it cannot be read, and when a weight is missing or of another shape (transformers would
    draw one at random), or the folder is a reward model's.
    """
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {}
    if quantization == "nf4":
        from posttrain.models.quantization import nf4_config

        options["quantization_config"] = nf4_config(dtype)
    options |= {"dtype": dtype, "attn_implementation": attention, "local_files_only": True}
    opened: Any
    try:
        with no_progress_bars(), no_load_report():
            opened = AutoModelForCausalLM.from_pretrained(
                path,
                **options,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # both are raised below, by name
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: the model cannot be read: {error}", hint="it must be a Hugging Face causal language model") from error
    model, found = opened
    if "score.weight" in found["unexpected_keys"]:
        raise ModelError(f"{path} is a reward model (it has a score head), not a language model", hint="give the policy's folder")
    if absent := sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}):
        shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        raise ModelError(f"{path}: weights are missing or of another shape: {shown}", hint="copy the whole model folder again")
    if unused := sorted(found["unexpected_keys"]):
        warnings.warn(f"{path}: {len(unused)} weights have no place in the model: {', '.join(unused[:5])}", RuntimeWarning, stacklevel=2)
    check_finite(model, path)
    if quantization == "nf4":
        from posttrain.models.quantization import keep_weights_unpacked

        keep_weights_unpacked(model)
    return model


def check_finite(model: torch.nn.Module, path: Path) -> None:
    """Raise ModelError naming the first weight that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise ModelError(f"{path}: weight {name} holds NaN or infinity", hint="the run that wrote it diverged: take an earlier model")


def open_adapter(model: Any, path: str | Path, *, trainable: bool = False) -> Any:
    """``model`` under the PEFT adapter in folder ``path``. Raises ModelError naming a missing file, and for one that is damaged or of
    another model."""
    from peft import PeftModel

    folder = check_adapter(path)
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
    model = load_model(find_model(model_path), torch.float32 if merged else chosen, attention=attention)
    if adapter_path is not None:
        model = open_adapter(model, adapter_path)
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
