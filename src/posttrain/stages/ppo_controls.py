"""The brakes on reward: what a score is worth, and the test of whether two reward models have parted. Numbers in, numbers out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from posttrain.errors import TrainingError
from posttrain.objectives import whiten
from posttrain.rewards.evaluation import is_constant
from posttrain.stages.ppo_settings import DivergenceRule, RewardShaping


def shape_scores(
    scores: Float[Tensor, " sequence"], lengths: Int[Tensor, " sequence"], ended: Bool[Tensor, " sequence"], shaping: RewardShaping
) -> Float[Tensor, " sequence"]:
    """Correct for length, scale, clip, and charge for a missing EOS, in this order."""
    shaped = scores - shaping.length_coefficient * lengths
    if shaping.whiten:
        shaped = whiten(shaped, shift_mean=False)
    if shaping.clip is not None:
        shaped = shaped.clamp(-shaping.clip, shaping.clip)
    return shaped - shaping.missing_eos_penalty * (~ended)


def check_finite(rewards: Mapping[str, Sequence[float]], update: int) -> None:
    """Raise TrainingError for a reward that is not finite. ``rewards`` by name; ``update`` is 1-based, 0 the evaluation."""
    for name, values in rewards.items():
        bad = [position for position, value in enumerate(values) if not math.isfinite(value)]
        if bad:
            where = f"update {update} was stopped before its first step" if update else "the result cannot be measured"
            raise TrainingError(
                f"{where}: the {name} of answer {bad[0] + 1} of {len(values)} is {values[bad[0]]}",
                hint="the weights are those of the update before; look at the reward model",
            )


def check_scores(raw: Sequence[float], shaped: Float[Tensor, " sequence"], update: int) -> None:
    """Raise TrainingError for scores that differ by no more than rounding; ``update`` is 1-based."""
    raw_is_constant = is_constant(np.asarray(raw, dtype=np.float64))
    if raw_is_constant or is_constant(shaped.double().numpy()):
        why = "" if raw_is_constant else f" after clipping and correction (raw: {min(raw):.4g} to {max(raw):.4g})"
        raise TrainingError(
            f"update {update} was stopped before its first step: all {len(raw)} answers got the same reward, {float(shaped[0]):.4g}{why}; "
            "there is nothing to learn from",
            hint="the weights are those of the update before; a reward model that gives one number to everything is broken, and so is a "
            "'reward.clip' below all scores",
        )


def explained_variance(values: Float[Tensor, " token"], returns: Float[Tensor, " token"]) -> float:
    """1 - var(returns - values) / var(returns): 1 is a perfect value, 0 no better than a constant. 0 where returns are constant."""
    spread = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / spread if spread > 0 else 0.0


def slope(scores: Sequence[float], lengths: Sequence[int]) -> float:
    """Least-squares reward per token over the answers of an update; 0 where all are of one length."""
    mean = sum(lengths) / len(lengths)
    spread = sum((length - mean) ** 2 for length in lengths)
    return sum((length - mean) * score for length, score in zip(lengths, scores, strict=True)) / spread if spread else 0.0


def parted(history: Sequence[Mapping[str, Any]], rule: DivergenceRule, num_updates: int) -> str:
    """Why the run must stop, or an empty string. ``history``: measurements of the updates so far, the newest last."""
    window = rule.window
    if len(history) < 2 * window:
        return ""
    level = rule.alpha / (2 * max(1, num_updates - 2 * window + 1))
    recent = history[-window:]
    for name, earlier in (("the first", history[:window]), ("the previous", history[-2 * window : -window])):
        rise = _welch(_pool(recent, "reward"), _pool(earlier, "reward"))
        fall = _welch(_pool(earlier, "held_out_reward"), _pool(recent, "held_out_reward"))
        if rise < level and fall < level:
            return (
                f"over the last {window} updates, against {name} {window}, the reward rose (p = {rise:.2g}) and the held-out reward fell "
                f"(p = {fall:.2g}; level {level:.2g})"
            )
    return ""


def _pool(entries: Sequence[Mapping[str, Any]], name: str) -> tuple[float, float, int]:
    """Mean, variance (n - 1) and number of all answers of several updates."""
    count = sum(entry["answers"] for entry in entries)
    mean = sum(entry["answers"] * entry[name] for entry in entries) / count
    squares = sum((entry["answers"] - 1) * entry[f"{name}_sd"] ** 2 + entry["answers"] * (entry[name] - mean) ** 2 for entry in entries)
    return mean, squares / (count - 1), count


def _welch(higher: tuple[float, float, int], lower: tuple[float, float, int]) -> float:
    """One-sided p-value of ``higher`` having the higher mean (Welch 1947). 1 where neither varies."""
    if higher[1] == lower[1] == 0:
        return float(higher[0] <= lower[0])
    spread = [math.sqrt(side[1]) for side in (higher, lower)]
    test = stats.ttest_ind_from_stats(
        higher[0], spread[0], higher[2], lower[0], spread[1], lower[2], equal_var=False, alternative="greater"
    )
    return float(test.pvalue)
