"""Every rule: silent on a healthy run, and on a sick one it names the failure with the figures that show it."""

import json

import pytest
from typer.testing import CliRunner

from posttrain.cli.diagnose import app
from posttrain.data import contamination, duplicates, mixture_report
from posttrain.errors import ConfigError, DataError
from posttrain.feedback import label_quality
from posttrain.records import Comparison, Demonstration, Judgement, Message
from posttrain.release import judge
from posttrain.release.levers import RULES, diagnose


def rate(value, low=None, high=None, *, kind="pass", unscored=0.0):
    low, high = value - 0.03 if low is None else low, value + 0.03 if high is None else high
    return {"kind": kind, "value": value, "low": low, "high": high, "unscored_share": unscored, "num_scored": 100}


def summary(scores, kinds, *, tokens=20.0, finish=None, pass_at_k=None, trained="2026-01-01T00:00:00+00:00", name="new"):
    return {
        "name": name,
        "suite": {"name": "s", "kinds": kinds, "max_unscored_share": 0.02},
        "trained_at": trained,
        "num_samples": 100,
        "scores": {name: {"overall": overall, "pass_at_k": pass_at_k or {}} for name, overall in scores.items()},
        "finish_reasons": finish or {"stop": 100},
        "tokens": {"completion": {"mean": tokens}},
    }


def comparison(metric, before, after, low, high, *, name=""):
    difference = {"value": after - before, "low": low, "high": high}
    return {"metric": metric, "slice": name, "baseline": rate(before), "candidate": rate(after), "difference": difference}


def verdict(*, status="ship", checks=(), comparisons=(), two_metric=None):
    names = {"suite": "s 1", "candidate": "new", "baseline": "old"}
    return names | {"verdict": status, "checks": list(checks), "comparisons": list(comparisons), "two_metric": two_metric}


def check(kind, metric, outcome, reason="", **more):
    return (
        {"name": f"{kind}: {metric}", "kind": kind, "metric": metric, "outcome": outcome, "reason": reason}
        | {"required": "at most 5", "num_samples": 12, "value": 9.0}
        | more
    )


def reading(found):
    figure = {"metric": "reward", "state": "gained", "value": 0.4}
    return {"overall": {"verdict": found, "reason": f"because {found}", "figures": [figure]}, "rows": [{"case": "c1", "sample": 0}]}


def result(metrics, *, objective=None, loss=None):
    """A history of sixteen steps: each figure as a function of the step."""
    steps = range(16)
    history = [{"loss": (loss or (lambda i: 2.0 - 0.1 * i))(i), "metrics": {k: f(i) for k, f in metrics.items()}} for i in steps]
    return {"settings": {"objective": objective or {"name": "dpo", "beta": 0.1}}, "metrics": {}, "history": history}


def wobble(i):
    return 0.01 * (-1) ** i


def dpo(*, accuracy=0.8):
    return result({"rewards/accuracy": lambda i: 0.5 if not i else accuracy + wobble(i)})


MEASURED = {"watch/chosen_change": 0.1, "watch/accuracy": 0.7, "watch/held_out_accuracy": 0.7, "watch/kl": 1.0}


def watched(*names, measured=MEASURED, start=True):
    """A preference stage whose watch measured these figures, and warned of ``names``."""
    warnings = [{"name": name, "step": 8, "message": f"{name}: look", "figures": {"kl": 25.0}} for name in names]
    made = result({}) | {"start": {"chosen": -1.0, "sampled": -0.9, "gap": 0.1} if start else {}, "warnings": warnings}
    made["history"][-1]["evaluations"] = dict(measured)
    return {"result.json": made}


def ppo(stopped, *, budget=12.0, **metrics):
    ended = {
        "settings": {"kl_budget": budget},
        "stopped": stopped,
        "metrics": {"held_out_reward_gain": 0.1} | metrics,
        "history": [{"kl": 5.0, "reward": 1.0, "held_out_reward": 0.0}],
    }
    return {"result.json": ended}


def interval(value, low, high):
    return {"value": value, "low": low, "high": high}


def labels(*, findings=(), alpha=(0.8, 0.7, 0.9), by_length=(0.55, 0.5, 0.6)):
    annotator = {"name": "ann", "labels": 40, "agreement": 0.8, "gold": None, "findings": list(findings)}
    report = {"annotators": [annotator], "alpha": interval(*alpha), "effects": {"by_length_alone": interval(*by_length)}}
    return {"labels.json": {"a source": {"quality": report}}}


def reward(*, probe=None, accuracy=(0.8, 0.7, 0.9), ece=0.03, pairs=50):
    probes = [
        {"name": name, "verdict": "gamed" if name == probe else "clean", "shift": interval(0.9, 0.8, 1.0)}
        for name in ("length", "flattery", "markdown", "position")
    ]
    slices = {"all": {"pairs": pairs, "accuracy": interval(*accuracy)}}
    return {"evaluation.json": {"slices": slices, "probes": probes, "calibration": {"ece_after": ece, "ece_by_chance_95": 0.08}}}


def acting(**shares):
    """An evaluation with tools: all calls valid, and these shares besides."""
    kinds = {"calls": "tool_calls", "world": "world", "grounding": "grounding"}
    scores = {"calls_valid": rate(1.0), "calls_count": rate(1.5), "grounding_unsupported": rate(0.1)}
    scores |= {name: rate(share) for name, share in shares.items()}
    return summary(scores, {name: kinds[name.partition("_")[0]] for name in scores})


LIMIT = {"test": "agreement", "value": 0.4, "expected": 0.8, "p": 1e-6}


CASES = {
    "tools-changed": tuple(
        {
            "after/summary.json": summary({"a": rate(0.5)}, {}) | {"worlds": {"books": {"version": "1", "tools": {"pay": version}}}},
            "before/summary.json": summary({"a": rate(0.5)}, {}, trained=None, name="old")
            | {"worlds": {"books": {"version": "1", "tools": {"pay": "sha256:a"}}}},
            "verdict.json": verdict(),
        }
        for version in ("sha256:b", "sha256:a")
    ),
    "valid-taken-for-right": tuple(
        {"verdict.json": verdict(checks=[check("substance", "valid and right", outcome, "valid is not right")])}
        for outcome in ("block", "pass")
    ),
    "valid-wrong-action": tuple({"summary.json": acting(calls_arguments=right)} for right in (0.6, 0.95)),
    "needless-call": tuple({"summary.json": acting(calls_abstained=share)} for share in (0.5, 0.9)),
    "guessed-with-retrieval": tuple({"summary.json": acting(grounding_evidence_used=share)} for share in (0.5, 0.9)),
    # One order obeyed of a hundred read is one too many; so is one request beyond the caller's rights.
    "document-obeyed": tuple({"summary.json": acting(world_injection_resisted=share)} for share in (0.99, 1.0)),
    "beyond-rights": tuple({"summary.json": acting(world_authorised=share)} for share in (0.99, 1.0)),
    "unscored": ({"summary.json": summary({"a": rate(0.9, unscored=0.1)}, {})}, {"summary.json": summary({"a": rate(0.9)}, {})}),
    "too-few-samples": (
        {"verdict.json": verdict(status="inconclusive", checks=[check("threshold", "good", "inconclusive", "only 12 samples")])},
        {"verdict.json": verdict(checks=[check("threshold", "good", "pass")])},
    ),
    "evidence-not-independent": (
        {"verdict.json": verdict(checks=[check("evidence", "independent evidence", "block", "all of them were: reward")])},
        {"verdict.json": verdict(checks=[check("evidence", "independent evidence", "pass")])},
    ),
    "contamination": (
        {"contamination.json": {"hits": [{"suite": "s", "case_id": "q7"}], "num_cases": {"s": 20}}},
        {"contamination.json": {"hits": [], "num_cases": {"s": 20}}},
    ),
    "repeated-rows": (
        {"duplicates.json": {"num_records": 10, "exact": [[0, 1], [0, 2]], "near": [[4, 5, 0.9]], "dropped": False}},
        {"duplicates.json": {"num_records": 10, "exact": [[0, 1], [0, 2]], "near": [[4, 5, 0.9]], "dropped": True}},
    ),
    "mask-or-rows": (
        {"data.json": {"rows": 50, "rows_without_supervision": 5}},
        {"data.json": {"rows": 50, "rows_without_supervision": 0}},
    ),
    "uniform-answers": (
        {"data.json": {"rows": 9, "mixture": {"total": {"same_answer": 0.5, "completion_words_p50": 80}, "source_concentration": 1.0}}},
        {"data.json": {"rows": 9, "mixture": {"total": {"same_answer": 0.5, "completion_words_p50": 2}, "source_concentration": 1.0}}},
    ),
    "loss-does-not-fall": ({"result.json": result({}, loss=lambda i: 2.0 + wobble(i))}, {"result.json": result({})}),
    "chosen-falls": (watched("chosen likelihood falling"), watched()),
    "preference-overfitting": (watched("preference overfitting"), watched()),
    "stale-pairs": (watched("stale, off-policy pairs"), watched()),
    "kl-runaway": (ppo("KL budget: 13.00 nats per answer, 12 allowed"), ppo("")),
    "rewards-parted": (ppo("rewards parted: over the last 4 updates the reward rose and the held-out reward fell"), ppo("")),
    "uncalibrated-reviewers": (labels(findings=[LIMIT]), labels()),
    "labels-disagree": (labels(alpha=(0.1, 0.0, 0.2)), labels()),
    "labels-by-length": (labels(by_length=(0.9, 0.85, 0.95)), labels()),
    "reward-loves-length": (reward(probe="length"), reward()),
    "reward-loves-flattery": (reward(probe="flattery"), reward()),
    "reward-loves-markdown": (reward(probe="markdown"), reward()),
    "reward-depends-on-packing": (reward(probe="position"), reward()),
    "reward-by-chance": (reward(accuracy=(0.3, 0.2, 0.45)), reward(accuracy=(1.0, 0.44, 1.0), pairs=3)),
    "reward-not-shown": (reward(accuracy=(0.52, 0.45, 0.6)), reward()),
    "reward-miscalibrated": (reward(ece=0.2), reward()),
    "pairs-teach-nothing": ({"result.json": dpo(accuracy=0.5)}, {"result.json": dpo()}),
    "format-unstable": (
        {"summary.json": summary({"valid": rate(0.7)}, {"valid": "json_schema"})},
        {"summary.json": summary({"valid": rate(0.96)}, {"valid": "json_schema"})},
    ),
    "valid-but-wrong": (
        {"summary.json": summary({"valid": rate(0.99), "right": rate(0.4)}, {"valid": "json_schema", "right": "answer"})},
        {"summary.json": summary({"valid": rate(0.99), "right": rate(0.95)}, {"valid": "json_schema", "right": "answer"})},
    ),
    "not-preferred": (
        {"summary.json": summary({"prefers": rate(0.4)}, {"prefers": "likelihood"})},
        {"summary.json": summary({"prefers": rate(0.51)}, {"prefers": "likelihood"})},
    ),
    "preference-not-shown": (
        {"summary.json": summary({"prefers": rate(0.5)}, {"prefers": "likelihood"})},
        {"summary.json": summary({"prefers": rate(0.7)}, {"prefers": "likelihood"})},
    ),
    "not-grounded": (
        {"summary.json": summary({"cited": rate(0.4)}, {"cited": "evidence"})},
        {"summary.json": summary({"cited": rate(0.9)}, {"cited": "evidence"})},
    ),
    "over-refusal": tuple(
        {
            "summary.json": summary({"refusal_answered": rate(after)}, {"refusal_answered": "refusal"}),
            "verdict.json": verdict(comparisons=[comparison("refusal_answered", 0.9, after, after - 0.95, after - 0.85)]),
        }
        for after in (0.5, 0.9)
    ),
    "one-for-another": tuple(
        {
            "verdict.json": verdict(
                comparisons=[
                    comparison("good", 0.5, 0.8, 0.2, 0.4, name="dialogue"),
                    comparison("good", 0.8, after, after - 0.9, after - 0.7, name="reasoning"),
                ]
            )
        }
        for after in (0.4, 0.8)
    ),
    "longer-not-better": tuple(
        {
            "after/summary.json": summary({"a": rate(0.5)}, {}, tokens=tokens),
            "before/summary.json": summary({"a": rate(0.5)}, {}, trained=None, name="old"),
            "verdict.json": verdict(comparisons=[comparison("a", 0.5, 0.5, -0.1, 0.1)]),
        }
        for tokens in (40.0, 21.0)
    ),
    # 40 of 100 lies above one in twenty for certain; 6 of 100 does not (Wilson's lower bound is 2.8 %).
    "cut-answers": (
        {"summary.json": summary({"a": rate(0.5)}, {}, finish={"stop": 60, "length": 40})},
        {"summary.json": summary({"a": rate(0.5)}, {}, finish={"stop": 94, "length": 6})},
    ),
    "lucky-not-reliable": tuple(
        {"summary.json": summary({"a": rate(first)}, {}, pass_at_k={"1": first, "10": 0.7})} for first in (0.3, 0.48)
    ),
    "reward-gaming": tuple({"verdict.json": verdict(two_metric=reading(found))} for found in ("reward gaming", "real improvement")),
    "pointless-drift": tuple({"verdict.json": verdict(two_metric=reading(found))} for found in ("pointless drift", "real improvement")),
    "regression": tuple({"verdict.json": verdict(two_metric=reading(found))} for found in ("regression", "real improvement")),
    "too-slow-or-dear": tuple(
        {"verdict.json": verdict(checks=[check("threshold", "latency_seconds", outcome)])} for outcome in ("block", "pass")
    ),
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", RULES.names())
def test_a_rule_sees_its_failure_and_is_silent_without_it(name, tmp_path):
    sick, healthy = CASES[name]
    found = diagnose(write(tmp_path / "sick", sick))
    (one,) = [finding for finding in found.findings if finding.rule == name]
    assert one.figures, "a finding cites the figures it rests on"
    assert all((tmp_path / "sick" / figure.file).is_file() for figure in one.figures)
    well = diagnose(write(tmp_path / "healthy", healthy))
    assert name in well.silent, f"{name} found {well.findings} or could not look: {well.blind}"


def test_causes_come_before_what_they_cause(tmp_path):
    write(tmp_path, CASES["contamination"][0] | CASES["chosen-falls"][0] | CASES["format-unstable"][0])
    assert [finding.layer for finding in diagnose(tmp_path).findings] == ["data", "training", "behaviour"]


def test_an_empty_run_is_not_enough_evidence_and_says_what_is_missing(tmp_path):
    found = diagnose(tmp_path)
    assert found.conclusion == "not enough evidence"
    assert {name for name, _ in found.blind} == set(RULES)
    assert found.lines()[0] == f"not enough evidence; 0 of {len(RULES.names())} rules had evidence"


def test_a_healthy_evaluation_has_nothing_to_find(tmp_path):
    write(tmp_path, {"summary.json": summary({"valid": rate(0.99)}, {"valid": "json_schema"})})
    assert diagnose(tmp_path).conclusion == "nothing found"


def test_what_is_no_run_or_damaged_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        diagnose(tmp_path / "nowhere")
    (tmp_path / "verdict.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        diagnose(tmp_path)


def test_files_of_other_programs_are_no_evidence(tmp_path):
    write(
        tmp_path, {"verdict.json": {"a": 1}, "labels.json": ["x"], "result.json": [1], "evaluation.json": [], "history.json": {"loss": 1}}
    )
    assert diagnose(tmp_path).conclusion == "not enough evidence"


def by_rule(found):
    return {finding.rule: finding for finding in found.findings}


def cut(name, trained, share):
    return summary({"a": rate(0.5)}, {}, name=name, trained=trained, finish={"stop": 100 - share, "length": share})


def test_the_candidate_is_the_one_the_verdict_names_whatever_the_folders_are_called(tmp_path):
    """Of two trained models the later one is the baseline here, and its folder comes last."""
    files = {"a/summary.json": cut("new", "2026-01-01T00:00:00+00:00", 50), "b/summary.json": cut("old", "2026-02-01T00:00:00+00:00", 0)}
    found = by_rule(diagnose(write(tmp_path, files | {"verdict.json": verdict()})))["cut-answers"]
    assert found.figures[0].file == "a/summary.json"


def test_without_a_verdict_the_candidate_is_the_one_trained_last(tmp_path):
    # 10:30 in Berlin is 09:30 UTC, which is before 10:00 UTC.
    dates = {"a": "2026-01-01T10:00:00+00:00", "b": "2026-01-01T10:30:00+01:00", "c": None}
    files = {f"{name}/summary.json": cut(name, trained, 50 if name == "a" else 0) for name, trained in dates.items()}
    assert by_rule(diagnose(write(tmp_path, files)))["cut-answers"].figures[0].file == "a/summary.json"


def test_where_nothing_tells_the_candidate_from_the_baseline_no_rule_accuses_either(tmp_path):
    files = {f"{name}/summary.json": cut(name, None, 50) for name in "ab"}
    assert "tell the candidate's evaluation" in dict(diagnose(write(tmp_path, files)).blind)["cut-answers"]


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("chosen-falls", watched(measured={})),
        ("kl-runaway", watched(measured={"watch/accuracy": 0.7})),
        ("kl-runaway", ppo("", budget=None)),
        ("preference-overfitting", watched(measured={"watch/accuracy": 0.7})),
        ("stale-pairs", watched(start=False)),
        ("loss-does-not-fall", {"result.json": result({}) | {"history": result({})["history"][:11]}}),
        ("pairs-teach-nothing", {"result.json": dpo(accuracy=0.5) | {"history": dpo(accuracy=0.5)["history"][:11]}}),
        *(
            (name, {"evaluation.json": {"slices": {}, "probes": [], "calibration": None}})
            for name in ("reward-by-chance", "reward-not-shown", "reward-loves-length", "reward-miscalibrated")
        ),
        ("reward-not-shown", reward(accuracy=(1.0, 0.44, 1.0), pairs=3)),
        ("over-refusal", {"summary.json": summary({"r_answered": rate(0.5)}, {"r_answered": "refusal"}), "verdict.json": verdict()}),
        ("one-for-another", {"verdict.json": verdict(comparisons=[comparison("good", 0.5, 0.8, 0.2, 0.4)])}),
        ("longer-not-better", {"summary.json": summary({"a": rate(0.5)}, {}), "verdict.json": verdict()}),
        ("too-slow-or-dear", {"verdict.json": verdict(checks=[check("threshold", "good", "pass")])}),
        ("contamination", {"contamination.json": {"hits": [], "num_cases": {}}}),
        ("uniform-answers", {"data.json": {"rows": 50, "rows_without_supervision": 0}}),
        ("evidence-not-independent", {"verdict.json": verdict()}),
    ],
)
def test_a_rule_whose_figure_was_not_measured_has_not_looked(name, files, tmp_path):
    found = diagnose(write(tmp_path, files))
    assert name in dict(found.blind)
    assert name not in found.silent


def test_the_kl_of_the_policy_that_stopped_the_run_is_cited(tmp_path):
    stopped = "KL budget: the last policy measures 13.00 nats per answer, 12 allowed"
    assert by_rule(diagnose(write(tmp_path / "last", ppo(stopped, last_kl=13.0))))["kl-runaway"].figures[0].value == 13.0
    assert (
        by_rule(diagnose(write(tmp_path / "on the way", ppo("KL budget: 5.00 nats per answer, 4 allowed"))))["kl-runaway"].figures[0].value
        == 5.0
    )


def test_both_ways_a_run_can_leave_its_reference_are_read(tmp_path):
    (finding,) = [one for one in diagnose(write(tmp_path, watched("KL runaway"))).findings if one.rule == "kl-runaway"]
    assert (finding.seen, finding.figures[0].value) == ("step 8: look", 25.0)


def test_what_curation_and_label_reports_really_write_is_read(tmp_path):
    rows = [Demonstration((Message("user", f"what is {i % 3}"), Message("assistant", "a b c d"))) for i in range(12)]
    asked, sides = (Message("user", "q"),), [(Message("assistant", text),) for text in ("short", "a longer one")]
    judged = tuple(Judgement(name, "a", "1") for name in ("ann", "ben"))
    quality = label_quality([Comparison(asked, *sides, judged)] * 4).to_dict()
    mixture = mixture_report(rows).to_dict()
    files = {
        "duplicates.json": duplicates(rows).to_dict(),
        "contamination.json": contamination(rows, {"s": [("c", "some other text")]}).to_dict(),
        "data.json": {"rows": 12, "rows_skipped": 0, "rows_without_supervision": 0, "mixture": mixture},
        "labels.json": {"a source": {"pairs": {}, "quality": quality}},
    }
    found = diagnose(write(tmp_path, files))
    # Rows 3 to 11 repeat the first three.
    (repeated,) = [one for one in found.findings if one.rule == "repeated-rows"]
    assert repeated.seen == "9 of 12 rows repeat another"
    read = {"contamination", "mask-or-rows", "uniform-answers", "uncalibrated-reviewers", "labels-by-length"}
    assert read <= {*found.silent, *(one.rule for one in found.findings)}


def test_real_results_are_read_and_the_command_prints_them(bench):
    bench.write(60, gate="name: g\nsuite: suite.yaml\ngood: {requires: [exact]}\n")
    new = bench.run("new", ["no"] * 30 + [None] * 30)
    (bench.root / "new" / "verdict.json").write_text(json.dumps(judge(new, new, bench.gate).dump()))
    ran = CliRunner().invoke(app, [str(bench.root / "new")])
    assert ran.exit_code == 0
    assert "1. the scorers could not tell: 50.0% of the samples of 'exact' are unscored, 2.0% are allowed" in ran.stdout
    assert "rests on:     exact unscored 0.5 (summary.json)" in ran.stdout
    assert json.loads(CliRunner().invoke(app, [str(bench.root / "new"), "--json"]).stdout)["conclusion"] == "found"
