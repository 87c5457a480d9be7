"""Preference pairs out of judgements: disagreement becomes a soft label, never a coin toss."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.data.comparisons import check_one_rubric, latest_judgements
from posttrain.errors import ConfigError, DataError, suggest
from posttrain.feedback.labels import TIE, A, B, LabelTable, dawid_skene_fit, label_table
from posttrain.metrics.dawid_skene import MISSING
from posttrain.records import CHOICES, Comparison, PreferencePair

Method = Literal["dawid_skene", "majority", "mean"]
METHODS: tuple[Method, ...] = ("dawid_skene", "majority", "mean")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairSet:
    """The pairs made and what became of every other comparison: ``left_out`` by reason; ``soft``: pairs whose label is not 0 or 1."""

    pairs: tuple[PreferencePair, ...]
    comparisons: int
    left_out: Mapping[str, int]
    soft: int
    method: str
    rubric: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, without the pairs."""
        return {
            "pairs": len(self.pairs),
            "comparisons": self.comparisons,
            "left_out": dict(self.left_out),
            "soft": self.soft,
            "method": self.method,
            "rubric": self.rubric,
        }


def to_pairs(
    comparisons: Sequence[Comparison],
    *,
    method: Method = "dawid_skene",
    min_confidence: float = 0.5,
    ties: Literal["drop", "half"] = "drop",
) -> list[PreferencePair]:
    """The pairs of :func:`build_pairs` alone."""
    return list(build_pairs(comparisons, method=method, min_confidence=min_confidence, ties=ties).pairs)


def build_pairs(
    comparisons: Sequence[Comparison],
    *,
    method: Method = "dawid_skene",
    min_confidence: float = 0.5,
    ties: Literal["drop", "half"] = "drop",
) -> PairSet:
    """Pairs with ``probability`` = P(chosen is better), from .5 up, and ``margin`` = mean strength towards the chosen side.

    ``mean``: the share of votes, a tie half a vote to each (8 of 10 votes give .8). ``majority``: 1 for the side with most votes; where no
    choice has the most, it is a tie. ``dawid_skene``: the posterior, which trusts each annotator as far as they agree with the others
    and with gold tasks; it needs comparisons that several annotators judged. A comparison whose likeliest class is a tie (``mean``:
    whose share is .5) is dropped, or kept with .5 when ``ties`` is "half". Who judged a comparison again has one vote, the latest; a gold
    answer outweighs every vote.

    Left out and counted: no judgement, an empty answer, equal answers, ties, confidence below ``min_confidence``. Raises DataError on two
    rubric versions, naming both.
    """
    if method not in METHODS or ties not in ("drop", "half") or not 0.5 <= min_confidence <= 1:
        raise ConfigError(
            f"method '{method}', ties '{ties}', min_confidence {min_confidence} are not accepted",
            hint=f"method: {', '.join(METHODS)}; ties: drop, half; min_confidence: .5 to 1",
        )
    rubric = check_one_rubric(comparisons)
    left_out: Counter[str] = Counter()
    usable: list[Comparison] = []
    for comparison in comparisons:
        reason = unusable(comparison)
        if reason:
            left_out[reason] += 1
        else:
            usable.append(comparison)
    if not usable:
        raise DataError(f"none of {len(comparisons)} comparisons can become a pair: {_said(left_out)}", hint="collect judgements first")
    probabilities = choice_probabilities(label_table(usable), method=method)
    pairs: list[PreferencePair] = []
    for comparison, chances in zip(usable, probabilities, strict=True):
        better = float(chances[A] + chances[TIE] / 2)
        is_tie = abs(better - 0.5) < 1e-6 or (method != "mean" and int(np.argmax(chances)) == TIE)
        if is_tie and ties == "drop":
            left_out["tie"] += 1
        elif not is_tie and max(better, 1 - better) < min_confidence:
            left_out[f"confidence below {min_confidence}"] += 1
        else:
            pairs.append(_pair(comparison, 0.5 if is_tie else better, method, rubric))
    soft = sum(pair.probability != 1.0 for pair in pairs)
    return PairSet(tuple(pairs), len(comparisons), dict(left_out), soft, method, rubric)


def choice_probabilities(table: LabelTable, *, method: Method) -> Floats:
    """float64 [comparison, choice]: how likely a, b and tie are right; gold is certain, of an annotator the latest counts."""
    if method not in METHODS:
        raise ConfigError(f"unknown method '{method}'", hint=suggest(method, METHODS))
    votes = (table.latest[..., None] == np.arange(len(CHOICES))).sum(axis=1).astype(np.float64)
    is_gold = table.gold != MISSING
    if method == "dawid_skene":
        fit = dawid_skene_fit(table)
        if fit is None:
            raise DataError(
                "no comparison was judged by two annotators and none is a gold task, so nobody's reliability can be estimated",
                hint="use method 'mean' or 'majority', or have some comparisons judged twice",
            )
        return fit[0].posterior
    if method == "majority":
        best = votes == votes.max(axis=1, keepdims=True)
        votes = np.where((best.sum(axis=1) == 1)[:, None], best, np.eye(len(CHOICES))[TIE])
    votes[is_gold] = np.eye(len(CHOICES))[table.gold[is_gold]]
    return np.asarray(votes / votes.sum(axis=1, keepdims=True), dtype=np.float64)


def unusable(comparison: Comparison) -> str:
    """Why a comparison can become no pair whatever is judged; '' when it can."""
    if not comparison.judgements and comparison.gold is None:
        return "no judgement"
    if not all(side[-1].content.strip() or side[-1].tool_calls for side in (comparison.a, comparison.b)):
        return "empty answer"
    return "equal answers" if comparison.a == comparison.b else ""


def _pair(comparison: Comparison, better: float, method: str, rubric: str) -> PreferencePair:
    chosen, rejected, sign = (comparison.a, comparison.b, 1) if better >= 0.5 else (comparison.b, comparison.a, -1)
    latest = latest_judgements(comparison)
    said = Counter(one.choice for one in latest)
    rated = [one.strength * {"a": 1, "b": -1, "tie": 0}[one.choice] for one in latest if one.strength is not None]
    labels = {
        "method": method,
        "rubric": rubric,
        "annotators": sorted({one.annotator for one in comparison.judgements}),
        "votes": {"chosen": said[CHOICES[A if sign > 0 else B]], "rejected": said[CHOICES[B if sign > 0 else A]], "tie": said["tie"]},
    }
    return PreferencePair(
        prompt=comparison.prompt,
        chosen=chosen,
        rejected=rejected,
        tools=comparison.tools,
        probability=max(better, 1 - better),
        margin=max(0.0, sign * sum(rated) / len(rated)) if rated else None,
        id=comparison.id,
        source=comparison.source,
        metadata={**comparison.metadata, "labels": labels},
    )


def _said(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())
