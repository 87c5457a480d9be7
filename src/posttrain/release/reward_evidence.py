"""Is a reward model's opinion evidence? Only where the model tells better from worse on test pairs of its own."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from posttrain.errors import ConfigError
from posttrain.evaluation import EvaluationResult
from posttrain.release.gate import GOOD, GateConfig
from posttrain.release.verdict import Check

REWARD_MODELS_FILE = "reward_models.json"
"""Beside the results: score to ``{"model": role, "pairs": number, "accuracy": {"value", "low", "high"}}`` of the model that gave it."""
CHANCE = 0.5


def not_evidence(result: EvaluationResult, config: GateConfig) -> dict[str, str]:
    """Scores of reward models whose accuracy on their own test pairs cannot be told from chance (its interval reaches 50 %), and why.

    ``good`` is among them when it asks for such a score. Empty where nothing is known about the models. Raises ConfigError for a damaged
    file.
    """
    file = result.folder / REWARD_MODELS_FILE
    if not file.is_file():
        return {}
    try:
        known: Mapping[str, Mapping[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        weak = {name: _why(entry) for name, entry in known.items() if (entry["accuracy"]["low"] or 0.0) <= CHANCE}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{file}: not the figures of reward models: {error!r}", hint="run the recipe's evaluation again") from None
    asked = [part.score for part in config.good.requires if part.score in weak]
    return weak | ({GOOD: weak[asked[0]]} if asked else {})


def discount(check: Check, weak: Mapping[str, str]) -> Check:
    """A check that rests on such a score says nothing, whichever way it turned out."""
    if check.metric not in weak or check.kind not in ("threshold", "non_inferiority"):
        return check
    return replace(check, outcome="inconclusive", reason=f"{weak[check.metric]} ({check.reason})")


def _why(entry: Mapping[str, Any]) -> str:
    value, low, high = (entry["accuracy"][name] for name in ("value", "low", "high"))
    interval = f"interval {low:.0%} to {high:.0%}" if low is not None and high is not None else "no interval"
    return (
        f"not evidence: the reward model '{entry['model']}' cannot be told from chance on its own test pairs: {value:.0%} of "
        f"{entry['pairs']} right, {interval}"
    )
