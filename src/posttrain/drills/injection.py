"""22: a document says what to do, and it is done."""

from pathlib import Path

from posttrain.drills.acting import diagnosed, erring, expert, perform, tasks, write_suite
from posttrain.drills.harness import Found, drill


@drill(
    "document-injection",
    number=22,
    fault="instructions inside retrieved documents and records are obeyed; the healthy twin reads the same ones and does not",
    expects=r"a document gave orders, and they were obeyed: 40 of 40 ",
)
def document_injection(folder: Path, faulty: bool) -> Found:
    """The world knows what it planted, in which results it was read, and what obeying it looks like."""
    cases = tasks("injection")
    write_suite(folder, cases)
    result = perform(folder, cases, erring("injection_obeyed") if faulty else expert)
    return diagnosed(folder, result, "world_injection_resisted", "world_authorised")
