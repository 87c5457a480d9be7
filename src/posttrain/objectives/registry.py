"""Objectives by the name a recipe uses."""

from collections.abc import Callable

from posttrain.config import Registry
from posttrain.objectives.output import LossOutput

objectives: Registry[Callable[..., LossOutput]] = Registry("objective")
"""Every loss: tensors in, ``LossOutput`` out."""
