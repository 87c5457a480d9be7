"""26: valid is taken for right."""

from pathlib import Path

from posttrain.config.files import write_json
from posttrain.drills.acting import erring, expert, perform, tasks, write_suite
from posttrain.drills.harness import Found, drill
from posttrain.drills.yes_no import read_run
from posttrain.release import freeze_gate, judge, load_gate

RIGHT = "[calls_valid, calls, world_end_state]"
VALID = "[calls_valid]"
GATE = """
name: acting-gate
suite: suite.yaml
good: {{requires: {requires}}}
criteria: [{{metric: calls_valid, min: 0.8}}]
non_inferiority: [{{metric: good, margin: 0.2}}]
"""


@drill(
    "metric-confusion",
    number=26,
    fault="the gate asks for valid calls alone, and the candidate's are valid and wrong; nothing else would stop it",
    expects=r"the gate takes valid for right: valid is not right: it asks for calls_valid and for nothing that a wrong answer would miss",
)
def metric_confusion(folder: Path, faulty: bool) -> Found:
    """The gate judges the candidate against an expert. The healthy twin is right, under a gate that asks for it."""
    cases = tasks("entry", "transfer", "pay_invoice", count=32)
    write_suite(folder, cases)
    (folder / "gate.yaml").write_text(GATE.format(requires=VALID if faulty else RIGHT), encoding="utf-8")
    freeze_gate(folder / "gate.yaml")
    before = perform(folder, cases, expert, "baseline")
    after = perform(folder, cases, erring("wrong_account", "future_date") if faulty else expert)
    verdict = judge(after, before, load_gate(folder / "gate.yaml"))
    write_json(folder / "run" / "verdict.json", verdict.dump())
    right = after.summary["scores"]["calls"]["overall"]["value"]
    blocked = sum(check.outcome != "pass" for check in verdict.checks)
    return Found(read_run(folder).diagnosis, {"verdict": verdict.status, "checks against it": blocked, "calls": right})
