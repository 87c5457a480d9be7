"""Training methods, one readable file each, and the register a recipe chooses from."""

from posttrain.stages.base import STAGES, Progress, Quiet, Stage, StageResult
from posttrain.stages.ppo import PpoConfig, run_ppo
from posttrain.stages.preference import PreferenceConfig, run_preference
from posttrain.stages.reward_model import RewardModelConfig, run_reward_model
from posttrain.stages.sft import SftConfig, run_sft

__all__ = [
    "STAGES",
    "PpoConfig",
    "PreferenceConfig",
    "Progress",
    "Quiet",
    "RewardModelConfig",
    "SftConfig",
    "Stage",
    "StageResult",
    "run_ppo",
    "run_preference",
    "run_reward_model",
    "run_sft",
]
