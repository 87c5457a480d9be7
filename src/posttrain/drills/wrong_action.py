"""2: every call is valid JSON, and the action is wrong."""

from pathlib import Path

from posttrain.drills.acting import diagnosed, erring, expert, perform, tasks, write_suite
from posttrain.drills.harness import Found, drill


@drill(
    "valid-wrong-action",
    number=2,
    fault="every call fits its schema, but books another account, dates ahead, or reads another tenant's figures",
    expects=r"beyond the caller's rights: \d+ of 40.*valid calls, wrong action: 'calls_valid' 100.*'world_end_state' \d",
)
def valid_wrong_action(folder: Path, faulty: bool) -> Found:
    """The counterexamples of the world's own tasks, against its experts."""
    cases = tasks("entry", "transfer", "pay_invoice", "entry_by_policy", "half_other_tenant", "other_tenant")
    write_suite(folder, cases)
    script = erring("wrong_account", "future_date", "other_tenant") if faulty else expert
    return diagnosed(folder, perform(folder, cases, script), "calls_valid", "calls_arguments", "world_end_state", "world_authorised")
