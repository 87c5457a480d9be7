"""Training methods, one readable file each, and the register a recipe chooses from."""

from posttrain.stages.base import STAGES, Progress, Quiet, Stage, StageResult
from posttrain.stages.preference import PreferenceConfig, run_preference
from posttrain.stages.sft import SftConfig, run_sft

__all__ = ["STAGES", "PreferenceConfig", "Progress", "Quiet", "SftConfig", "Stage", "StageResult", "run_preference", "run_sft"]
