"""The one engine: plan, step, accumulation, schedule, checkpoint, resume, several processes."""

from posttrain.training.distributed import World, open_world
from posttrain.training.items import Microbatch, TrainingItem
from posttrain.training.loop import train
from posttrain.training.plan import BatchPlan, build_plan
from posttrain.training.report import Evaluation, StepReport, TrainResult
from posttrain.training.settings import TrainingSettings
from posttrain.training.step import LossFunction

__all__ = [
    "BatchPlan",
    "Evaluation",
    "LossFunction",
    "Microbatch",
    "StepReport",
    "TrainResult",
    "TrainingItem",
    "TrainingSettings",
    "World",
    "build_plan",
    "open_world",
    "train",
]
