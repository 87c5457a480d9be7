"""Every error a user can meet: what happened, where, and what to do next.

The command line prints ``str(error)`` alone (no traceback) and exits with ``error.exit_code``:
0 done or ship · 1 a check, drill or gate says no · 2 bad usage, configuration, data or contract ·
3 infrastructure or crash · 4 inconclusive.
"""

import difflib
from collections.abc import Iterable


class PosttrainError(Exception):
    """Base class. ``hint`` says what to do next and is printed on its own line."""

    exit_code = 3

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


class ConfigError(PosttrainError):
    """A recipe, suite, option or setting is wrong: unknown key, value out of range, missing file."""

    exit_code = 2


class DataError(PosttrainError):
    """A data file or row is broken; names file, line, field, value and the fix."""

    exit_code = 2


class ContractError(PosttrainError):
    """Template, tokenizer or special tokens differ from those an artefact was made under, or cannot be used."""

    exit_code = 2


class ModelError(PosttrainError):
    """A path that is no model, an architecture the engine cannot run exactly, a missing weight."""

    exit_code = 2


class CheckFailed(PosttrainError):
    """A check ran and says no (contamination, missing consent, frozen suite changed)."""

    exit_code = 1


class TrainingError(PosttrainError):
    """A run stopped before an update that would have been wrong (NaN loss, nothing to train on)."""

    exit_code = 3


class InfrastructureError(PosttrainError):
    """Disk full, endpoint down, worker lost. Nothing written so far is lost; the run resumes."""

    exit_code = 3


def suggest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` when a known name is close to ``name``, else the list of known names."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return "known: " + ", ".join(names) if names else "none is known"
