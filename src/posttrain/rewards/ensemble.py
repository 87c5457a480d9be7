"""Several reward models side by side: their mean, the most careful of them, and how far they disagree."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal, Self

import numpy as np

from posttrain.data.preference_sets import prompt_key
from posttrain.errors import ConfigError
from posttrain.metrics import Interval, proportion_interval
from posttrain.records import PreferencePair
from posttrain.rewards.model import RewardModel, Turns


@dataclass(frozen=True, slots=True)
class Disagreement:
    """On pairs: ``order`` share in which two members (mean over member pairs) prefer different sides; ``split`` share in which not all
    members agree, with its interval; ``spread`` mean standard deviation of the members' P(chosen is better)."""

    order: float
    split: Interval
    spread: float


class RewardEnsemble:
    """Members in one unit: log-odds above each member's calibration mean."""

    def __init__(self, members: Sequence[RewardModel]) -> None:
        """At least two calibrated members. Raises ConfigError otherwise."""
        if len(members) < 2:
            raise ConfigError(f"an ensemble needs at least two reward models, got {len(members)}", hint="train more with other seeds")
        for member in members:
            member.standardize([0.0])
        self.members = list(members)

    @classmethod
    def load(cls, paths: Sequence[str | Path], *, batch_tokens: int = 4096, device: str = "cpu") -> Self:
        """Open every folder as a :class:`RewardModel`."""
        return cls([RewardModel.load(path, batch_tokens=batch_tokens, device=device) for path in paths])

    def score(self, pairs: Sequence[tuple[Turns, Turns]], *, how: Literal["mean", "min"] = "mean") -> list[float]:
        """One number a (prompt, completion): the members' mean, or the lowest, which no single member can be gamed into raising (Coste
        et al. 2023, arXiv:2310.02743, section 3.2, worst-case optimisation)."""
        table = np.array([member.standardize(member.score(pairs)) for member in self.members])
        return [float(value) for value in (table.mean(axis=0) if how == "mean" else table.min(axis=0))]

    def disagreement(self, pairs: Sequence[PreferencePair]) -> Disagreement:
        """How far the members differ on which side of each pair is better."""
        scored = [member.standardize(member.score_pairs(pairs).ravel().tolist()) for member in self.members]
        rewards = np.array(scored).reshape(len(self.members), -1, 2)
        logits = rewards[..., 0] - rewards[..., 1]
        prefers = np.sign(logits)
        apart = [float((prefers[a] != prefers[b]).mean()) for a, b in combinations(range(len(self.members)), 2)]
        split = (prefers != prefers[0]).any(axis=0)
        return Disagreement(
            order=float(np.mean(apart)),
            split=proportion_interval(split.astype(float), groups=[prompt_key(pair) for pair in pairs]),
            spread=float((1 / (1 + np.exp(-logits))).std(axis=0, ddof=1).mean()),
        )
