"""Where a command writes: checked as the option is read, before any work is done."""

from pathlib import Path
from typing import TypeVar

from posttrain.errors import ConfigError

P = TypeVar("P", Path, str, Path | None)


def output_folder(out: P) -> P:
    """An option's callback: ``out`` is a folder, or can be made. Raises ConfigError."""
    if out and Path(out).exists() and not Path(out).is_dir():
        raise ConfigError(f"{out} is a file, and a folder is to be written there", hint="name another output folder")
    return _below_a_folder(out)


def output_file(out: P) -> P:
    """An option's callback: ``out`` is a file, or can be made. Raises ConfigError."""
    if out and Path(out).is_dir():
        raise ConfigError(f"{out} is a folder, and a file is to be written there", hint="name a file in it")
    return _below_a_folder(out)


def _below_a_folder(out: P) -> P:
    for parent in Path(out).parents if out else ():
        if parent.exists() and not parent.is_dir():
            raise ConfigError(f"{out} cannot be written: {parent} is a file, not a folder", hint="name another place")
    return out
