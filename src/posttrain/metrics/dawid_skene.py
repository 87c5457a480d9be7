"""Dawid & Skene (1979, Applied Statistics 28:20): true classes and each annotator's confusion matrix, from labels alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError

MISSING = -1
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """``posterior`` [item, class]; ``confusion`` [annotator, true class, label], rows sum to 1; ``prior`` [class]; ``objective`` [step].

    ``objective`` is the log-likelihood plus the log of the Dirichlet prior that ``smoothing`` stands for; it never falls.
    """

    posterior: Floats
    confusion: Floats
    prior: Floats
    objective: Floats
    converged: bool


def dawid_skene(
    labels: ArrayLike,
    num_classes: int,
    *,
    known: ArrayLike | None = None,
    smoothing: ArrayLike = 0.1,
    max_steps: int = 500,
    tolerance: float = 1e-8,
) -> DawidSkene:
    """EM from the shares of votes. ``labels`` int [item, annotator] or [item, annotator, repeat], -1 where there is none.

    ``known`` int [item]: classes that are certain (gold tasks), -1 elsewhere. ``smoothing``: pseudo-counts added to the cells of the
    confusion matrices, a number or [true class, label], so that one label never makes an annotator certain (0: as published); their mean
    is added to each class. Stops when the objective rises by less than
    ``tolerance`` an item. Raises ConfigError when an item has neither label nor known class.
    """
    codes = np.asarray(labels, dtype=np.int64)
    codes = codes[:, :, None] if codes.ndim == 2 else codes
    if codes.ndim != 3 or not codes.size or codes.min() < MISSING or codes.max() >= num_classes:
        raise ConfigError(f"labels must be [item, annotator] with classes 0..{num_classes - 1} or -1, got shape {codes.shape}")
    votes = (codes[..., None] == np.arange(num_classes)).sum(axis=2).astype(np.float64)  # [item, annotator, label]
    given = votes.sum(axis=1)
    fixed = np.full(len(codes), MISSING) if known is None else np.asarray(known, dtype=np.int64)
    if ((given.sum(axis=1) == 0) & (fixed == MISSING)).any():
        raise ConfigError("an item has no label at all", hint="leave it out")
    certain = np.eye(num_classes)[fixed[fixed != MISSING]]
    posterior = given / np.maximum(given.sum(axis=1, keepdims=True), 1)
    posterior[fixed != MISSING] = certain
    extra = np.broadcast_to(np.asarray(smoothing, dtype=np.float64), (num_classes, num_classes))
    trace: list[float] = []
    for _ in range(max_steps):
        prior = (posterior.sum(axis=0) + extra.mean()) / (len(posterior) + num_classes * extra.mean())
        counts = np.einsum("it,ial->atl", posterior, votes) + extra
        totals = counts.sum(axis=2, keepdims=True)
        confusion = np.divide(counts, totals, out=np.full_like(counts, 1 / num_classes), where=totals > 0)
        log_prior, log_confusion = _log(prior), _log(confusion)
        joint = log_prior + np.einsum("ial,atl->it", votes, log_confusion)
        joint[fixed != MISSING] = np.where(certain > 0, joint[fixed != MISSING], -np.inf)
        highest = joint.max(axis=1, keepdims=True)
        evidence = highest[:, 0] + np.log(np.exp(joint - highest).sum(axis=1))
        posterior = np.exp(joint - evidence[:, None])
        regular = float(extra.mean() * log_prior.sum() + (extra * log_confusion).sum())
        trace.append(float(evidence.sum()) + regular)
        if len(trace) > 1 and trace[-1] - trace[-2] < tolerance * len(codes):
            break
    converged = len(trace) > 1 and trace[-1] - trace[-2] < tolerance * len(codes)
    return DawidSkene(posterior, confusion, prior, np.array(trace), converged)


def _log(values: Floats) -> Floats:
    """Natural logarithm; a probability of 0 becomes one too small to matter, so that no 0 x infinity arises."""
    return np.asarray(np.log(np.maximum(values, 1e-300)))
