"""A scorer from the user's own Python file: ``check.py:function``, called as ``function(case, text) -> bool | float | None``.

It runs with the rights of this process, so a suite must say ``allow_python: true``. None or an exception means unscored.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

from pydantic import Field

from posttrain.errors import ConfigError, suggest
from posttrain.evaluation.cases import Case
from posttrain.evaluation.scores import Score, Scorer, ScorerContext, ScorerKind, ScorerOptions, one_output, scorers, unscored
from posttrain.records import Generation


class PythonOptions(ScorerOptions):
    """A function of a Python file beside the suite."""

    function: str = Field(pattern=r"^[^:]+\.py:[A-Za-z_]\w*$")
    """``path.py:function``, the path relative to the suite. The file's content is part of the suite's hash."""
    kind: str = Field("pass", pattern="^(pass|fraction|amount)$")
    """What the function returns: pass (bool, 0 or 1), fraction (0 to 1) or amount."""


def build_python(options: PythonOptions, name: str, context: ScorerContext) -> Scorer:
    """The user's function as a scorer."""
    if not context.allow_python:
        raise ConfigError(
            f"scorer '{name}' runs Python code from {options.function}, which this suite does not allow",
            hint="read the file first; then set `allow_python: true` in the suite",
        )
    function = load_function(options.function, name, context)

    def score(case: Case, generation: Generation) -> list[Score]:
        try:
            value = function(case, generation.text)
        except Exception as error:
            return [unscored(name, f"{options.function} raised {type(error).__name__}: {str(error)[:160]}", options.kind)]  # type: ignore[arg-type]
        if value is None or not isinstance(value, bool | int | float):
            return [unscored(name, f"{options.function} returned {value!r:.60}", options.kind)]  # type: ignore[arg-type]
        limits = {"pass": value in (0, 1), "fraction": 0 <= value <= 1, "amount": True}
        if value == value and not limits[options.kind]:
            return [unscored(name, f"{options.function} returned {value}, which is no {options.kind}", options.kind)]  # type: ignore[arg-type]
        return [Score(name, float(value), kind=options.kind)]  # type: ignore[arg-type]

    return score


def load_function(reference: str, name: str, context: ScorerContext) -> Callable[..., Any]:
    """The function at ``path.py:function``, the path relative to the suite. Raises ConfigError for scorer ``name``."""
    file, _, attribute = reference.rpartition(":")
    path = context.folder / file
    spec = importlib.util.spec_from_file_location(f"posttrain_scorer_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"scorer '{name}': no Python file at {path}", hint="the path is relative to the suite file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"scorer '{name}': {path} cannot be loaded: {type(error).__name__}: {error}") from None
    function = getattr(module, attribute, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"scorer '{name}': {path} has no function '{attribute}'", hint=suggest(attribute, known))
    result: Callable[..., Any] = function
    return result


def _file(options: PythonOptions) -> list[str]:
    return [options.function.rpartition(":")[0]]


def _amounts(options: PythonOptions, name: str) -> list[str]:
    return [name] if options.kind == "amount" else []


scorers.register("python")(ScorerKind(PythonOptions, build_python, one_output, _file, _amounts))
