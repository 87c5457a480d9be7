"""Losses and advantages: tensors in, numbers out."""

from posttrain.objectives.dpo import dpo_loss, robust_dpo_loss
from posttrain.objectives.output import LossOutput
from posttrain.objectives.registry import apply_objective, objective_inputs, objective_settings, objectives
from posttrain.objectives.sft import sft_loss

__all__ = [
    "LossOutput",
    "apply_objective",
    "dpo_loss",
    "objective_inputs",
    "objective_settings",
    "objectives",
    "robust_dpo_loss",
    "sft_loss",
]
