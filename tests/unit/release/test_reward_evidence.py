"""A reward model at chance on its own test pairs decides nothing, whichever way its score moved."""

import json

import pytest

from posttrain.errors import ConfigError
from posttrain.release import REWARD_MODELS_FILE, judge, verdict_lines

GATE = """
name: g
suite: suite.yaml
good: {requires: [exact]}
non_inferiority: [{metric: good, margin: 0.5}]
criteria: [{metric: length, max: 1.5}]
"""
TWO_METRIC = """
two_metric:
  targets: [{metric: length, min_gain: 0.1}]
  guardrails: [{metric: exact, margin: 0.05}]
"""


def figures(low, high):
    return {"length": {"model": "held-out", "pairs": 40, "accuracy": {"value": (low + high) / 2, "low": low, "high": high}}}


def judged(bench, yes_no, found, *, gate=GATE):
    """Every answer is right and one word long. ``found``: what is known of the model behind that score."""
    bench.write(60, gate=gate)
    candidate, baseline = bench.run("new", yes_no(60, 0)), bench.run("old", yes_no(60, 0))
    if found is not None:
        (candidate.folder / REWARD_MODELS_FILE).write_text(json.dumps(found))
    return judge(candidate, baseline, bench.gate)


def check(verdict, metric):
    (found,) = [one for one in verdict.checks if one.metric == metric and one.kind in ("threshold", "two_metric")]
    return found


@pytest.mark.parametrize(("found", "status"), [(None, "ship"), (figures(0.51, 0.7), "ship"), (figures(0.45, 0.7), "inconclusive")])
def test_a_criterion_rests_on_a_reward_model_only_above_chance(bench, yes_no, found, status):
    verdict = judged(bench, yes_no, found)
    assert verdict.status == status
    reason = check(verdict, "length").reason
    assert ("'held-out' cannot be told from chance on its own test pairs" in reason) is (status == "inconclusive")


@pytest.mark.parametrize(("found", "outcome"), [(figures(0.6, 0.8), "block"), (figures(0.4, 0.6), "inconclusive")])
def test_nor_does_it_block(bench, yes_no, found, outcome):
    verdict = judged(bench, yes_no, found, gate=GATE.replace("max: 1.5", "max: 0.5"))
    assert (verdict.status, check(verdict, "length").outcome) == (outcome, outcome)


def test_the_two_metrics_and_the_report_say_so(bench, yes_no):
    gate = GATE.replace("max: 1.5", "min: 0.5") + TWO_METRIC
    verdict = judged(bench, yes_no, figures(0.4, 0.6), gate=gate)
    reading = verdict.two_metric.overall
    assert reading.verdict == "not enough evidence"
    assert [figure.state for figure in reading.figures] == ["unknown", "held"]
    said = (
        "not evidence: the reward model 'held-out' cannot be told from chance on its own test pairs: 50% of 40 right, interval 40% to 60%"
    )
    assert said in check(verdict, "targets and guardrails").reason
    assert said in "\n".join(verdict_lines(verdict))


def test_a_damaged_file_is_named(bench, yes_no):
    with pytest.raises(ConfigError, match=r"reward_models\.json: not the figures of reward models"):
        judged(bench, yes_no, {"length": 3})
