"""What a training run can be told. Every stage embeds this class; the meaning of a field is the same in all of them."""

from typing import Annotated, Literal

from pydantic import Field

from posttrain.config import Config

Rate = Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(Config):
    """Optimiser, schedule, batch and checkpoint settings of one run."""

    learning_rate: float = Field(gt=0, le=1)
    """Peak AdamW learning rate. Stages fill in their own default for their method (SFT: 2e-4 with LoRA, 1e-5 in full)."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls from its peak to zero after the warm-up; ``constant`` does not fall."""

    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises linearly to its peak (rounded up to whole steps)."""

    epochs: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Passes over the data; fractions allowed. Ignored when ``max_steps`` is set."""

    max_steps: int | None = Field(default=None, ge=1)
    """Exactly this many optimiser steps, the data repeated as often as needed."""

    sequences_per_step: int = Field(default=16, ge=1)
    """Items in one optimiser step: sequences, or the pairs or groups of an objective that compares sequences."""

    max_tokens_per_microbatch: int = Field(default=4096, ge=1)
    """Packed tokens (shared prefixes once) in one forward pass. Changes memory, never the result; a longer item runs alone."""

    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """AdamW's decoupled weight decay, on matrices only (not on norms and biases)."""

    betas: tuple[Rate, Rate] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients of the mean loss are scaled down to this global L2 norm."""

    checkpoint_every_steps: int = Field(default=50, ge=1)
    """A checkpoint is written after every so many steps, and after the last."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """How many of the newest checkpoints stay on disk; with two, a damaged one costs steps, not the run."""

    seed: int = Field(default=17, ge=0)
    """Order of the data and every random number drawn in a step."""

    share_prefixes: bool = True
    """Tokens that several sequences of a micro-batch begin with are computed once. Same loss and gradient."""

    group_shared_prefixes: bool = True
    """Keep items that begin alike (questions about one document) in one step, so that there is something to share; groups are shuffled."""

    min_shared_tokens: int = Field(default=16, ge=1)
    """Shorter common beginnings are not worth a node of their own and are computed twice."""


RESUMABLE_CHANGES = frozenset({"checkpoint_every_steps", "keep_checkpoints", "max_tokens_per_microbatch"})
"""Settings a resumed run may change: they decide what is kept and what fits in memory, not what is computed."""
