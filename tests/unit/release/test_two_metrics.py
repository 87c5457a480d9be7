"""The two-metric reading: each case on data of known truth, its error rates in simulation, and its place in the gate."""

from dataclasses import replace

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.release import Change, TwoMetricConfig, judge, read_changes, read_two_metrics, verdict_lines, write_report
from posttrain.release.two_metrics import step_down

CONFIG = TwoMetricConfig.model_validate(
    {
        "targets": [{"metric": "reward", "min_gain": 0.2}],
        "guardrails": [
            {"metric": "kl", "direction": "lower", "margin": 0.5},
            {"metric": "valid", "margin": 0.1},
            {"metric": "completion_tokens", "direction": "stable", "margin": 0.25, "relative": True},
            {"metric": "held_out_reward", "min_gain": 0.1},
        ],
    }
)
HEALTHY = {"reward": 0.6, "kl": 0.2, "valid": 0.0, "completion_tokens": 1.0, "held_out_reward": 0.4}
"""True movements: gains of rewards, nats, share of valid answers, ratio of lengths."""


def draw(rng, truth, *, num_groups=60, per_group=2, config=CONFIG):
    """Changes with known truth: amounts are noisy around it and share a part within a group, valid answers are Bernoulli."""
    groups = [f"g{i}" for i in range(num_groups) for _ in range(per_group)]
    n = len(groups)
    changes = []
    for spec in config.entries:
        shared = np.repeat(rng.normal(size=num_groups), per_group) * 0.3
        if spec.metric == "valid":
            before = (rng.random(n) < 0.97).astype(float)
            after = np.where(rng.random(n) < max(0.0, -truth["valid"]), 0.0, before)
        elif spec.metric == "completion_tokens":
            before = rng.gamma(8.0, 5.0, n)
            after = truth["completion_tokens"] * before * np.exp(rng.normal(0, 0.2, n) - 0.02)
        elif spec.metric.startswith("pass"):
            before, after = ((rng.random(n) < rate).astype(float) for rate in (0.5, 0.5 + truth[spec.metric]))
        else:
            before = np.zeros(n) if spec.metric == "kl" else rng.normal(size=n)
            after = before + truth[spec.metric] + shared + rng.normal(0, 0.5, n)
        changes.append(Change(spec, after, before, groups))
    return changes


CASES = {
    "real improvement": HEALTHY,
    "reward gaming": HEALTHY | {"held_out_reward": -0.5},
    "pointless drift": HEALTHY | {"reward": 0.0, "kl": 2.0},
    "regression": HEALTHY | {"reward": -0.8, "kl": 1.5},
    "not enough evidence": HEALTHY | {"kl": 0.5},
}


def rates(truth, repeats, *, config=CONFIG, seed=0, **shape):
    rng = np.random.default_rng(seed)
    verdicts = [read_changes(draw(rng, truth, config=config, **shape), config).verdict for _ in range(repeats)]
    return {verdict: verdicts.count(verdict) / repeats for verdict in CASES}


@pytest.mark.parametrize("verdict", CASES)
def test_each_case_is_recovered_from_data_of_known_truth(verdict):
    assert rates(CASES[verdict], 12, num_groups=90)[verdict] >= 0.9


@pytest.mark.parametrize("guardrail", ["kl", "valid", "completion_tokens", "held_out_reward"])
def test_a_gain_that_breaks_any_guardrail_is_gaming(guardrail):
    broken = {"kl": 2.0, "valid": -0.4, "completion_tokens": 1.8, "held_out_reward": -0.3}
    assert rates(HEALTHY | {guardrail: broken[guardrail]}, 8)["reward gaming"] >= 0.9


def test_too_few_samples_are_not_enough_evidence_however_large_the_gain():
    reading = read_changes(draw(np.random.default_rng(0), HEALTHY, num_groups=14), CONFIG)
    assert reading.verdict == "not enough evidence"
    assert reading.figures[0].text == "reward: only 28 paired cases, 30 needed"


def test_without_a_gain_real_improvement_is_seldom_claimed():
    # One-sided 2.5 % over the family of three targets; 0.025 + 3 standard deviations of 400 draws is 0.048.
    three = TwoMetricConfig.model_validate(
        {
            "targets": [{"metric": f"pass{name}", "min_gain": 0.01} for name in "abc"],
            "guardrails": [{"metric": "pass_kept", "direction": "stable", "margin": 0.9}],
        }
    )
    truth = {"passa": 0.0, "passb": 0.0, "passc": 0.0, "pass_kept": 0.0}
    assert rates(truth, 400, config=three)["real improvement"] <= 0.048


def test_with_a_guardrail_at_its_limit_real_improvement_is_seldom_claimed():
    # Truth exactly on the margin: the chance that the bound falls inside is 2.5 %; 0.025 + 3 standard deviations of 100 draws.
    simple = TwoMetricConfig.model_validate(
        {"targets": [{"metric": "reward", "min_gain": 0.2}], "guardrails": [{"metric": "kl", "direction": "lower", "margin": 0.5}]}
    )
    assert rates({"reward": 0.8, "kl": 0.5}, 100, config=simple, num_groups=30)["real improvement"] <= 0.072


def test_a_healthy_change_is_seldom_accused():
    # Four guardrails exactly at their limit: Holm keeps any false alarm at 2.5 % where four single tests would give 10 %.
    strict = TwoMetricConfig.model_validate(
        {
            "targets": [{"metric": "pass_target", "min_gain": 0.05}],
            "guardrails": [{"metric": f"pass{name}", "margin": 0.0} for name in "abcd"],
        }
    )
    found = rates({"pass_target": 0.4} | {f"pass{name}": 0.0 for name in "abcd"}, 400, config=strict)
    assert found["reward gaming"] <= 0.048


@pytest.mark.parametrize(("gain", "reward", "held_out"), [(0.16, "unknown", "held"), (0.6, "gained", "held"), (0.6, "gained", "unknown")])
def test_a_gain_that_is_certain_but_smaller_than_asked_for_is_none(gain, reward, held_out):
    rng = np.random.default_rng(0)
    changes = draw(rng, HEALTHY, num_groups=90)
    noise = rng.normal(0, 0.4, 180)
    exact = (noise - noise.mean()) + changes[0].before
    small = 0.06 if held_out == "unknown" else 0.4
    changes[0] = replace(changes[0], after=exact + gain)
    changes[4] = replace(changes[4], before=np.zeros(180), after=exact - changes[0].before + small)
    reading = read_changes(changes, CONFIG)
    assert [figure.state for figure in (reading.figures[0], reading.figures[4])] == [reward, held_out]
    assert reading.figures[0].low > 0
    assert reading.figures[4].low > 0
    assert (reading.verdict == "real improvement") == ((reward, held_out) == ("gained", "held"))


def test_holm_takes_the_smallest_first_and_relaxes_as_claims_are_shown():
    # p-values .01, .02 and .03 of three two-sided claims at 95 %: .01 <= .05/3, then .02 <= .05/2, then .03 <= .05/1.
    def shown_up_to(p):
        return lambda confidence: p <= 1 - confidence

    assert [level is not None for level in step_down([shown_up_to(p) for p in (0.03, 0.01, 0.02)], 0.95)] == [True, True, True]
    # .02 alone is no longer below .05/3, so nothing is.
    assert step_down([shown_up_to(p) for p in (0.03, 0.02, 0.02)], 0.95) == [None, None, None]


def test_the_ratio_of_lengths_is_that_of_the_means():
    spec = CONFIG.guardrails[2]
    before = np.array([10.0, 20.0, 30.0, 40.0] * 10)
    change = Change(spec, before * 1.5, before, [str(i) for i in range(40)])
    interval = change.interval(0.95)
    # Every answer is half as long again: the ratio is 1.5 without any doubt.
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.5, 0.5, 0.5))


def test_unscored_samples_widen_the_interval_on_both_sides():
    spec = CONFIG.guardrails[1]
    groups = [str(i) for i in range(50)]
    after, before = np.ones(50), np.ones(50)
    whole = Change(spec, after, before, groups).interval(0.95)
    after = after.copy()
    after[:5] = np.nan
    holes = Change(spec, after, before, groups).interval(0.95)
    # Were the five wrong, the loss would be at least 5 of 50; were they right, nothing changed.
    assert holes.low < -0.1 < whole.low
    assert holes.high == pytest.approx(whole.high)
    # All that were scored passed before and after: the value is 0, however many are unknown.
    assert holes.value == whole.value == 0.0


def test_a_relative_value_is_that_of_the_scored_samples_alone():
    spec = CONFIG.guardrails[2]
    before, after = np.array([0.5, 0.5, 0.5, 0.4] * 10), np.array([0.75, 0.75, 0.75, np.nan] * 10)
    assert Change(spec, after, before, [str(i) for i in range(40)]).interval(0.95).value == pytest.approx(0.5)


def test_a_figure_that_no_sample_scored_is_told_and_not_read():
    change = Change(CONFIG.guardrails[1], np.full(40, np.nan), np.ones(40), [str(i) for i in range(40)])
    config = CONFIG.model_copy(update={"targets": CONFIG.targets, "guardrails": CONFIG.guardrails[1:2]})
    target = draw(np.random.default_rng(0), HEALTHY)[0]
    assert read_changes([target, change], config).figures[1].text == "valid: none of 40 samples was scored in both versions"


SUITE = """
name: pairs
version: "1"
cases: cases.jsonl
scorers:
  - exact: {}
  - length: {unit: words}
"""
SECTION = """
two_metric:
  targets: [{metric: exact, min_gain: 0.05}]
  guardrails: [{metric: length, direction: stable, margin: 0.5, relative: true}]
"""
GATE = "name: g\nsuite: suite.yaml\ngood: {requires: [exact]}\n"


@pytest.fixture
def gaming(bench):
    """40 of 60 answers turn right; every second one says it in far more words."""
    bench.write(60, suite=SUITE, gate=GATE + SECTION, slices=["long" if i % 2 else "short" for i in range(60)])
    old = bench.run("old", ["no"] * 60)
    new = bench.run("new", ["yes" if i < 40 else "no, " + "really " * 40 if i % 2 else "no" for i in range(60)])
    return bench, new, old


def test_gaming_blocks_and_names_the_rows(gaming):
    bench, new, old = gaming
    verdict = judge(new, old, bench.gate)
    assert (verdict.status, verdict.two_metric.overall.verdict) == ("block", "reward gaming")
    check = verdict.checks[-1]
    assert (check.kind, check.outcome) == ("two_metric", "block")
    long_rows = {row.case for row in verdict.two_metric.rows if row.values["length"][1] > 40}
    assert long_rows, "rows whose answers grew are among those shown"
    assert any("two metrics: REWARD GAMING" in line for line in verdict_lines(verdict))
    assert verdict.dump()["two_metric"]["overall"]["verdict"] == "reward gaming"


def test_the_report_shows_the_reading(gaming, tmp_path):
    bench, new, old = gaming
    write_report(tmp_path / "r.html", judge(new, old, bench.gate), new, old, bench.gate)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Targets and guardrails: reward gaming" in page
    assert "Samples that show it" in page


@pytest.mark.parametrize(
    ("new", "status"),
    [
        (["yes"] * 60, "ship"),  # gained, lengths alike
        (["no"] * 60, "inconclusive"),  # nothing moved
        (["no " + "word " * 9] * 60, "inconclusive"),  # drift for nothing
    ],
)
def test_only_a_real_improvement_ships(bench, new, status):
    bench.write(60, suite=SUITE, gate=GATE + SECTION)
    assert judge(bench.run("new", new), bench.run("old", ["no"] * 60), bench.gate).status == status


def test_a_regression_blocks(bench):
    bench.write(60, suite=SUITE, gate=GATE + SECTION)
    verdict = judge(bench.run("new", ["no"] * 60), bench.run("old", ["yes"] * 60), bench.gate)
    assert (verdict.status, verdict.two_metric.overall.verdict) == ("block", "regression")


def test_slices_are_read_apart_and_decide_nothing(gaming):
    bench, new, old = gaming
    reading = judge(new, old, bench.gate).two_metric
    # 30 samples each: the answers of slice short keep their length.
    assert {part.slice: part.verdict for part in reading.slices} == {"short": "real improvement", "long": "reward gaming"}


def test_a_gate_without_the_section_keeps_its_hash_and_says_so(bench, yes_no):
    bench.write(40)
    assert "two_metric" not in bench.gate.config.dump()
    result = bench.run("a", yes_no(20, 20))
    with pytest.raises(ConfigError, match="no two_metric section"):
        read_two_metrics(result, result, bench.gate.config)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{targets: [{metric: exact, min_gain: 0.1}], guardrails: []}", "guardrails"),
        ("{targets: [{metric: exact}], guardrails: [{metric: length, margin: 1}]}", "min_gain"),
        ("{targets: [{metric: exact, min_gain: 0.1}], guardrails: [{metric: length}]}", "either margin or min_gain"),
        ("{targets: [{metric: exact, min_gain: 0.1}], guardrails: [{metric: exact, margin: 0}]}", "named twice"),
        ("{targets: [{metric: exacct, min_gain: 0.1}], guardrails: [{metric: length, margin: 1}]}", "did you mean 'exact'"),
    ],
)
def test_a_section_that_cannot_be_read_is_refused(bench, section, message):
    with pytest.raises(ConfigError, match=message):
        bench.write(3, gate=GATE + f"two_metric: {section}\n")
