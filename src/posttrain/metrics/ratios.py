"""Figures formed from counts: pass@k, precision and recall."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.errors import ConfigError
from posttrain.metrics.intervals import Interval, proportion_interval


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased estimate of P(at least one of k samples is right), from n samples with c right: 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021 (arXiv:2107.03374), equation 1. n=5, c=2 gives .4 at k=1 and .9 at k=3.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ConfigError(f"pass@k needs 0 <= correct <= n and 1 <= k <= n, got n={num_samples}, correct={num_correct}, k={k}")
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


@dataclass(frozen=True, slots=True)
class PrecisionRecall:
    """Of what was predicted positive, the share that is (precision); of what is positive, the share predicted (recall).

    None where the denominator is zero: undefined is not zero.
    """

    precision: Interval | None
    recall: Interval | None


def precision_recall(predicted: Sequence[bool], actual: Sequence[bool], *, confidence: float = 0.95) -> PrecisionRecall:
    """Precision and recall with Wilson intervals; both inputs are [sample]."""
    if len(predicted) != len(actual):
        raise ConfigError(f"{len(predicted)} predictions for {len(actual)} labels")
    of_predicted = [bool(a) for p, a in zip(predicted, actual, strict=True) if p]
    of_actual = [bool(p) for p, a in zip(predicted, actual, strict=True) if a]
    return PrecisionRecall(
        precision=proportion_interval(of_predicted, confidence=confidence) if of_predicted else None,
        recall=proportion_interval(of_actual, confidence=confidence) if of_actual else None,
    )
