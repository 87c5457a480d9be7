"""The harness itself: what counts as caught, and that a drill whose check is gone is not."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
from typer.testing import CliRunner

from posttrain.cli.drill import app
from posttrain.drills import DRILLS, Drill, Found, drill_lines, overfitting, run_drill
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation import Score
from posttrain.feedback.annotators import annotators
from posttrain.tools.retrieval import open_index


def a_drill(run, expects="too long"):
    return Drill("a-drill", 0, "a fault", expects, run)


def test_a_drill_is_caught_when_the_check_names_the_fault_and_spares_the_healthy_twin(tmp_path):
    report = run_drill(
        a_drill(lambda folder, faulty: Found("answers are too long" if faulty else "", {"words": 9 if faulty else 1})), tmp_path
    )
    assert (report.caught, report.healthy_passes, report.passed) == (True, True, True)
    assert (tmp_path / "healthy").is_dir()
    assert (tmp_path / "faulty").is_dir()
    assert drill_lines([report]) == [
        f"caught        0  a-drill: a fault ({report.seconds:.1f} s)",
        "      answers are too long",
        "      healthy -> faulty: words 1 -> 9",
    ]


def test_what_a_check_raises_is_what_it_says(tmp_path):
    def run(folder, faulty):
        if faulty:
            raise DataError("row 3 is too long")
        return Found("")

    assert run_drill(a_drill(run), tmp_path).diagnosis == "row 3 is too long"


@pytest.mark.parametrize(
    ("healthy", "faulty", "caught", "passes"),
    [("", "", False, True), ("", "no consent", False, True), ("too long", "too long", True, False)],
)
def test_silence_another_diagnosis_and_a_false_alarm_fail_the_drill(tmp_path, healthy, faulty, caught, passes):
    report = run_drill(a_drill(lambda folder, bad: Found(faulty if bad else healthy)), tmp_path)
    assert (report.caught, report.healthy_passes, report.passed) == (caught, passes, False)


def test_a_folder_in_use_is_refused_before_any_drill_runs(tmp_path):
    later = DRILLS.get("no-consent").name
    (tmp_path / later).mkdir()
    (tmp_path / later / "kept").touch()
    with pytest.raises(ConfigError, match="no-consent: not empty"):
        CliRunner().invoke(app, ["all", "--keep", str(tmp_path)], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == [later]
    run_drill(a_drill(lambda folder, faulty: Found("")), tmp_path / "a-drill")
    with pytest.raises(ConfigError, match="a new folder") as refused:
        run_drill(a_drill(lambda folder, faulty: Found("")), tmp_path / "a-drill")
    assert refused.value.exit_code == 2


def test_the_overfitting_twins_differ_in_their_labels_alone(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(overfitting, "start_model", lambda folder: folder)
    monkeypatch.setattr(overfitting, "prefer", lambda folder, model, pairs, held_out, **settings: ran.append((pairs, held_out, settings)))
    monkeypatch.setattr(overfitting, "read_run", lambda folder, *names: Found(""))
    run_drill(DRILLS.get("preference-overfitting"), tmp_path)
    (pairs, held_out, settings), (by_lot, held_by_lot, same_settings) = ran
    assert settings == same_settings
    for ruled, drawn in ((pairs, by_lot), (held_out, held_by_lot)):
        assert [(asked, {*sides}) for asked, *sides in ruled] == [(asked, {*sides}) for asked, *sides in drawn]
        assert len({tuple(sides) for _, *sides in ruled}) == 1
        assert len({tuple(sides) for _, *sides in drawn}) == 2


def test_a_defect_of_the_drill_is_no_diagnosis(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_drill(a_drill(lambda folder, faulty: 1 / 0), tmp_path)


def trusting_spans(self, messages, tools, turns):
    """Spans by length alone: what deriving a mask without comparing renderings would give."""
    whole = self._renderer.render(messages, tools=tools)
    return whole, [(len(self._renderer.render(messages[:turn], tools=tools, add_generation_prompt=True)), len(whole) - 1) for turn in turns]


def none_stands_out(*arguments, **options):
    return [replace(one, findings=()) for one in annotators(*arguments, **options)]


JUDGE = import_module("posttrain.release.judge")  # the package has a function of that name

CHECKS = {
    "contamination": ("posttrain.data.ContaminationReport.check", lambda self, waiver: None),
    "event-without-consent": ("posttrain.drills.consent.check_events", lambda events: None),
    "mask-boundary": ("posttrain.chat.supervision.SpanFinder.find", trusting_spans),
    "no-consent": ("posttrain.stages.setup.check_consent", lambda card: None),
    "nothing-supervised": ("posttrain.stages.sft._check_rows", lambda *arguments: None),
    "policy-text-changed": ("posttrain.lineage.store.check_content", lambda *arguments: None),
    "chosen-likelihood-falls": ("posttrain.stages.preference.find_warnings", lambda *arguments, **options: []),
    "kl-runaway": ("posttrain.stages.PpoConfig.is_over_budget", lambda self, kl: False),
    "length-loving-reward": ("posttrain.rewards.evaluation.run_probes", lambda *arguments, **options: ()),
    "preference-overfitting": ("posttrain.stages.preference.find_warnings", lambda *arguments, **options: []),
    "stale-pairs": ("posttrain.stages.preference.stale_warning", lambda *arguments, **options: None),
    "sycophancy": ("posttrain.release.two_metrics.verdict_of", lambda *figures: ("not enough evidence", "nobody looked")),
    "uncalibrated-reviewers": ("posttrain.feedback.quality.annotators", none_stands_out),
    "valid-wrong-action": ("posttrain.evaluation.scoring.world._end_state", lambda name, outcome: Score(name, 1.0)),
    "guessed-with-retrieval": ("posttrain.evaluation.scoring.grounding._evidence_used", lambda generation, options: True),
    "document-injection": ("posttrain.evaluation.scoring.world._resisted", lambda name, outcome: Score(name, 1.0)),
    "metric-confusion": (JUDGE, "substance_check", lambda config, suite: None),
    "needless-call": ("posttrain.release.levers.acting.ABSTAINED", 0.0),
    "tool-changed": ("posttrain.tools.toolbox.check_versions", lambda recorded, tools: None),
    "index-changed": ("posttrain.drills.changed_tools.open_index", lambda path, expected_version: open_index(path)),
    "results-of-other-tools": (JUDGE, "changed_versions", lambda before, now: ""),
    "template-drift": ("posttrain.chat.ChatContract.check_same", lambda self, recorded, what: None),
}
"""The check of the product each drill rests on, and what stands in its place when it is taken out."""


QUICK = (
    "contamination",
    "document-injection",
    "event-without-consent",
    "guessed-with-retrieval",
    "index-changed",
    "mask-boundary",
    "metric-confusion",
    "no-consent",
    "nothing-supervised",
    "policy-text-changed",
    "results-of-other-tools",
    "tool-changed",
    "valid-wrong-action",
)
SLOW = tuple(name for name in CHECKS if name not in (*QUICK, "template-drift", "uncalibrated-reviewers"))


@pytest.mark.parametrize(
    "name", [*QUICK, "template-drift", "uncalibrated-reviewers", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def test_a_drill_whose_check_is_taken_out_is_not_caught(name, tmp_path, monkeypatch):
    monkeypatch.setattr(*CHECKS[name])
    assert not run_drill(DRILLS.get(name), tmp_path).caught


def test_every_drill_says_which_check_it_rests_on():
    assert set(CHECKS) == set(DRILLS)


def test_the_command_lists_runs_and_exits_by_the_outcome(monkeypatch):
    listed = json.loads(CliRunner().invoke(app, ["--list", "--json"]).stdout)["drills"]
    assert {entry["name"] for entry in listed} == set(DRILLS)
    ran = CliRunner().invoke(app, ["contamination", "--json"])
    assert ran.exit_code == 0
    (report,) = json.loads(ran.stdout)["drills"]
    assert {"name", "caught", "diagnosis", "healthy_passes"} <= report.keys()
    monkeypatch.setattr(*CHECKS["contamination"])
    missed = CliRunner().invoke(app, ["contamination"])
    assert missed.exit_code == 1
    assert "NOT CAUGHT" in missed.stdout
