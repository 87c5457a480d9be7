"""Training methods, one readable file each, and the register a recipe chooses from."""

from posttrain.stages.base import STAGES, Progress, Quiet, Stage, StageResult
from posttrain.stages.sft import SftConfig, run_sft

__all__ = ["STAGES", "Progress", "Quiet", "SftConfig", "Stage", "StageResult", "run_sft"]
