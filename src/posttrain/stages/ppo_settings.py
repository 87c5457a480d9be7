"""What a recipe says under ``ppo:``."""

from typing import Any, Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.models import ModelOptions
from posttrain.objectives import KlController, KlEstimator
from posttrain.objectives.kl import FixedKl
from posttrain.stages.setup import with_learning_rate
from posttrain.training import TrainingSettings

LORA_LEARNING_RATE = 5e-5
FULL_LEARNING_RATE = 1e-6
VALUE_RATE_RATIO = 10.0
CHECKPOINT_EVERY_UPDATES = 5


class RewardShaping(Config):
    """What happens to the reward model's score before the KL tax, in this order. The history keeps the raw score beside it."""

    length_coefficient: float = 0.0
    """Taken off a score for every token of its answer: a length-corrected reward. The history's ``reward_per_token`` shows what the reward
    model pays for a token."""
    whiten: bool = False
    """Divide scores by their standard deviation in the update, mean kept, so that beta means the same under any reward model."""
    clip: float | None = Field(default=None, gt=0)
    """Scores beyond this are worth no more than this, in either direction."""
    missing_eos_penalty: float = Field(default=0.0, ge=0)
    """Taken off the score of an answer that the length limit cut. Such an answer is scored as it stands, at its last token."""


class DivergenceRule(Config):
    """When the trained-on reward rises while the held-out reward falls.

    Means of the last ``window`` updates are compared with those of the window before it and of the first one. The run stops when, against
    either, the reward is higher and the held-out reward is lower, each by a one-sided Welch test over answers at level ``alpha`` divided
    by the comparisons a run of this length makes (Bonferroni): a run in which nothing parts stops with probability at most ``alpha``.
    """

    window: int = Field(default=4, ge=1)
    """Updates in a window."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Chance, over the whole run, of stopping for no reason."""


class PpoConfig(ModelOptions):
    """The settings of a PPO run; the model's options (``lora``, ``dtype``, ...) stand at the same level.

    ``training.sequences_per_step`` is the number of answers an update samples, ``epochs`` are passes over the prompts, ``max_steps`` counts
    updates, and a checkpoint is due every ``checkpoint_every_steps`` updates.
    """

    data: str
    """Prompts: rows with ``prompt`` or ``messages``, or any file of pairs, labels or demonstrations, whose prompts are taken."""
    held_out: str | None = None
    """Prompts answered before and after the run, by the reference and by the result, to measure what was gained. None of them may be in
    ``data``. Left out: the first prompts of ``data``, and the report says so."""
    held_out_limit: int = Field(default=64, ge=2)
    """At most so many of them, the first."""
    reward_model: str
    """The folder of the reward model that is trained against."""
    held_out_reward_model: str | None = None
    """A reward model that is only watched; it should come from other data. With one, parting rewards stop the run."""
    value_model: str | None = None
    """Where the value model of full training starts, usually the reward model; left out: the start model. It reads tokens, so its chat
    contract must be the policy's."""
    max_new_tokens: int = Field(default=64, ge=1)
    """Longest answer. Sampling is at temperature 1 with nothing cut off: the probabilities are the policy's own."""
    generation_batch_size: int = Field(default=16, ge=1)
    """Answers decoded together."""
    on_too_long: Literal["stop", "drop"] = "stop"
    """A prompt that leaves no room for ``max_new_tokens`` in the context of the policy or a reward model: stop and name it, or leave it out
    and say how many were."""
    epochs_per_update: int = Field(default=4, ge=1)
    """Passes over an update's answers."""
    minibatches: int = Field(default=2, ge=1)
    """Optimiser steps in a pass."""
    clip_epsilon: float = Field(default=0.2, gt=0, lt=1)
    """How far a token's probability ratio may move before its gradient is cut off."""
    value_clip_range: float = Field(default=0.5, gt=0)
    """How far a value may move in an update before its gradient is cut off, in standard deviations of the update's returns: so it means the
    same whatever the reward model's unit is."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Gamma. At 1 an answer's reward counts the same at its first token as at its last."""
    trace_decay: float = Field(default=0.95, ge=0, le=1)
    """Lambda of generalised advantage estimation."""
    whiten_advantages: bool = True
    """Give the update's advantages mean 0 and variance 1."""
    value_learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak rate of the value's weights; left out: ten times that of the policy, as a fresh value has everything to learn."""
    kl: KlController = FixedKl()
    """``{name: fixed, coefficient: .05}`` or ``{name: adaptive, coefficient: .05, target: 6}``."""
    kl_estimator: KlEstimator = "k1"
    """What the tax is made of. k1 is the one whose gradient is that of the KL; k2 and k3 are there for comparison."""
    kl_budget: float | None = Field(default=12.0, gt=0)
    """Nats per answer away from the reference. An update that measures more ends the run, and the result is within it on the evaluation
    prompts, too."""
    update_kl_limit: float | None = Field(default=0.05, gt=0)
    """Nats per token between the policy that answered and the one being trained (k3). Beyond it the rest of the update is skipped."""
    reward: RewardShaping = RewardShaping()
    """Controls on the score."""
    divergence: DivergenceRule = DivergenceRule()
    """When the reward and the held-out reward have parted."""
    training: TrainingSettings
    """The engine's settings; when left out, ``learning_rate`` is 5e-5 with an adapter and 1e-6 in full, and a checkpoint is due every 5
    updates."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, values: Any) -> Any:
        values = with_learning_rate(values, adapter=LORA_LEARNING_RATE, full=FULL_LEARNING_RATE)
        if not isinstance(values, dict) or not isinstance(values.get("training"), dict):
            return values
        return values | {"training": {"checkpoint_every_steps": CHECKPOINT_EVERY_UPDATES, **values["training"]}}

    @model_validator(mode="after")
    def _check_together(self) -> "PpoConfig":
        if self.adapter is not None:
            raise ValueError("'adapter' cannot go on under PPO, whose reference is the base: merge it first (`posttrain models merge`)")
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError("'lora.dropout' must be 0: the policy that answers and the one that is scored would differ by chance")
        if self.compile is True:
            raise ValueError("'compile' must stay off: the same layers also generate")
        if self.value_model is not None and self.lora is not None:
            raise ValueError("'value_model' is for full training: with 'lora' the value is a second adapter on the policy's base")
        if self.training.sequences_per_step < 2 * self.minibatches:
            raise ValueError(
                f"'training.sequences_per_step' is {self.training.sequences_per_step}: "
                f"each of the {self.minibatches} minibatches needs 2 answers"
            )
        return self

    def is_over_budget(self, kl: float) -> bool:
        """Whether ``kl``, nats per answer, is more than ``kl_budget`` allows."""
        return self.kl_budget is not None and kl > self.kl_budget

    @property
    def value_rate_ratio(self) -> float:
        """The value's learning rate over the policy's."""
        return VALUE_RATE_RATIO if self.value_learning_rate is None else self.value_learning_rate / self.training.learning_rate
