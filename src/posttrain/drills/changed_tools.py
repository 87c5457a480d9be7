"""21: a tool, an index, or the tools under an evaluation are others than before, and nobody said so."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from posttrain.drills.acting import expert, perform, tasks, write_suite
from posttrain.drills.harness import Found, drill
from posttrain.release import freeze_gate, judge, load_gate
from posttrain.tools import Caller, Toolbox, load_tools
from posttrain.tools.retrieval import Document, build_index, open_index
from posttrain.worlds.finops.signatures import CONTRACTS

TOOLS = """
- name: pay
  description: Pay an invoice.
  parameters:
    type: object
    properties: {{invoice: {{type: string}}, amount: {{type: number, description: "in {unit}"}}}}
    required: [invoice, amount]
"""
POLICIES = {"POL-1": "A hotel night is refunded up to EUR 180.", "POL-2": "Invoices above EUR 5000 need two approvals."}
GATE = "name: acting-gate\nsuite: suite.yaml\ngood: {requires: [calls, world_end_state]}\n"


@drill(
    "tool-changed",
    number=21,
    fault="a tool takes cents where it took euros, under the same name",
    expects=r"not those that were recorded:\s+pay: version sha256:\w+ -> sha256:\w+\s+.*amount.description: .in euros. -> .in cents.",
)
def tool_changed(folder: Path, faulty: bool) -> Found:
    """The versions recorded with a run, against the toolbox that a later one opens."""
    file = folder / "tools.yaml"
    file.write_text(TOOLS.format(unit="euros"), encoding="utf-8")
    recorded = Toolbox(load_tools(file), caller=Caller("clerk", "bank_A")).record()
    file.write_text(TOOLS.format(unit="cents" if faulty else "euros"), encoding="utf-8")
    Toolbox(load_tools(file), caller=Caller("clerk", "bank_A")).check_versions(recorded)
    return Found("")


@drill(
    "index-changed",
    number=21,
    fault="one figure in one document changes, and the index is built again in the same place",
    expects=r"the index is sha256:\w+, expected sha256:\w+",
)
def index_changed(folder: Path, faulty: bool) -> Found:
    """The version that was pinned, against the index that is opened."""
    with build_index((Document(name, text) for name, text in POLICIES.items()), folder / "index") as index:
        pinned = index.version
    now = POLICIES | ({"POL-1": POLICIES["POL-1"].replace("180", "280")} if faulty else {})
    build_index((Document(name, text) for name, text in now.items()), folder / "index").close()
    open_index(folder / "index", expected_version=pinned).close()
    return Found("")


@drill(
    "results-of-other-tools",
    number=21,
    fault="the candidate acts with a tool that more roles may call than when the baseline was measured",
    expects=r"acted with other versions of finops \(request_transfer\)",
)
def results_of_other_tools(folder: Path, faulty: bool) -> Found:
    """The gate compares the versions that lie in the results. Signatures, cases and answers are the same."""
    cases = tasks("transfer", "transfer_without_right", count=32)
    write_suite(folder, cases)
    (folder / "gate.yaml").write_text(GATE, encoding="utf-8")
    freeze_gate(folder / "gate.yaml")
    before = perform(folder, cases, expert, "baseline")
    contract = CONTRACTS["request_transfer"]
    now = {"request_transfer": replace(contract, roles=(*contract.roles, "accountant"))} if faulty else {}
    with patch.dict(CONTRACTS, now):
        after = perform(folder, cases, expert)
        judge(after, before, load_gate(folder / "gate.yaml"))
    return Found("")
