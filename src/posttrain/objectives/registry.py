"""Objectives by the name a recipe uses, and what their signatures say about settings and inputs.

An objective takes its tensors positionally, by standard name, and its hyperparameters by keyword, with their bounds in the annotation: its
settings class and its inputs are read off the signature and never written twice.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal

from pydantic import create_model
from torch import Tensor

from posttrain.config import Config, Registry
from posttrain.errors import TrainingError
from posttrain.objectives.output import LossOutput

objectives: Registry[Callable[..., LossOutput]] = Registry("objective")
"""Every loss: tensors in, ``LossOutput`` out."""


@cache
def objective_settings(name: str) -> type[Config]:
    """The settings class of objective ``name``: ``name`` and its hyperparameters with bounds and defaults; frozen, unknown keys refused.

    Raises ConfigError with the nearest known name for an unknown one.
    """
    fields: dict[str, Any] = {"name": (Literal[name], name)}
    for parameter in _parameters(name):
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (parameter.annotation, default)
    title = "".join(part.capitalize() for part in name.split("_")) + "Settings"
    return create_model(title, __base__=Config, __doc__=f"Hyperparameters of objective '{name}'.", **fields)


@cache
def objective_inputs(name: str) -> frozenset[str]:
    """Names of all tensors objective ``name`` takes, those with a default (such as ``probabilities``) included."""
    return frozenset(parameter.name for parameter in _parameters(name) if parameter.kind is not inspect.Parameter.KEYWORD_ONLY)


def apply_objective(settings: Config, tensors: Mapping[str, Tensor]) -> LossOutput:
    """The loss of the objective that ``settings`` (an :func:`objective_settings` class) names, of the tensors it asks for by name.

    Tensors it does not take are ignored. Raises TrainingError naming an input that is missing.
    """
    hyperparameters = dict(settings)
    name = hyperparameters.pop("name")
    required = {
        parameter.name
        for parameter in _parameters(name)
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty
    }
    if missing := sorted(required - set(tensors)):
        raise TrainingError(f"objective '{name}' needs the tensors {missing}, it was given {sorted(tensors)}", hint="hand them in by name")
    return objectives.get(name)(**{key: tensors[key] for key in objective_inputs(name) if key in tensors}, **hyperparameters)


def _parameters(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(objectives.get(name)).parameters.values())
