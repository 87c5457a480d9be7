import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.evaluation import EvaluationResult, ScorerKind, scorers
from posttrain.metrics import wilson
from posttrain.release import Check, freeze_gate, judge, load_gate, read_gate, write_junit
from posttrain.release.samples import good_score
from posttrain.release.verdict import overall

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


def test_the_minimum_counts_cases_not_the_samples_of_each(bench):
    suite = "name: s\nversion: '1'\ncases: cases.jsonl\nsamples_per_case: 10\nsampling: {temperature: 1}\nscorers: [{exact: {}}]\n"
    bench.write(3, suite=suite, gate=GATE + "criteria: [{metric: exact, min: 0.1}]\n")
    verdict = judge(bench.run("new", ["yes"] * 3), bench.run("old", ["no"] * 3), bench.gate)
    assert (outcomes(verdict, "threshold"), outcomes(verdict, "non_inferiority")) == (
        {("exact", ""): "inconclusive"},
        {("good", ""): "inconclusive"},
    )
    assert all("only 3" in check.reason for check in verdict.checks if check.outcome == "inconclusive")


def test_a_hundred_copies_of_one_case_show_nothing_even_in_results_that_do_not_know_it(bench, yes_no):
    bench.write(100, prompt="the same question", gate=GATE + "criteria: [{metric: exact, min: 0.5}]\n")
    new, old = bench.run("new", yes_no(100, 0)), bench.run("old", yes_no(0, 100))
    assert judge(new, old, bench.gate).status == "inconclusive"
    file = new.folder / "cases.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | {"group": row["id"]}) + "\n" for row in rows))
    assert judge(new.folder, old, bench.gate).status == "inconclusive"


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
    gate = GATE + "criteria: [{metric: latency_seconds, statistic: p95, max: 11.0}]\n"
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
        ("good: {requires: [exact]}\nnon_inferiority: []", "the gate asks for nothing, so anything would ship"),
        ("good: {requires: [exact]}\ncriteria: [{metric: good, min: -80}]", "min -80 of 'good', which lies between 0 and 1"),
        ("good: {requires: [exact]}\nnon_inferiority: [{metric: good, margn: 0.1}]", "did you mean 'margin'"),
    ],
)
def test_a_wrong_gate_says_what_is_wrong(bench, gate, message):
    bench.write(3, gate=f"name: g\nsuite: suite.yaml\n{gate}\n", freeze=False)
    with pytest.raises(ConfigError) as caught:
        read_gate(bench.root / "gate.yaml")
    assert message in str(caught.value)


def test_checks_that_are_not_about_figures_never_ship():
    evidence = Check("evidence", "independent evidence", "", "pass", "", "")
    assert overall((evidence,)) == "inconclusive"
    assert overall((evidence, Check("threshold", "exact", "", "pass", "", ""))) == "ship"


def test_a_margin_on_an_amount_is_refused_before_training(bench):
    with pytest.raises(ConfigError, match="'length' is an amount"):
        bench.write(30, gate=GATE + "non_inferiority: [{metric: length}]\n")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("criteria: [{metric: exact, max: 5}]", "max 5 of 'exact', which lies between 0 and 1"),
        ("criteria: [{metric: good, min: 80}]", "0.05 is 5 %"),
        ("criteria: [{metric: exact, min: -80}]", "lies between 0 and 1"),
        ("criteria: [{metric: exact, min: 0}]", "no value of 'exact' can fail min 0"),
        ("criteria: [{metric: good, max: 1.0}]", "no value of 'good' can fail max 1"),
        ("good: {requires: [{score: exact, min: 0}]}", "good.requires.0: no value of 'exact' can fail min 0"),
        ("good: {requires: [{score: exact, min: 0, max: 1}]}", "can fail min 0 and max 1"),
        ("good: {requires: [{score: length, min: 9, max: 3}]}", "no value is at least 9 and at most 3"),
    ],
)
def test_limits_that_no_share_can_have_or_fail_are_refused(bench, asked, message):
    gate = asked if asked.startswith("good") else "good: {requires: [exact]}\n" + asked
    bench.write(3, gate=f"name: g\nsuite: suite.yaml\n{gate}\n", freeze=False)
    with pytest.raises(ConfigError) as caught:
        read_gate(bench.root / "gate.yaml")
    assert message in str(caught.value)


def test_limits_on_amounts_are_any_number(bench):
    bench.write(3, gate=GATE + "criteria: [{metric: length, max: 300}, {metric: cost, min: 0}, {metric: exact, min: 1.0, bound: point}]\n")
    assert read_gate(bench.root / "gate.yaml")


@pytest.fixture
def silent_scorer():
    """A registered scorer of words that does not say that its score is an amount."""
    kind = scorers.get("length")
    scorers.register("silent_length")(ScorerKind(kind.options, kind.build, kind.outputs, kind.files))
    yield
    scorers._entries.pop("silent_length")


@pytest.mark.parametrize(
    ("more", "message"),
    [("non_inferiority: [{metric: silent_length}]\n", "is an amount"), ("criteria: [{metric: silent, max: 5}]\n", "between 0 and 1")],
)
@pytest.mark.usefixtures("silent_scorer")
def test_what_only_results_tell_of_a_score_is_checked_before_the_verdict(bench, more, message):
    suite = (
        "name: s\nversion: '1'\ncases: cases.jsonl\nscorers: [{exact: {}}, {silent_length: {}}, {silent_length: {name: silent, max: 3}}]\n"
    )
    bench.write(30, suite=suite, gate=GATE + more)
    new = bench.run("new", ["yes"] * 30)
    with pytest.raises(ConfigError, match=message):
        judge(new, new, bench.gate)


def test_between_two_values_both_count(bench):
    bench.write(40, gate=GATE.replace("requires: [exact]", "requires: [{score: length, min: 1, max: 20}, exact]"))
    empty = bench.run("new", [""] * 40)
    assert good_score(next(iter(empty.samples.values())), bench.gate.config).value == 0.0
    bench.write(40, gate=GATE.replace("requires: [exact]", "requires: [{score: length, max: 20}]"))
    assert good_score(next(iter(empty.samples.values())), bench.gate.config).value == 1.0


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
    assert (check.outcome, check.value, check.num_samples) == ("block", pytest.approx(-0.5), 50)
    (row,) = [one for one in judge(new, old, bench.gate).comparisons if one.metric == "refusal_precision"]
    assert row.difference.value == pytest.approx(-0.5)
    never = bench.run("never", [answer] * 100)
    (check,) = [one for one in judge(never, old, bench.gate).checks if one.kind == "non_inferiority"]
    assert (check.outcome, check.reason) == ("inconclusive", "no sample of the candidate applies")


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


def test_a_requirement_with_both_limits_needs_both(bench):
    gate = "name: g\nsuite: suite.yaml\ngood: {requires: [{score: length, min: 1, max: 2}]}\n"
    bench.write(3, gate=gate)
    new = bench.run("new", ["", "yes", "yes yes yes"])
    assert [good_score(sample, bench.gate.config).value for sample in new.samples.values()] == [0.0, 1.0, 0.0]


def test_a_requirement_with_a_max_alone_is_frozen_as_ever_and_told_from_both(bench):
    def frozen(requirement):
        bench.write(3, gate=f"name: g\nsuite: suite.yaml\ngood: {{requires: [{{score: length, {requirement}}}]}}\n", freeze=False)
        return read_gate(bench.root / "gate.yaml")[0].dump()["good"]["requires"][0]

    assert frozen("max: 20") == {"score": "length", "min": 1.0, "max": 20.0}
    assert frozen("min: 1, max: 20") != frozen("max: 20")
    assert frozen("min: 3") == {"score": "length", "min": 3.0, "max": None}


def test_a_slice_nobody_listed_that_is_lost_for_certain_makes_a_ship_inconclusive(bench, yes_no):
    slices = ["rare" if i < 40 else "small" if i < 60 else "common" for i in range(2000)]
    bench.write(2000, slices=slices)
    old = bench.run("old", yes_no(2000, 0))
    verdict = judge(bench.run("new", ["no"] * 18 + ["yes"] * 22 + ["no"] * 5 + ["yes"] * 1955), old, bench.gate)
    assert outcomes(verdict, "non_inferiority") == {("good", ""): "pass"}
    # 18 of 40 lost is -.45 for certain; "small" has 20 cases, too few to say so.
    assert outcomes(verdict, "slice") == {("good", "rare"): "inconclusive"}
    assert verdict.status == "inconclusive"
    assert "slice: good [rare]" in verdict.headline
    check = next(check for check in verdict.checks if check.kind == "slice")
    assert "difference -0.450" in check.reason
    assert "40 cases" in check.reason


def test_chance_losses_of_many_slices_do_not_hold_a_candidate_back(bench):
    rng = np.random.default_rng(12)
    bench.write(1600, gate=GATE + "non_inferiority: [{metric: good, margin: 0.1}]\n", slices=[f"s{i % 40}" for i in range(1600)])
    before = rng.random(1600) < 0.7
    after = np.where(rng.random(1600) < 0.3, rng.random(1600) < 0.7, before)
    runs = [bench.run(name, ["yes" if right else "no" for right in side]) for name, side in (("new", after), ("old", before))]
    verdict = judge(*runs, bench.gate)
    assert min(row.difference.value for row in verdict.comparisons if row.slice and row.metric == "good") < -0.1
    assert (outcomes(verdict, "slice"), verdict.status) == ({}, "ship")


PRECISION = """
name: s
version: '1'
cases: cases.jsonl
scorers: [{refusal: {answer_key: a, refusal_key: "no"}}]
"""


@pytest.fixture
def refusing(bench):
    """100 questions, every second to be refused; the gate asks for the precision of refusals."""
    gate = "name: g\nsuite: suite.yaml\ngood: {requires: [refusal]}\nnon_inferiority: [{metric: refusal_precision, margin: 0.1}]\n"
    bench.write(100, suite=PRECISION, gate=gate, freeze=False)
    cases = bench.root / "cases.jsonl"
    rows = [json.loads(line) for line in cases.read_text().splitlines()]
    expected = [{"no": True}, {"a": "x"}] * 50
    cases.write_text("".join(json.dumps(row | {"expected": found}) + "\n" for row, found in zip(rows, expected, strict=True)))
    freeze_gate(bench.root / "gate.yaml")
    return bench


REFUSES, ANSWERS = '{"no": true}', '{"a": "x"}'


def test_a_candidate_that_refuses_everything_is_less_precise(refusing):
    verdict = judge(refusing.run("new", [REFUSES] * 100), refusing.run("old", [REFUSES, ANSWERS] * 50), refusing.gate)
    check = next(check for check in verdict.checks if check.kind == "non_inferiority")
    assert (check.outcome, check.value) == ("block", pytest.approx(-0.5))
    row = next(row for row in verdict.comparisons if row.metric == "refusal_precision")
    assert row.difference.value == pytest.approx(-0.5)


def test_a_candidate_that_never_refuses_has_no_precision(refusing):
    verdict = judge(refusing.run("new", [ANSWERS] * 100), refusing.run("old", [REFUSES, ANSWERS] * 50), refusing.gate)
    check = next(check for check in verdict.checks if check.kind == "non_inferiority")
    assert (check.outcome, check.reason) == ("inconclusive", "no sample of the candidate applies")
    assert next(row for row in verdict.comparisons if row.metric == "refusal_precision").difference is None


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
