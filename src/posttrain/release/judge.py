"""Judge a candidate's results against the version in service. Reads results; never runs a model."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from posttrain.errors import ConfigError
from posttrain.evaluation import EvaluationResult, Score, changed_versions, rate_of
from posttrain.metrics import Interval, ratio_difference
from posttrain.release.checks import evidence_check, groups_of, lost_slices, non_inferiority_checks, threshold_checks, unscored_checks
from posttrain.release.gate import GOOD, Gate, GateConfig, check_limits
from posttrain.release.reward_evidence import discount, not_evidence
from posttrain.release.samples import Key, good_score, scores_of
from posttrain.release.substance import substance_check
from posttrain.release.two_metrics import Finding, TwoMetricReading, read_two_metrics
from posttrain.release.verdict import Check, Comparison, Outcome, SampleChange, Verdict, overall


def judge(candidate: EvaluationResult | str | Path, baseline: EvaluationResult | str | Path, gate: Gate) -> Verdict:
    """The verdict on two evaluation folders under a frozen gate.

    Raises ConfigError when they cannot be judged: results of different suites, of a suite changed since, under other versions of the
    tools, or a suite or gate frozen only after the candidate's training began.
    """
    after = candidate if isinstance(candidate, EvaluationResult) else EvaluationResult.load(candidate)
    before = baseline if isinstance(baseline, EvaluationResult) else EvaluationResult.load(baseline)
    check_comparable(after, before, gate)
    after, before = _as_the_suite_groups(after, gate), _as_the_suite_groups(before, gate)
    config = gate.config
    for result in (after, before):  # what the suite could not tell, such as of a scorer registered by the user, the results do
        check_limits(config, partial(_kind_of, result), str(gate.path))
    weak = not_evidence(after, config)
    substance = substance_check(config, gate.suite)
    reading = read_two_metrics(after, before, config, weak) if config.two_metric else None
    checks = (
        *unscored_checks(after, before, gate),
        evidence_check(gate),
        *([substance] if substance else []),
        *(discount(check, weak) for criterion in config.criteria for check in threshold_checks(criterion, after, gate)),
        *(discount(check, weak) for test in config.non_inferiority for check in non_inferiority_checks(test, after, before, gate)),
        *lost_slices(after, before, gate, weak),
        *([_two_metric_check(reading)] if reading else []),
    )
    return Verdict(
        status=overall(checks),
        gate=f"{config.name} {config.version}",
        suite=f"{gate.suite.config.name} {gate.suite.config.version}",
        suite_hash=gate.suite.hash,
        candidate=after.name,
        baseline=before.name,
        checks=checks,
        comparisons=tuple(_comparisons(after, before, gate)),
        changes=tuple(SampleChange(*key, _good(before, key, config), _good(after, key, config)) for key in after.samples),
        two_metric=reading,
    )


def _as_the_suite_groups(result: EvaluationResult, gate: Gate) -> EvaluationResult:
    """Results with the suite's groups: older ones do not know that copies of a case are one."""
    groups = gate.suite.groups
    return replace(result, cases={name: replace(case, group=groups.get(name, case.group)) for name, case in result.cases.items()})


def _kind_of(result: EvaluationResult, name: str) -> str | None:
    kinds = [score.kind for sample in result.samples.values() if (score := sample.scores[name]).status == "scored"]
    return None if not kinds else "amount" if "amount" in kinds else "rate"


def _two_metric_check(reading: TwoMetricReading) -> Check:
    """Gaming and regression block, drift and thin evidence leave it open. Says nothing against the other checks."""
    overall = reading.overall
    outcome = _OUTCOMES.get(overall.verdict, "inconclusive")
    n = min(figure.num_samples for figure in overall.figures)
    weak = "; ".join(dict.fromkeys(figure.text for figure in overall.figures if figure.reason.startswith("not evidence")))
    reason = f"{overall.verdict}: {overall.reason}" + (f"; {weak}" if weak else "")
    return Check("two_metric", "targets and guardrails", "", outcome, "a real improvement", reason, role="target", num_samples=n)


_OUTCOMES: Mapping[Finding, Outcome] = {"real improvement": "pass", "reward gaming": "block", "regression": "block"}


def check_comparable(candidate: EvaluationResult, baseline: EvaluationResult, gate: Gate) -> None:
    """Raise ConfigError unless both belong to the gate's suite as frozen before the training, and acted with the same tools."""
    suite = gate.suite
    expected = {(case.id, sample) for case in suite.cases for sample in range(suite.config.samples_per_case)}
    for version, result in (("candidate", candidate), ("baseline", baseline)):
        if result.suite_hash != suite.hash:
            raise ConfigError(
                f"{version} {result.folder}: evaluated on {result.suite_hash[:22]}, the gate judges by {suite.hash[:22]} ({suite.path})",
                hint="evaluate both models on the suite as it is now",
            )
        if set(result.samples) != expected:
            missing = len(expected - set(result.samples))
            raise ConfigError(
                f"{version} {result.folder}: {missing} of {len(expected)} samples are missing", hint="let `posttrain eval` finish"
            )
    if "worlds" in candidate.run and "worlds" in baseline.run:
        changed = changed_versions(baseline.run["worlds"], candidate.run["worlds"])
        if changed:
            raise ConfigError(
                f"candidate {candidate.folder} and baseline {baseline.folder} acted with other versions of {changed}",
                hint="evaluate both with the tools as they are now: the difference between them may be the tools'",
            )
    began = candidate.run.get("trained_at")
    for file, time in ((suite.path, gate.suite_frozen_at), (gate.path, gate.frozen_at)):
        if began and datetime.fromisoformat(time) > datetime.fromisoformat(began):
            raise ConfigError(
                f"{file}: frozen at {time}, after the candidate's training began at {began}",
                hint="a gate is written before training: train again under this one, or restore the earlier lock file",
            )


def _good(result: EvaluationResult, key: Key, config: GateConfig) -> bool | None:
    value = good_score(result.samples[key], config).value
    return None if value is None else bool(value)


def _comparisons(candidate: EvaluationResult, baseline: EvaluationResult, gate: Gate) -> Iterator[Comparison]:
    """Before and after for G(x) and every score, overall and by slice; differences over samples scored in both."""
    config = gate.config
    for metric in (GOOD, *gate.suite.score_names):
        for name in ("", *gate.suite.slices):
            after, before = (scores_of(result, metric, name, config) for result in (candidate, baseline))
            rates = [rate_of(list(s.values()), groups_of(candidate, s), confidence=config.confidence) for s in (before, after)]
            if not any(rate.num_applicable for rate in rates):
                continue
            yield Comparison(metric, name, rates[0], rates[1], _difference(after, before, candidate, config.confidence))


def _difference(after: Mapping[Key, Score], before: Mapping[Key, Score], candidate: EvaluationResult, confidence: float) -> Interval | None:
    """Over samples that neither version left unscored; each version over those where the score applies to it."""
    known = [key for key, score in after.items() if "unscored" not in (score.status, before[key].status)]
    values = [[math.nan if (value := scores[key].value) is None else value for key in known] for scores in (after, before)]
    if not all(any(math.isfinite(value) for value in side) for side in values):
        return None
    found = ratio_difference(*values, groups=groups_of(candidate, known), confidence=confidence)
    return found if math.isfinite(found.low) and math.isfinite(found.high) else None
