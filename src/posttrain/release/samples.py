"""G(x) and the other figures of single samples, from results on disk."""

from posttrain.evaluation import EvaluationResult, SampleResult, Score, conjunction
from posttrain.release.gate import AMOUNTS, COST, GOOD, LATENCY, GateConfig, Requirement

Key = tuple[str, int]
"""Case id and sample number."""


def metric_score(sample: SampleResult, metric: str, config: GateConfig) -> Score:
    """A sample's value of any metric a gate can name."""
    if metric == GOOD:
        return good_score(sample, config)
    if metric not in AMOUNTS:
        return sample.scores[metric]
    amounts = {
        LATENCY: sample.seconds,
        COST: cost_of(sample, config),
        "prompt_tokens": float(sample.num_prompt_tokens),
        "completion_tokens": float(sample.num_completion_tokens),
    }
    value = amounts[metric]
    if value is None:
        return Score(metric, None, "unscored", "not measured: the answer came from the cache", "amount")
    return Score(metric, value, kind="amount")


def good_score(sample: SampleResult, config: GateConfig) -> Score:
    """G(x) as a pass score. False beats unknown: a sample with one failed part is bad whatever the unknown ones would say."""
    parts: dict[str, bool | None] = {}
    for requirement in config.good.requires:
        score = sample.scores[requirement.score]
        if score.status != "not_applicable":
            parts[requirement.score] = _meets(score, requirement)
    if not parts:
        return Score(GOOD, None, "not_applicable", "no required score applies")
    if config.good.max_latency_seconds is not None:
        parts[LATENCY] = None if sample.seconds is None else sample.seconds <= config.good.max_latency_seconds
    if config.good.max_cost is not None:
        parts[COST] = cost_of(sample, config) <= config.good.max_cost
    result = conjunction(parts.values())
    if result is None:
        return Score(GOOD, None, "unscored", "unknown: " + ", ".join(name for name, ok in parts.items() if ok is None))
    return Score(GOOD, float(result), reason="fails: " + ", ".join(name for name, ok in parts.items() if ok is False) if not result else "")


def _meets(score: Score, requirement: Requirement) -> bool | None:
    if score.value is None:
        return None
    low, high = requirement.low, requirement.max
    return (low is None or score.value >= low) and (high is None or score.value <= high)


def cost_of(sample: SampleResult, config: GateConfig) -> float:
    """Tokens times prices, in the gate's currency."""
    prices = config.prices
    return (sample.num_prompt_tokens * prices.prompt_per_million + sample.num_completion_tokens * prices.completion_per_million) / 1e6


def scores_of(result: EvaluationResult, metric: str, slice_name: str, config: GateConfig) -> dict[Key, Score]:
    """Sample key to score over a slice ("" is the whole suite)."""
    return {
        key: metric_score(sample, metric, config)
        for key, sample in result.samples.items()
        if not slice_name or slice_name in result.cases[sample.case].slices
    }
