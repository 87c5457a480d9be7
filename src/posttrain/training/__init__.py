"""The one engine: plan, step, accumulation, schedule, checkpoint, resume, several processes."""

from posttrain.training.distributed import World, open_world
from posttrain.training.items import Microbatch, TrainingItem
from posttrain.training.loop import train
from posttrain.training.plan import BatchPlan, build_plan
from posttrain.training.reference import ReferenceLogprobs, reference_logprobs, starting_policy
from posttrain.training.report import Evaluation, StepReport, TrainResult
from posttrain.training.settings import TrainingSettings
from posttrain.training.step import BeforeStep, LossFunction, StepLoss

__all__ = [
    "BatchPlan",
    "BeforeStep",
    "Evaluation",
    "LossFunction",
    "Microbatch",
    "ReferenceLogprobs",
    "StepLoss",
    "StepReport",
    "TrainResult",
    "TrainingItem",
    "TrainingSettings",
    "World",
    "build_plan",
    "open_world",
    "reference_logprobs",
    "starting_policy",
    "train",
]
