"""Checkpoints: whole or not there, checked when read, refused when they belong to another run.

A checkpoint is a folder ``step-00000050`` with ``weights.safetensors`` (the fp32 masters that train), ``optimizer.safetensors``,
``state.json`` (step, identity of the run, history) and ``hashes.json``. No pickle. It is written beside its place, fsynced and renamed.
There is no random state to keep: a step seeds its generators from (seed, step, rank), so the step number is all of it.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from posttrain.config import file_hash
from posttrain.config.files import atomic_directory
from posttrain.errors import ConfigError, ContractError, InfrastructureError
from posttrain.training.settings import RESUMABLE_CHANGES

ALL_WEIGHTS = "all:"
"""What the fingerprint of a start model begins with; earlier versions looked at 4,096 values of each tensor."""
_FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")
_NO_SPACE = tuple(f"(os error {number})" for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))  # as safetensors words it


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run is. ``identity`` says what it is a run of: contract, data, model, settings and what computes it, as plain JSON."""

    step: int
    identity: dict[str, Any]
    history: list[dict[str, Any]]


def save_checkpoint(
    directory: Path, state: RunState, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer, *, keep: int
) -> None:
    """Write ``directory/step-N`` atomically, then remove all but the ``keep`` newest up to N."""
    with atomic_directory(_folder(directory, state.step)) as folder:
        _save_tensors({name: value.detach() for name, value in parameters.items()}, folder / _FILES[0])
        moments = {
            f"{key}/{name}": value for name, parameter in parameters.items() for key, value in optimizer.state.get(parameter, {}).items()
        }
        _save_tensors(moments, folder / _FILES[1])
        content = {"step": state.step, "identity": state.identity, "history": state.history}
        (folder / _FILES[2]).write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
        hashes = {name: file_hash(folder / name) for name in _FILES}
        (folder / "hashes.json").write_text(json.dumps(hashes, indent=2), encoding="utf-8")
    for step in [step for step in _steps(directory) if step <= state.step][:-keep]:
        shutil.rmtree(_folder(directory, step))


def load_checkpoint(
    directory: Path, identity: dict[str, Any], parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> RunState | None:
    """Restore weights and optimiser from the newest whole checkpoint; None when there is none.

    A damaged one is passed over with a warning; one that was computed by other means (threads, library, kernel) is used with a warning.
    Raises ContractError or ConfigError when the checkpoint is of another run.
    """
    for step in reversed(_steps(directory)):
        folder = _folder(directory, step)
        problem = _damage(folder)
        if problem:
            warnings.warn(f"{folder} is damaged ({problem}); going on from the checkpoint before it", RuntimeWarning, stacklevel=2)
            continue
        content = json.loads((folder / _FILES[2]).read_text(encoding="utf-8"))
        _check_identity(content["identity"], identity, folder)
        old, new = content["identity"].get("computing"), identity.get("computing")
        if old and new and old != new:
            means = _difference(old, new)
            warnings.warn(f"{folder} was computed by other means ({means}); the run goes on, its last bits are others", RuntimeWarning, 2)
        _restore(folder, parameters, optimizer)
        return RunState(step=content["step"], identity=identity, history=content["history"])
    return None


@contextmanager
def exclusive(run_dir: Path) -> Iterator[None]:
    """Hold the run folder; a second process in it is refused. Leftovers of a killed writer are removed."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "w", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InfrastructureError(
                f"{run_dir} is in use by another training process", hint="wait for it or choose another output folder"
            ) from None
        for leftover in (run_dir / "checkpoints").glob(".step-*"):
            shutil.rmtree(leftover)
        yield


def _folder(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}"


def _steps(directory: Path) -> list[int]:
    """Steps that have a checkpoint; a folder of another name (a copy, say) is none."""
    names = [re.fullmatch(r"step-(\d{8,})", folder.name) for folder in directory.glob("step-*") if folder.is_dir()]
    return sorted(int(name[1]) for name in names if name)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, path)
    except SafetensorError as error:
        if any(code in str(error) for code in _NO_SPACE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _damage(folder: Path) -> str:
    """What is wrong with a checkpoint's files, or an empty string."""
    try:
        hashes = json.loads((folder / "hashes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "hashes.json cannot be read"
    for name in _FILES:
        if not (folder / name).is_file():
            return f"{name} is missing"
        if file_hash(folder / name) != hashes.get(name):
            return f"{name} does not have the hash it was written with"
    return ""


def _restore(folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    weights = load_file(folder / _FILES[0])
    moments = load_file(folder / _FILES[1])
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    for key, value in moments.items():
        kind, _, name = key.partition("/")
        parameter = parameters[name]
        optimizer.state[parameter][kind] = value.to(parameter.device)


def _check_identity(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    hint = f"choose another output folder, or remove {folder.parent} to start afresh"
    if found["contract"] != wanted["contract"]:
        raise ContractError(
            f"{folder} was made under another chat contract: {_difference(found['contract'], wanted['contract'])}", hint=hint
        )
    if not found["model"].get("start_weights", ALL_WEIGHTS).startswith(ALL_WEIGHTS):
        raise ConfigError(f"{folder} was written by an earlier version, which compared a part of the start model's weights", hint=hint)
    skip = {"settings": RESUMABLE_CHANGES}
    for part in ("settings", "model", "data"):
        old, new = ({k: v for k, v in side[part].items() if k not in skip.get(part, ())} for side in (found, wanted))
        if old != new:
            raise ConfigError(f"{folder} belongs to a run with other {part}: {_difference(old, new)}", hint=hint)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The entries that differ, as ``name: was x, now y``."""
    names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: was {str(old.get(name))[:80]}, now {str(new.get(name))[:80]}" for name in names)
