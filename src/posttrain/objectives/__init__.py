"""Losses and advantages: tensors in, numbers out."""

from posttrain.objectives.bradley_terry import bradley_terry_loss
from posttrain.objectives.dpo import dpo_loss, robust_dpo_loss
from posttrain.objectives.ipo import ipo_loss
from posttrain.objectives.kl import AdaptiveKl, FixedKl, KlController, KlEstimator, kl_per_token
from posttrain.objectives.kto import kto_loss
from posttrain.objectives.orpo import orpo_loss
from posttrain.objectives.output import LossOutput
from posttrain.objectives.ppo import gae, ppo_policy_loss, ppo_value_loss, taxed_rewards, whiten
from posttrain.objectives.registry import apply_objective, objective_inputs, objective_settings, objectives
from posttrain.objectives.sft import sft_loss
from posttrain.objectives.simpo import simpo_loss

__all__ = [
    "AdaptiveKl",
    "FixedKl",
    "KlController",
    "KlEstimator",
    "LossOutput",
    "apply_objective",
    "bradley_terry_loss",
    "dpo_loss",
    "gae",
    "ipo_loss",
    "kl_per_token",
    "kto_loss",
    "objective_inputs",
    "objective_settings",
    "objectives",
    "orpo_loss",
    "ppo_policy_loss",
    "ppo_value_loss",
    "robust_dpo_loss",
    "sft_loss",
    "simpo_loss",
    "taxed_rewards",
    "whiten",
]
