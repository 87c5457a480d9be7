"""12: evaluation cases have leaked into the training data."""

from pathlib import Path

from posttrain.data import contamination, read_records
from posttrain.drills.harness import Found, drill
from posttrain.drills.setup import conversations, write_rows

_CASES = [
    (
        "paid-twice",
        "Invoice 1037 from supplier Alba was paid twice in March, and the treasurer asks which entry has to be reversed before closing.",
    ),
    (
        "late-fee",
        "A customer in Lisbon disputes the late fee on order 4418, because the parcel lay nine days at customs without any notice to her.",
    ),
    (
        "lease",
        "The lease of the Graz warehouse ends in June; renewed for three years, its deposit of 18,000 euros moves to long-term assets.",
    ),
    (
        "travel",
        "Two engineers flew to Oslo on separate tickets and shared one hotel room for four nights, but each claimed the whole hotel bill.",
    ),
]


@drill(
    "contamination",
    number=12,
    fault="two cases of the suite stand in the training rows, with other words around them",
    expects=r"2 of 4 suite cases are in the training data.*suite/paid-twice.*suite/late-fee",
)
def contaminated(folder: Path, faulty: bool) -> Found:
    """The curation step's own search over training rows and suite texts."""
    rows = conversations()
    for _, text in _CASES[:2] if faulty else ():
        turns = [("user", f"Please look at this. {text} Thanks."), ("assistant", "The second one.")]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    records = list(read_records(write_rows(folder / "rows.jsonl", rows)))
    contamination(records, {"suite": _CASES}).check(None)
    return Found("")
