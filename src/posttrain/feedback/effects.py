"""What in the labels is not about quality: the place an answer was shown in, and its length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.data.comparisons import latest_judgements
from posttrain.errors import ConfigError
from posttrain.feedback.labels import judgements_of, prompt_group
from posttrain.metrics.bradley_terry import BradleyTerry, bradley_terry
from posttrain.metrics.intervals import Interval, proportion_interval
from posttrain.records import Comparison


@dataclass(frozen=True, slots=True)
class Effects:
    """Shares among decided judgements (ties left out), intervals over prompts; None where nothing can be said.

    ``first_chosen``: the answer shown first won (only judgements that record it); ``first_listed``: side a won, whatever was shown first.
    ``longer_chosen``: the answer with more characters won. ``by_position_alone``, ``by_length_alone``: how many of the labels a rule gets
    right that sees the place (as listed, where no judgement records it), or the length, and nothing else; .5 is chance. ``models``:
    Bradley-Terry scores of the systems named in ``model_a`` and ``model_b``, with the effect of the first place and of twice the length
    beside them (logits); ``no_models`` says why there are none.

    ``order_drawn``: either answer was shown first about as often (either system, where systems are named); where not, what the first place
    does cannot be told from what the answer shown there is worth. None where the order is not recorded.

    Of an annotator who judged a comparison again, the latest judgement counts.
    """

    first_chosen: Interval | None
    first_listed: Interval | None
    longer_chosen: Interval | None
    by_position_alone: Interval | None
    by_length_alone: Interval | None
    models: BradleyTerry | None
    no_models: str = ""
    order_drawn: bool | None = None


def label_effects(comparisons: Sequence[Comparison], *, seed: int = 0) -> Effects:
    """Position and length effects of all judgements."""
    comparisons = [replace(one, judgements=latest_judgements(one)) for one in comparisons]
    decided = [(comparison, one) for comparison, one in judgements_of(comparisons) if one.choice != "tie"]
    shown = [(comparison, one) for comparison, one in decided if one.first_shown]
    unequal = [(comparison, one) for comparison, one in decided if answer_length(comparison, "a") != answer_length(comparison, "b")]
    first = _share([one.choice == one.first_shown for _, one in shown], [comparison for comparison, _ in shown])
    listed = _share([one.choice == "a" for _, one in decided], [comparison for comparison, _ in decided])
    longer = _share([one.choice == longer_side(comparison) for comparison, one in unequal], [comparison for comparison, _ in unequal])
    rules = (_best_rule(first or listed), _best_rule(longer))
    return Effects(first, listed, longer, *rules, *_models(comparisons, seed), order_drawn=order_is_drawn(comparisons))


def order_is_drawn(comparisons: Sequence[Comparison]) -> bool | None:
    """Whether the order looks drawn: side a, or the system named first in the alphabet, was shown first in .4 to .6 of the judgements."""
    shown = []
    for comparison, one in judgements_of(comparisons):
        if one.first_shown:
            model_a, model_b = (str(comparison.metadata.get(name) or "") for name in ("model_a", "model_b"))
            is_named = bool(model_a and model_b and model_a != model_b)
            shown.append((one.first_shown == "a") == (model_a < model_b if is_named else True))
    return 0.4 <= sum(shown) / len(shown) <= 0.6 if shown else None


def answer_length(comparison: Comparison, side: str) -> int:
    """Characters of an answer."""
    return sum(len(message.content) for message in (comparison.a if side == "a" else comparison.b))


def longer_side(comparison: Comparison) -> str | None:
    """The side with more characters; None where both have as many."""
    a, b = answer_length(comparison, "a"), answer_length(comparison, "b")
    return None if a == b else "a" if a > b else "b"


def _share(values: Sequence[bool], comparisons: Sequence[Comparison]) -> Interval | None:
    if not values:
        return None
    return proportion_interval(np.array(values, dtype=np.float64), groups=[prompt_group(one) for one in comparisons])


def _best_rule(share: Interval | None) -> Interval | None:
    """The rule in the direction that is right more often."""
    if share is None or share.value >= 0.5:
        return share
    return Interval(1 - share.value, 1 - share.high, 1 - share.low, share.n, share.confidence, share.method)


def _models(comparisons: Sequence[Comparison], seed: int) -> tuple[BradleyTerry | None, str]:
    """The fit, or None and why there is none."""
    rows = [
        (comparison, one)
        for comparison, one in judgements_of(comparisons)
        if comparison.metadata.get("model_a") and comparison.metadata.get("model_b")
    ]
    if not rows:
        return None, "no judged comparison names its systems in model_a and model_b"
    place: NDArray[np.float64] = np.array([{"a": 1.0, "b": -1.0, None: 0.0}[one.first_shown] for _, one in rows])
    length = np.array([_log_ratio(comparison) for comparison, _ in rows])
    covariates: Mapping[str, Any] = {"shown first": place / 2, "twice as long": length}
    try:
        fit = bradley_terry(
            [str(comparison.metadata["model_a"]) for comparison, _ in rows],
            [str(comparison.metadata["model_b"]) for comparison, _ in rows],
            [{"a": 1.0, "b": 0.0, "tie": 0.5}[one.choice] for _, one in rows],
            covariates={name: values for name, values in covariates.items() if np.ptp(values) > 0},
            groups=[prompt_group(comparison) for comparison, _ in rows],
            num_draws=400,
            seed=seed,
        )
    except ConfigError as error:  # systems in islands never compared have no common scale
        return None, error.message
    return fit, ""


def _log_ratio(comparison: Comparison) -> float:
    return float(np.log2((answer_length(comparison, "a") + 1) / (answer_length(comparison, "b") + 1)))
