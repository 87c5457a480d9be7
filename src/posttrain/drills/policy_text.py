"""17: the written rules were edited, and their version was not."""

from pathlib import Path

from posttrain.drills.harness import Found, drill
from posttrain.lineage import LineageStore

_RULES = "name: finops\nrules:\n  - Refuse a transfer without an approval.\n"


@drill(
    "policy-text-changed",
    number=17,
    fault="a rule is softened while the policy keeps its version",
    expects=r"its text changed without a new version; first different line is 3",
)
def policy_text_changed(folder: Path, faulty: bool) -> Found:
    """Both twins edit the rules; the healthy one raises the version with them."""
    store = LineageStore(folder / "lineage.db")
    store.put("policy", {"name": "finops", "version": "1.0", "text": _RULES})
    softened = {"name": "finops", "version": "1.0" if faulty else "1.1", "text": _RULES.replace("Refuse", "Question")}
    store.put("policy", softened)
    return Found("")
