"""5: the documents can be searched, and it answers from memory."""

from pathlib import Path

from posttrain.drills.acting import diagnosed, erring, expert, perform, tasks, write_suite
from posttrain.drills.harness import Found, drill


@drill(
    "guessed-with-retrieval",
    number=5,
    fault="questions on policies are answered without a search, with figures from nowhere",
    expects=r"evidence was at hand, and it guessed: .*'grounding_evidence_used' is 0",
)
def guessed_with_retrieval(folder: Path, faulty: bool) -> Found:
    """The grounding scorer looks for the search and holds the answer against what it found."""
    cases = tasks("policy")
    write_suite(folder, cases)
    result = perform(folder, cases, erring("guess") if faulty else expert)
    return diagnosed(folder, result, "grounding_evidence_used", "grounding_unsupported", "world_answer")
