"""Losses and advantages: tensors in, numbers out."""

from posttrain.objectives.output import LossOutput
from posttrain.objectives.registry import objectives
from posttrain.objectives.sft import sft_loss

__all__ = ["LossOutput", "objectives", "sft_loss"]
