"""Which base an adapter belongs to: its product is only meant for the weights it was trained beside."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from posttrain.config.files import write_json
from posttrain.errors import ModelError
from posttrain.models.weights import read_json

BASE_FILE = "base.json"
"""In an adapter's folder: the base model as it was named, and the fingerprint of its weights."""
_SAMPLES = 4096  # values looked at in each tensor: enough to tell two models apart without reading gigabytes


def weights_of_folder(folder: Path) -> str:
    """SHA-256 over names, shapes and up to 4,096 evenly spaced values of every tensor; the same for a copy in bfloat16 or in other shards.

    Empty for a folder without safetensors.
    """
    parts: dict[str, bytes] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                tensor = tensors.get_tensor(name)
                flat = tensor.reshape(-1)
                sample = flat[:: max(1, flat.numel() // _SAMPLES)]
                sample = sample.to(torch.bfloat16) if sample.is_floating_point() else sample
                parts[name] = str(tuple(tensor.shape)).encode() + sample.contiguous().view(torch.uint8).numpy().tobytes()
    digest = hashlib.sha256()
    for name, part in sorted(parts.items()):
        digest.update(name.encode() + part)
    return digest.hexdigest() if parts else ""


def base_record(source: str, folder: Path) -> dict[str, str]:
    """What is kept beside an adapter of the model ``source``, found in ``folder``."""
    return {"model": source, "weights": weights_of_folder(folder)}


def save_base(adapter: Path, record: dict[str, str]) -> None:
    """Write ``base.json``, where there is anything to say."""
    if record.get("weights"):
        write_json(adapter / BASE_FILE, record)


def check_base(adapter: Path, base: Path) -> None:
    """Raise ModelError when the adapter says that it was trained on other weights than those in ``base``.

    An adapter of another program says only what its base was called: another name is a warning, for folders are renamed.
    """
    config = read_json(adapter / "adapter_config.json")
    if (adapter / BASE_FILE).is_file():
        record = read_json(adapter / BASE_FILE)
        if record.get("weights") not in ("", None, weights_of_folder(base)):
            raise ModelError(
                f"{adapter} was trained on '{record.get('model')}', and {base} holds other weights",
                hint=f"give the model it was trained on; to use it all the same, remove {adapter / BASE_FILE}",
            )
        return
    name = str(config.get("base_model_name_or_path") or "")
    if name and not _names(base) & {name, Path(name).name}:
        warnings.warn(f"{adapter} says that it was trained on '{name}'; it is used on {base}", RuntimeWarning, stacklevel=3)


def _names(base: Path) -> set[str]:
    """What a model folder may be called by."""
    provenance: dict[str, Any] = read_json(base / "provenance.json") if (base / "provenance.json").is_file() else {}
    known = [provenance.get(key) for key in ("name", "hub_id", "source")]
    names = [str(base), str(base.resolve()), *(str(one) for one in known if one)]
    return {*names, *(Path(name).name for name in names)}
