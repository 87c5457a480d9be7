import json
import xml.etree.ElementTree as ET

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.evaluation import EvaluationResult, Score
from posttrain.metrics import wilson
from posttrain.release import freeze_gate, judge, load_gate, read_gate, write_junit
from posttrain.release.checks import difference_of
from posttrain.release.samples import good_score

GATE = "name: g\nsuite: suite.yaml\ngood: {requires: [exact]}\n"


def outcomes(verdict, kind):
    return {(check.metric, check.slice): check.outcome for check in verdict.checks if check.kind == kind}


def test_an_equal_candidate_ships_when_the_samples_can_show_it(bench, yes_no):
    bench.write(120)
    verdict = judge(bench.run("new", yes_no(90, 30)), bench.run("old", yes_no(90, 30)), bench.gate)
    # 120 equal pairs: lower bound -1.96 / 122 = -.016, inside the margin of .02.
    assert (verdict.status, verdict.exit_code) == ("ship", 0)


def test_the_same_rates_on_different_samples_do_not_ship(bench, yes_no):
    bench.write(120)
    verdict = judge(bench.run("new", yes_no(60, 60)), bench.run("old", yes_no(60, 60)[::-1]), bench.gate)
    assert (verdict.status, verdict.exit_code) == ("inconclusive", 4)
    assert "cannot be ruled out" in verdict.checks[-1].reason


def test_a_certain_regression_blocks(bench, yes_no):
    bench.write(120)
    verdict = judge(bench.run("new", yes_no(70, 50)), bench.run("old", yes_no(110, 10)), bench.gate)
    assert (verdict.status, verdict.exit_code) == ("block", 1)
    assert [f"{c.case}" for c in verdict.changes if c.change == "regressed"] == [f"c{i}" for i in range(70, 110)]
    assert verdict.dump()["changes"] == {"both_good": 70, "regressed": 40, "both_bad": 10}


def test_a_slice_below_the_minimum_is_inconclusive_however_good(bench, yes_no):
    slices = ["large"] * 120 + ["small"] * 29
    bench.write(149, gate=GATE + "non_inferiority: [{metric: good, slices: all}]\n", slices=slices)
    verdict = judge(bench.run("new", yes_no(149, 0)), bench.run("old", yes_no(0, 149)), bench.gate)
    assert outcomes(verdict, "non_inferiority") == {("good", ""): "pass", ("good", "large"): "pass", ("good", "small"): "inconclusive"}
    assert verdict.status == "inconclusive"


def test_the_minimum_is_thirty_by_default_and_thirty_is_enough(bench, yes_no):
    bench.write(30, gate=GATE + "non_inferiority: []\ncriteria: [{metric: good, min: 0.8}]\n")
    verdict = judge(bench.run("new", yes_no(30, 0)), bench.run("old", yes_no(30, 0)), bench.gate)
    assert verdict.status == "ship"


@pytest.mark.parametrize(
    ("criterion", "num_yes", "outcome"),
    [
        ("min: {low}", 80, "pass"),
        ("min: {above_low}", 80, "inconclusive"),
        ("min: {high}", 80, "inconclusive"),
        ("min: {above_high}", 80, "block"),
        ("min: 0.8, bound: point", 80, "pass"),
        ("min: 0.81, bound: point", 80, "block"),
        ("max: {high}", 80, "pass"),
        ("max: {below_high}", 80, "inconclusive"),
        ("max: {below_low}", 80, "block"),
        ("max: 0.8, bound: point", 80, "pass"),
        ("max: 0.79, bound: point", 80, "block"),
    ],
)
def test_a_threshold_reads_the_bound_that_is_nearer_to_failing(bench, yes_no, criterion, num_yes, outcome):
    low, high = wilson(num_yes, 100)
    near = {
        "low": low,
        "high": high,
        "above_low": low + 1e-6,
        "above_high": high + 1e-6,
        "below_low": low - 1e-6,
        "below_high": high - 1e-6,
    }
    bench.write(100, gate=GATE + f"non_inferiority: []\ncriteria: [{{metric: exact, {criterion.format(**near)}}}]\n")
    verdict = judge(bench.run("new", yes_no(num_yes, 20)), bench.run("old", yes_no(100, 0)), bench.gate)
    assert outcomes(verdict, "threshold") == {("exact", ""): outcome}


def test_more_unscored_than_the_limit_stops_as_infrastructure_even_when_all_else_fails(bench, yes_no):
    bench.write(120)
    verdict = judge(bench.run("new", [None] * 3 + yes_no(0, 117)), bench.run("old", yes_no(120, 0)), bench.gate)
    # 3 of 120 is 2.5 %, the suite's limit 2 %.
    assert (verdict.status, verdict.exit_code) == ("infrastructure", 3)
    assert outcomes(verdict, "unscored")["exact, candidate", ""] == "infrastructure"
    assert outcomes(verdict, "unscored")["exact, baseline", ""] == "pass"


def test_unscored_samples_within_the_limit_count_against_the_candidate(bench, yes_no):
    gate = GATE + "non_inferiority: []\ncriteria: [{metric: exact, min: 0.97, bound: point}]\n"
    bench.write(100, gate=gate)
    old = bench.run("old", yes_no(100, 0))
    assert judge(bench.run("whole", yes_no(97, 3)), old, bench.gate).status == "ship"
    # 96 of 98 scored is 98 %, but were the two unscored wrong it would be 96 %: not shown.
    assert judge(bench.run("holes", [None, None, *yes_no(96, 2)]), old, bench.gate).status == "inconclusive"


def test_the_baselines_unscored_samples_count_for_the_baseline(bench, yes_no):
    bench.write(120, suite="name: s\nversion: '1'\ncases: cases.jsonl\nmax_unscored_share: 0.5\nscorers: [{exact: {}}]\n")
    old = bench.run("old", [None] * 30 + yes_no(90, 0))
    assert judge(bench.run("new", yes_no(90, 30)), old, bench.gate).status != "ship"


def test_what_was_used_in_training_is_never_the_only_evidence(bench, yes_no):
    bench.write(120, gate=GATE + "used_in_training: [exact]\n")
    verdict = judge(bench.run("new", yes_no(120, 0)), bench.run("old", yes_no(0, 120)), bench.gate)
    assert verdict.status == "block"
    assert outcomes(verdict, "evidence") == {("independent evidence", ""): "block"}


def test_a_scorer_can_say_itself_that_it_was_used_in_training(bench, yes_no):
    suite = "name: s\nversion: '1'\ncases: cases.jsonl\nscorers: [{exact: {used_in_training: true}}, {regex: {pattern: 'yes|no'}}]\n"
    bench.write(120, suite=suite)
    new, old = bench.run("new", yes_no(120, 0)), bench.run("old", yes_no(0, 120))
    assert judge(new, old, bench.gate).status == "block"


def test_good_needs_latency_and_cost_and_never_guesses_a_latency(bench, yes_no):
    gate = (
        "name: g\nsuite: suite.yaml\nprices: {prompt_per_million: 10, completion_per_million: 50}\n"
        "good: {requires: [exact], max_latency_seconds: 6.05, max_cost: 0.002}\nnon_inferiority: []\n"
        "criteria: [{metric: good, min: 0.5, bound: point}, {metric: cost, max: 0.002, bound: point}]\n"
    )
    bench.write(120, gate=gate)
    # Cost of a sample: 100 * 10e-6 + 20 * 50e-6 = .002, just allowed. Latencies are .1, .2 ... 12 s: the first 60 are fast enough.
    new = bench.run("new", yes_no(120, 0), cache_dir=bench.root / "cache")
    verdict = judge(new, new, bench.gate)
    assert verdict.status == "ship"
    assert sum(change.candidate_good for change in verdict.changes) == 60
    (bench.root / "new").rename(bench.root / "first")
    cached = bench.run("new", yes_no(120, 0), cache_dir=bench.root / "cache")
    assert judge(cached, new, bench.gate).status == "infrastructure"


def test_p95_latency_is_judged_by_its_upper_bound(bench, yes_no):
    gate = GATE + "non_inferiority: []\ncriteria: [{metric: good, min: 0.5}, {metric: latency_seconds, statistic: p95, max: 11.0}]\n"
    bench.write(120, gate=gate)
    new = bench.run("new", yes_no(120, 0))
    # p95 of .1 ... 12 is about 11.4, its upper bound is beyond 11 and its lower bound below: not shown either way.
    assert judge(new, new, bench.gate).status == "inconclusive"


def test_results_of_another_suite_are_refused(bench, yes_no):
    bench.write(40)
    old = bench.run("old", yes_no(40, 0))
    bench.write(40, prompt="other question {}")
    with pytest.raises(ConfigError, match=r"baseline .*: evaluated on suite:") as caught:
        judge(bench.run("new", yes_no(40, 0)), old, bench.gate)
    assert caught.value.exit_code == 2


def test_a_suite_changed_since_it_was_frozen_is_refused_as_usage(bench):
    bench.write(40)
    bench.write(40, prompt="other question {}", freeze=False)
    with pytest.raises(ConfigError, match=r"cases\.jsonl:1: case 'c0' changed") as caught:
        load_gate(bench.root / "gate.yaml")
    assert caught.value.exit_code == 2


def test_a_gate_loosened_since_it_was_frozen_is_refused(bench):
    bench.write(40)
    bench.write(40, gate=GATE.replace("name: g", "name: yesno-gate") + "min_samples: 5\n", freeze=False)
    with pytest.raises(ConfigError, match="min_samples: 30 -> 5"):
        load_gate(bench.root / "gate.yaml")


def test_a_gate_that_was_never_frozen_is_refused(bench):
    bench.write(40, freeze=False)
    with pytest.raises(ConfigError, match="never frozen"):
        load_gate(bench.root / "gate.yaml")


def test_a_suite_frozen_after_training_began_is_refused(bench, yes_no):
    bench.write(40)
    old = bench.run("old", yes_no(40, 0))
    early = bench.run("new", yes_no(40, 0), trained_at="2020-01-01T00:00:00+00:00")
    with pytest.raises(ConfigError, match="after the candidate's training began"):
        judge(early, old, bench.gate)
    late = bench.run("late", yes_no(40, 0), trained_at="2999-01-01T00:00:00+00:00")
    assert judge(late, old, bench.gate).status in ("ship", "inconclusive")


def test_results_with_a_sample_missing_are_refused(bench, yes_no):
    bench.write(40)
    new = bench.run("new", yes_no(40, 0))
    file = new.folder / "results.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DataError, match=r"results\.jsonl was changed after summary\.json was made of it"):
        EvaluationResult.load(new.folder)
    summary = json.loads((new.folder / "summary.json").read_text())
    (new.folder / "summary.json").write_text(json.dumps({name: value for name, value in summary.items() if name != "results_hash"}))
    with pytest.raises(ConfigError, match="1 of 40 samples are missing"):
        judge(EvaluationResult.load(new.folder), new, bench.gate)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("good: {requires: [exct]}", "did you mean 'exact'"),
        ("good: {requires: [exact]}\ncriteria: [{metric: good}]", "either min or max"),
        ("good: {requires: [exact]}\ncriteria: [{metric: good, min: 0.5, bound: upper}]", "bound upper does not go with min"),
        ("good: {requires: [exact]}\ncriteria: [{metric: good, min: 0.5, slices: [nowhere]}]", "slice 'nowhere'"),
        ("good: {requires: [exact]}\ncriteria: [{metric: exact, max: 1, statistic: p95}]", "amounts only"),
        ("good: {requires: []}", "good.requires"),
        ("good: {requires: [exact]}\nnon_inferiority: []", "the gate asks nothing"),
        ("good: {requires: [exact]}\ncriteria: [{metric: good, min: -80}]", "min -80 is no limit of the rate 'good'"),
        ("good: {requires: [exact]}\nnon_inferiority: [{metric: good, margn: 0.1}]", "did you mean 'margin'"),
    ],
)
def test_a_wrong_gate_says_what_is_wrong(bench, gate, message):
    bench.write(3, gate=f"name: g\nsuite: suite.yaml\n{gate}\n", freeze=False)
    with pytest.raises(ConfigError) as caught:
        read_gate(bench.root / "gate.yaml")
    assert message in str(caught.value)


def test_a_margin_on_an_amount_is_refused_before_anything_is_trained(bench):
    with pytest.raises(ConfigError, match="'length' is an amount"):
        bench.write(30, gate=GATE + "non_inferiority: [{metric: length}]\n")


def test_a_limit_that_is_none_of_a_rate_is_refused(bench, yes_no):
    bench.write(40, gate=GATE + "criteria: [{metric: exact, max: 5}]\n")
    new = bench.run("new", yes_no(0, 40))
    with pytest.raises(ConfigError, match=r"max 5 is no limit of the rate 'exact'") as caught:
        judge(new, new, bench.gate)
    assert caught.value.hint == "a rate is a share: write 0.05 for 5 %"


def test_between_two_values_both_count(bench):
    bench.write(40, gate=GATE.replace("requires: [exact]", "requires: [{score: length, min: 1, max: 20}, exact]"))
    empty = bench.run("new", [""] * 40)
    assert good_score(next(iter(empty.samples.values())), bench.gate.config).value == 0.0
    bench.write(40, gate=GATE.replace("requires: [exact]", "requires: [{score: length, max: 20}]"))
    assert good_score(next(iter(empty.samples.values())), bench.gate.config).value == 1.0


def test_a_score_that_applies_to_other_samples_than_before_is_compared_by_its_mean():
    """A precision of the refusals that were made: the new version refuses twice as often, half of the time wrongly."""
    keys = [(f"c{i}", 0) for i in range(100)]
    right, wrong = Score("precision", 1.0), Score("precision", 0.0)
    silent = Score("precision", None, "not_applicable", "nothing was refused")
    before = {key: right if i < 50 else silent for i, key in enumerate(keys)}
    after = {key: right if i < 50 else wrong for i, key in enumerate(keys)}
    found = difference_of(after, before, keys, [case for case, _ in keys], (0.0, 0.0), 0.95)
    assert found.value == pytest.approx(-0.5)
    assert found.high < -0.38
    assert found.low > -0.62
    same = difference_of(before, before, keys, [case for case, _ in keys], (0.0, 0.0), 0.95)
    assert same.value == 0


def test_a_candidate_that_refuses_everything_is_not_as_precise_as_before(bench):
    suite = "name: s\nversion: '1'\ncases: cases.jsonl\nscorers:\n  - exact: {}\n  - refusal: {answer_key: answer, refusal_key: no}\n"
    gate = GATE + "non_inferiority: [{metric: refusal_precision}]\n"
    bench.write(100, suite=suite, gate=gate)
    rows = [json.loads(line) for line in (bench.root / "cases.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["expected"] = {"no": "x"} if number < 50 else {"answer": "x"}
    (bench.root / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (bench.root / "suite.lock").unlink()
    freeze_gate(bench.root / "gate.yaml")
    refusal, answer = json.dumps({"no": "x"}), json.dumps({"answer": "x"})
    old, new = bench.run("old", [refusal] * 50 + [answer] * 50), bench.run("new", [refusal] * 100)
    (check,) = [one for one in judge(new, old, bench.gate).checks if one.kind == "non_inferiority"]
    assert (check.outcome, check.value, check.num_samples) == ("block", pytest.approx(-0.5), 100)
    (row,) = [one for one in judge(new, old, bench.gate).comparisons if one.metric == "refusal_precision"]
    assert row.difference.value == pytest.approx(-0.5)
    never = bench.run("never", [answer] * 100)
    (check,) = [one for one in judge(never, old, bench.gate).checks if one.kind == "non_inferiority"]
    assert (check.outcome, check.reason) == ("inconclusive", "no sample applies to the candidate")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("run.json", "[]", "damaged results"),
        ("run.json", '{"name": "new"}', "'generator_hash' is missing"),
        ("cases.jsonl", "", "is of no case in cases.jsonl"),
    ],
)
def test_results_that_do_not_fit_together_are_one_message(bench, yes_no, file, content, message):
    bench.write(4)
    new = bench.run("new", yes_no(4, 0))
    (new.folder / file).write_text(content)
    with pytest.raises(DataError, match=message):
        EvaluationResult.load(new.folder)


def test_a_better_line_appended_to_the_results_is_refused(bench, yes_no):
    bench.write(4)
    new = bench.run("new", yes_no(0, 4))
    line = (new.folder / "results.jsonl").read_text().splitlines()[0].replace('"value": 0.0', '"value": 1.0')
    with open(new.folder / "results.jsonl", "a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=r"results\.jsonl:5: sample c0#0 occurs twice"):
        EvaluationResult.load(new.folder)


def test_junit_maps_block_to_failure_infrastructure_to_error_and_inconclusive_to_skipped(bench, yes_no, tmp_path):
    bench.write(120, gate=GATE + "criteria: [{metric: exact, min: 0.7}, {metric: length, min: 2}]\n")
    verdict = judge(bench.run("new", yes_no(100, 20)), bench.run("old", yes_no(120, 0)), bench.gate)
    write_junit(verdict, tmp_path / "junit.xml")
    suite = ET.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    by_name = {case.get("name"): [child.tag for child in case] for case in suite.findall("testcase")}
    assert by_name["threshold: exact"] == []
    assert by_name["threshold: length"] == ["failure"]
    assert by_name["non_inferiority: good"] == ["failure"]
    assert len(by_name) == len(verdict.checks)
    assert int(suite.get("failures")) == 2


def test_a_difference_without_bounds_is_none_and_the_verdict_can_be_written(bench):
    bench.write(40, slices=["many"] * 38 + ["few"] * 2, freeze=False)
    cases = bench.root / "cases.jsonl"
    cases.write_text(cases.read_text().replace('"slices": ["few"]', '"slices": ["few"], "group": "one report"'))
    freeze_gate(bench.root / "gate.yaml")
    old, new = bench.run("old", ["yes"] * 40), bench.run("new", ["yes"] * 39 + ["yes and more"])
    verdict = judge(new, old, bench.gate)
    (few,) = (one for one in verdict.comparisons if one.slice == "few" and one.metric not in ("good", "exact"))
    assert (few.baseline.value, few.candidate.value, few.difference) == (1.0, 2.0, None)
    json.dumps(verdict.dump(), allow_nan=False)
