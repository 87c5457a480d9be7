"""The learning rate as a pure function of the step."""

import math

from posttrain.training.settings import TrainingSettings


def learning_rate(step: int, num_steps: int, settings: TrainingSettings) -> float:
    """Learning rate of step ``step`` (0-based) of ``num_steps``.

    Warm-up of W = ceil(warmup_ratio * num_steps) steps: peak * (step + 1) / W, so the first step already moves. Afterwards, with
    x = (step - W) / (num_steps - W): cosine peak * (1 + cos(pi x)) / 2, linear peak * (1 - x), constant peak.
    """
    warmup = math.ceil(settings.warmup_ratio * num_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    x = (step - warmup) / (num_steps - warmup)
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - x)
    return settings.learning_rate * (1 + math.cos(math.pi * x)) / 2
