"""Valid is not right: a gate on form alone blocks, whatever the figures say; results under other tools are not compared."""

import json

import pytest
from typer.testing import CliRunner

from posttrain.cli.suite import app
from posttrain.errors import ConfigError
from posttrain.evaluation import EvaluationResult
from posttrain.release import judge, read_gate, substance_check
from posttrain.release.substance import judged_scores

SUITE = """
name: yesno
version: "1"
cases: cases.jsonl
scorers:
  - exact: {}
  - length: {unit: words}
  - tool_calls: {name: calls}
"""
GATE = "name: g\nsuite: suite.yaml\ngood: {requires: [%s]}\n%s"
CRITERION = "criteria: [{metric: %s, min: 0.5}]\n"
TARGET = "two_metric: {targets: [{metric: exact, min_gain: 0.1}], guardrails: [{metric: calls_valid, margin: 0.1}]}\n"


@pytest.mark.parametrize(
    ("requires", "more", "outcome"),
    [
        ("calls_valid", "", "block"),
        ("calls_valid, calls_count, length", "", "block"),
        ("calls_valid", CRITERION % "good", "block"),  # good is made of what it requires
        ("calls_valid", "criteria: [{metric: latency_seconds, max: 9}]\n", "block"),
        ("calls_valid, calls_arguments", "", "pass"),
        ("calls_valid", CRITERION % "exact", "pass"),
        ("calls_valid", TARGET, "pass"),
        ("exact", "", None),  # nothing of form is asked, so there is nothing to confuse
    ],
)
def test_a_gate_has_to_ask_for_more_than_form(bench, requires, more, outcome):
    bench.write(4, suite=SUITE, gate=GATE % (requires, more))
    check = substance_check(*read_gate(bench.root / "gate.yaml"))
    assert (check and check.outcome) == outcome


def test_what_makes_a_sample_good_counts_only_where_something_is_asked_of_it(bench):
    gate = "name: g\nsuite: suite.yaml\ngood: {requires: [exact]}\nnon_inferiority: []\ncriteria: [{metric: calls_valid, min: 0.5}]\n"
    bench.write(4, suite=SUITE, gate=gate)
    assert substance_check(*read_gate(bench.root / "gate.yaml")).outcome == "block"


@pytest.mark.parametrize("more", [CRITERION % "calls_valid", "criteria: [{metric: latency_seconds, max: 9}]\n"])
def test_what_good_requires_counts_only_where_good_is_judged(bench, more):
    bench.write(40, suite=SUITE, gate=GATE % ("exact", "non_inferiority: []\n" + more))
    config, suite = read_gate(bench.root / "gate.yaml")
    assert "exact" not in judged_scores(config)
    assert substance_check(config, suite).outcome == "block"
    before, after = bench.run("before", ["yes"] * 40), bench.run("after", ["no"] * 40)
    assert judge(after, before, bench.gate).status == "block"


def test_two_metrics_read_together_are_judged_where_nothing_else_is(bench):
    bench.write(4, suite=SUITE, gate=GATE % ("calls_valid", "non_inferiority: []\n" + TARGET))
    assert judged_scores(read_gate(bench.root / "gate.yaml")[0]) == ["exact", "calls_valid"]


def test_a_gate_on_form_alone_blocks_what_it_would_have_shipped(bench):
    bench.write(40, suite=SUITE, gate=GATE % ("length", "non_inferiority: [{metric: good, margin: 0.1}]\n"))
    before, after = bench.run("before", ["yes"] * 40), bench.run("after", ["no"] * 40)
    verdict = judge(after, before, bench.gate)
    assert [check.name for check in verdict.checks if check.outcome != "pass"] == ["substance: valid and right"]
    assert verdict.exit_code == 1


def test_suite_check_says_so_before_anything_is_trained(bench):
    bench.write(4, suite=SUITE, gate=GATE % ("calls_valid", ""))
    found = CliRunner().invoke(app, ["check", str(bench.root / "gate.yaml"), "--json"])
    assert found.exit_code == 1
    assert "valid is not right: it asks for calls_valid" in json.loads(found.stdout)["weak"]
    assert CliRunner().invoke(app, ["check", str(bench.root / "suite.yaml")]).exit_code == 0


def test_results_under_other_tools_are_not_compared(bench):
    bench.write(4)
    runs = [bench.run(name, ["yes"] * 4) for name in ("before", "after")]
    for result, version in zip(runs, ("sha256:a", "sha256:b"), strict=True):
        file = result.folder / "run.json"
        worlds = {"books": {"version": "1", "tools": {"pay": version, "read": "sha256:same"}}}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"worlds": worlds}))
    before, after = (EvaluationResult.load(result.folder) for result in runs)
    with pytest.raises(ConfigError, match=r"acted with other versions of books \(pay\)"):
        judge(after, before, bench.gate)
    assert judge(before, before, bench.gate)
