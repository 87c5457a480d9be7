"""The single questions a gate asks of results: unscored share, independent evidence, thresholds, non-inferiority, slices lost."""

import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from posttrain.evaluation import EvaluationResult, Score, latency_of, rate_of
from posttrain.metrics import Interval, non_inferiority, percentile_interval, ratio_difference
from posttrain.release.gate import AMOUNTS, GOOD, LATENCY, Criterion, Gate, GateConfig, NonInferiority, Slices
from posttrain.release.samples import Key, scores_of
from posttrain.release.substance import judged_scores
from posttrain.release.two_metrics import step_down
from posttrain.release.verdict import Check, Outcome


def groups_of(result: EvaluationResult, keys: Iterable[Key]) -> list[str]:
    """The group of each sample: what intervals treat as one draw."""
    return [result.cases[case].group for case, _ in keys]


def unscored_checks(candidate: EvaluationResult, baseline: EvaluationResult, gate: Gate) -> list[Check]:
    """One check a judged metric and version: is the share of unscored samples within the suite's limit?"""
    config, limit = gate.config, gate.suite.config.max_unscored_share
    checks = []
    read_together = [entry.metric for entry in config.two_metric.entries if entry.metric not in AMOUNTS] if config.two_metric else []
    for metric in dict.fromkeys((*judged_scores(config), GOOD, *read_together)):
        for version, result in (("candidate", candidate), ("baseline", baseline)):
            scores = list(scores_of(result, metric, "", config).values())
            unknown = [score for score in scores if score.status == "unscored"]
            n = len(unknown) + sum(score.status == "scored" for score in scores)
            share = len(unknown) / n if n else 0.0
            outcome: Outcome = "infrastructure" if share > limit else "pass"
            reason = f"{len(unknown)} of {n} unscored" + (f", the first: {unknown[0].reason}" if unknown else "")
            required = f"at most {limit:.1%} unscored"
            checks.append(Check("unscored", f"{metric}, {version}", "", outcome, required, reason, value=share, num_samples=n))
    return checks


def evidence_check(gate: Gate) -> Check:
    """What was used in training is never the gate's only evidence: some judged score must be independent of it."""
    used = {*gate.config.used_in_training, *(output for s in gate.suite.scorers if s.used_in_training for output in s.outputs)}
    independent = [score for score in judged_scores(gate.config) if score not in used]
    judged = ", ".join(judged_scores(gate.config))
    reason = f"independent: {', '.join(independent)}" if independent else f"all of them were: {judged}" if judged else "no score is judged"
    required = "a judged score that was not used in training"
    return Check("evidence", "independent evidence", "", "pass" if independent else "block", required, reason)


def _slices(slices: Slices, gate: Gate) -> tuple[str, ...]:
    """Slice names of a check; "" is the whole suite."""
    if slices == "all":
        return ("", *gate.suite.slices)
    return slices or ("",)


# ---- thresholds ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure with its interval and its worst and best reading (unscored samples all failed, all passed). None: does not exist.

    ``num_cases``: distinct cases among the samples; several samples of a case are no further evidence about other cases.
    """

    value: float | None
    low: float | None
    high: float | None
    value_low: float | None
    value_high: float | None
    num_samples: int
    num_cases: int


def num_cases(keys: Iterable[Key]) -> int:
    """Distinct cases among samples: what ``min_samples`` counts."""
    return len({case for case, _ in keys})


def threshold_checks(criterion: Criterion, candidate: EvaluationResult, gate: Gate) -> list[Check]:
    """One check a slice: does the candidate's figure keep to the criterion?"""
    checks = []
    for name in _slices(criterion.slices, gate):
        scores = scores_of(candidate, criterion.metric, name, gate.config)
        if criterion.metric in AMOUNTS:
            figure = _amount(criterion, candidate, scores, gate.config.confidence)
        else:
            rate = rate_of(list(scores.values()), groups_of(candidate, scores), confidence=gate.config.confidence)
            cases = num_cases(key for key, score in scores.items() if score.status != "not_applicable")
            figure = _Figure(rate.value, rate.bound_low, rate.bound_high, rate.value_low, rate.value_high, rate.num_applicable, cases)
        checks.append(_threshold(criterion, name, figure, gate.config.min_samples))
    return checks


def _amount(criterion: Criterion, result: EvaluationResult, scores: Mapping[Key, Score], confidence: float) -> _Figure:
    """Amounts are read over the samples that have one; latencies over the machine and concurrency that measured most."""
    keys = [key for key, score in scores.items() if score.value is not None]
    if criterion.metric == LATENCY and keys:
        place = latency_of(result.samples[key] for key in keys)[0]
        keys = [k for k in keys if (result.samples[k].machine, result.samples[k].concurrency) == (place["machine"], place["concurrency"])]
    if not keys:
        return _Figure(None, None, None, None, None, 0, 0)
    if criterion.statistic == "mean":
        rate = rate_of([scores[key] for key in keys], groups_of(result, keys), confidence=confidence)
        return _Figure(rate.value, rate.low, rate.high, rate.value, rate.value, len(keys), num_cases(keys))
    values = [value for key in keys if (value := scores[key].value) is not None]
    interval = percentile_interval(values, float(criterion.statistic[1:]), confidence=confidence)
    low, high = (bound if np.isfinite(bound) else None for bound in (interval.low, interval.high))
    return _Figure(interval.value, low, high, interval.value, interval.value, len(keys), num_cases(keys))


def _threshold(criterion: Criterion, name: str, figure: _Figure, min_samples: int) -> Check:
    """Kept for certain: pass. Missed for certain: block. In between, or too few samples: inconclusive."""
    bottom, top = (figure.value_low, figure.value_high) if criterion.bound == "point" else (figure.low, figure.high)
    if criterion.min is not None:
        limit, word, side = criterion.min, "at least", "lower bound"
        kept, missed = _reaches(bottom, limit), top is not None and not _reaches(top, limit)
    else:
        assert criterion.max is not None  # the config holds exactly one of the two
        limit, word, side = criterion.max, "at most", "upper bound"
        kept, missed = _reaches(limit, top), bottom is not None and not _reaches(limit, bottom)
    found = f"{_number(figure.value)}, interval {_number(figure.low)} to {_number(figure.high)}"
    outcome: Outcome = "pass" if kept else "block" if missed else "inconclusive"
    if figure.num_cases < min_samples:
        outcome, found = "inconclusive", f"only {figure.num_cases} cases, {min_samples} needed ({found})"
    statistic = f"{criterion.statistic} " if criterion.metric in AMOUNTS else ""
    required = f"{statistic}{word} {_number(limit)}, {'point' if criterion.bound == 'point' else side}"
    return Check(
        kind="threshold",
        metric=criterion.metric,
        slice=name,
        outcome=outcome,
        required=required,
        reason=found,
        role=criterion.role,
        value=figure.value,
        low=figure.low,
        high=figure.high,
        num_samples=figure.num_samples,
    )


def _reaches(value: float | None, limit: float | None) -> bool:
    """value >= limit, with rounding of the last digits forgiven; an unknown figure reaches nothing."""
    return value is not None and limit is not None and (value >= limit or math.isclose(value, limit, rel_tol=1e-12))


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


# ---- non-inferiority -------------------------------------------------------------------------------------------------------


def non_inferiority_checks(test: NonInferiority, candidate: EvaluationResult, baseline: EvaluationResult, gate: Gate) -> list[Check]:
    """One check a slice: is the candidate at most ``margin`` worse than the version in service?"""
    return [_non_inferior(test, name, candidate, baseline, gate.config) for name in _slices(test.slices, gate)]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """A metric over a slice in both versions: sample to score."""

    after: Mapping[Key, Score]
    before: Mapping[Key, Score]
    groups: list[str]

    @property
    def sides(self) -> list[list[Key]]:
        """Samples the metric applies to, of the candidate and of the baseline."""
        return [[key for key, score in scores.items() if score.status != "not_applicable"] for scores in (self.after, self.before)]

    @property
    def num_cases(self) -> int:
        """Distinct cases of the smaller side."""
        return min(num_cases(keys) for keys in self.sides)

    def worst(self, confidence: float) -> Interval:
        """The difference if what is unscored had failed after and passed before."""
        return self._difference(0.0, 1.0, confidence)

    def best(self, confidence: float) -> Interval:
        """The difference if what is unscored had passed after and failed before."""
        return self._difference(1.0, 0.0, confidence)

    def _difference(self, unscored_after: float, unscored_before: float, confidence: float) -> Interval:
        first = [_filled(score, unscored_after) for score in self.after.values()]
        second = [_filled(self.before[key], unscored_before) for key in self.after]
        return ratio_difference(first, second, groups=self.groups, confidence=confidence)


def _pairs(metric: str, name: str, candidate: EvaluationResult, baseline: EvaluationResult, config: GateConfig) -> _Pairs:
    after, before = (scores_of(result, metric, name, config) for result in (candidate, baseline))
    return _Pairs(after, before, groups_of(candidate, after))


def _non_inferior(test: NonInferiority, name: str, candidate: EvaluationResult, baseline: EvaluationResult, config: GateConfig) -> Check:
    required = f"at most {test.margin:.3g} worse than the version in service, lower bound"
    pairs = _pairs(test.metric, name, candidate, baseline, config)
    if not all(pairs.sides):
        which = " or ".join(name for name, keys in zip(("the candidate", "the baseline"), pairs.sides, strict=True) if not keys)
        return Check("non_inferiority", test.metric, name, "inconclusive", required, f"no sample of {which} applies", test.role)
    worst, best = pairs.worst(config.confidence), pairs.best(config.confidence)
    reason = f"difference {worst.value:+.3f}, interval {worst.low:+.3f} to {best.high:+.3f}"
    outcome: Outcome = "inconclusive"
    if pairs.num_cases < config.min_samples:
        reason = f"only {pairs.num_cases} paired cases, {config.min_samples} needed ({reason})"
    elif non_inferiority(worst, test.margin) == "non_inferior":
        outcome = "pass"
    elif non_inferiority(best, test.margin) == "inferior":
        outcome, reason = "block", f"worse for certain: {reason}"
    else:
        reason = f"a loss above {test.margin:.3g} cannot be ruled out: {reason}"
    return Check(
        kind="non_inferiority",
        metric=test.metric,
        slice=name,
        outcome=outcome,
        required=required,
        reason=reason,
        role=test.role,
        value=worst.value,
        low=worst.low,
        high=best.high,
        num_samples=min(map(len, pairs.sides)),
    )


def _filled(score: Score, unscored: float) -> float:
    """A score's value, NaN where it does not apply."""
    if score.status == "not_applicable":
        return math.nan
    return unscored if score.value is None else score.value


def lost_slices(candidate: EvaluationResult, baseline: EvaluationResult, gate: Gate, weak: Container[str] = ()) -> list[Check]:
    """One inconclusive check for each slice that no non-inferiority test lists and that has lost more than its margin for certain.

    Read on the metrics of those tests, except ``weak`` ones, at their smallest margin, in slices of at least ``min_samples`` cases;
    corrected by Holm for how many are read.
    """
    config, tests = gate.config, [test for test in gate.config.non_inferiority if test.metric not in weak]
    listed = {(test.metric, name) for test in tests for name in _slices(test.slices, gate)}
    margins = {test.metric: min(other.margin for other in tests if other.metric == test.metric) for test in tests}
    places = [(metric, name) for metric in margins for name in gate.suite.slices if (metric, name) not in listed]
    found = {(metric, name): _pairs(metric, name, candidate, baseline, config) for metric, name in places}
    read = {place: pairs for place, pairs in found.items() if all(pairs.sides) and pairs.num_cases >= config.min_samples}
    claims = [partial(_is_lost, pairs, margins[metric]) for (metric, _), pairs in read.items()]
    checks = []
    for ((metric, name), pairs), level in zip(read.items(), step_down(claims, config.confidence), strict=True):
        if level is not None:
            low, best = pairs.worst(level).low, pairs.best(level)
            checks.append(
                Check(
                    kind="slice",
                    metric=metric,
                    slice=name,
                    outcome="inconclusive",
                    required=f"no slice that the gate does not list loses more than {margins[metric]:.3g} for certain",
                    reason=f"difference {best.value:+.3f}, interval {low:+.3f} to {best.high:+.3f} at {level:.4g}, {pairs.num_cases} cases",
                    value=best.value,
                    low=low,
                    high=best.high,
                    num_samples=min(map(len, pairs.sides)),
                )
            )
    return checks


def _is_lost(pairs: _Pairs, margin: float, confidence: float) -> bool:
    return pairs.best(confidence).high < -margin
