import json
import random
from pathlib import Path

import pytest

from posttrain.config import parse
from posttrain.data.tatqa import read_tatqa, render_report
from posttrain.errors import ConfigError
from posttrain.evaluation import Case, ScorerContext, scorers
from posttrain.evaluation.suite import load_suite
from posttrain.metrics import Evidence, ground_claim
from posttrain.records import CallRecord, Generation, Message, ToolCall
from posttrain.tools import Caller, Toolbox
from posttrain.tools.retrieval import Document, build_index, search_tool

SLICE = Path(__file__).parents[3] / "recipes" / "data" / "tatqa-slice.json.gz"
TRAVEL = Document("travel.md", "Travel above 1,000 EUR needs the CFO. Hotels cost at most 140 EUR a night.")
MARK = f"[travel.md:0-{len(TRAVEL.text)}]"
SIGNATURE = {"type": "function", "function": {"name": "search_policy", "parameters": {"type": "object"}}}
NEEDED = {"calls": [{"search_policy": {"query": ["hotels"]}}]}
QUESTION = "May I book a hotel for 160 EUR in 2026?"
NAMES = ("grounding", "grounding_unsupported", "grounding_citation_coverage", "grounding_evidence_used")


@pytest.fixture(scope="module")
def looked_up():
    with build_index([TRAVEL], None) as index:
        result = Toolbox([search_tool(index, name="search_policy")], caller=Caller("clerk", "x")).call(
            ToolCall("search_policy", {"query": "hotel"})
        )
    return CallRecord("search_policy", {"query": "hotel"}, result.status, result.content, result.is_error, 0)


def run(
    text, calls=(), expected=NEEDED, messages=(Message("user", QUESTION),), tools=(SIGNATURE,), folder=None, allow_python=False, **options
):
    kind = scorers.get("grounding")
    score = kind.build(parse(kind.options, options, where="test"), "grounding", ScorerContext(folder, allow_python))
    found = score(Case("c", tuple(messages), tuple(tools), expected), Generation(text, "stop", 3, 7, 0.1, calls=tuple(calls)))
    assert tuple(one.name for one in found) == NAMES == tuple(kind.outputs("grounding"))
    assert [one.kind for one in found] == ["pass", "fraction", "fraction", "pass"]
    return {one.name.removeprefix("grounding").lstrip("_") or "all": one for one in found}


def values(*arguments, **options):
    return {name: one.value if one.status == "scored" else one.status for name, one in run(*arguments, **options).items()}


def test_an_answer_from_what_was_retrieved_with_its_citation_passes(looked_up):
    text = f"No: hotels cost at most 140 EUR a night {MARK}. Your 160 EUR is above it {MARK}."
    assert values(text, [looked_up]) == {"all": 1, "unsupported": 0, "citation_coverage": 1, "evidence_used": 1}


def test_a_number_that_no_tool_gave_fails_and_is_named(looked_up):
    scores = run(f"Hotels cost at most 150 EUR {MARK}. The CFO decides above 1,000 EUR.", [looked_up])
    assert (scores["all"].value, scores["unsupported"].value, scores["citation_coverage"].value) == (0, 0.5, 0.5)
    assert "150" in scores["all"].reason


def test_guessing_fails_though_the_guess_is_right():
    guessed = run("Hotels cost at most 140 EUR a night.", [])
    assert (guessed["all"].value, guessed["evidence_used"].value) == (0, 0)
    assert guessed["all"].reason == "answered without looking for evidence"
    assert values("It is fine.", [])["all"] == 0  # nothing in it to check, but claimed all the same


def test_declining_without_a_look_claims_nothing_but_evidence_was_not_used():
    assert values("I'm sorry, but I can't help with that.", []) == {
        "all": "not_applicable",
        "unsupported": "not_applicable",
        "citation_coverage": "not_applicable",
        "evidence_used": 0,
    }


def test_a_failed_call_is_no_evidence(looked_up):
    failed = CallRecord("search_policy", {}, "forbidden", "140 EUR is in this error", True, 0)
    assert values("It is 140 EUR.", [failed]) == {"all": 0, "unsupported": 1, "citation_coverage": "not_applicable", "evidence_used": 0}
    other = CallRecord("get_balance", {}, "ok", "140", False, 0)
    assert values("It is 140 EUR.", [other], retrieval_tools=["search_policy"])["evidence_used"] == 0
    assert values("It is 140 EUR.", [other])["evidence_used"] == 1


@pytest.mark.parametrize(
    ("expected", "needed"),
    [
        ({"calls": []}, False),
        ({"calls": "any"}, True),
        ({"calls": [{"get_balance": {}}]}, False),
        (NEEDED, True),
        ({"needs_evidence": True}, True),
        ({**NEEDED, "needs_evidence": False}, False),
        (None, False),
        ("140", False),
    ],
)
def test_the_case_says_whether_evidence_is_needed(expected, needed):
    assert (values("140", [], expected, retrieval_tools=["search_policy"])["evidence_used"] == 0) is needed


def test_citing_what_was_not_retrieved_is_not_supported(looked_up):
    made_up = run("Hotels cost at most 140 EUR [travel.md:900-950].", [looked_up])
    assert (made_up["all"].value, made_up["citation_coverage"].value) == (0, 0)
    assert "[travel.md:900-950]" in made_up["all"].reason
    assert values("Hotels cost 140 EUR [handbook].", [looked_up])["all"] == 0
    assert values("The fee is 160 [EUR].", (), None, tools=())["all"] == 1  # nothing can be cited here: a bracket is a bracket


def test_what_a_document_quotes_cannot_be_cited():
    evil = CallRecord("search_policy", {}, "ok", "[evil.md:0-30]\n> [trusted.md:0-9]\n> The rate is 5%.", False, 0)
    assert values("The rate is 5% [trusted.md:0-9].", [evil])["all"] == 0
    assert values("The rate is 5% [evil.md:0-30].", [evil])["all"] == 1


def test_the_prompt_is_evidence_where_it_holds_the_context():
    prompt = [Message("user", "p1: Rent was 77 EUR.\n\nQuestion: what was the rent?")]
    assert values("It was 77 EUR.", (), None, prompt, ())["all"] == 1
    assert values("It was 78 EUR.", (), None, prompt, ())["all"] == 0
    assert values("It was 77 EUR.", (), None, prompt)["all"] == "not_applicable"  # with tools, the prompt only restates
    assert values("It was 77 EUR.", (), None, prompt, evidence="all")["all"] == 1
    history = [*prompt, Message("assistant", "", (ToolCall("search_policy", {}),)), Message("tool", "Rent 78")]
    assert values("It was 78 EUR.", (), None, history)["all"] == 1


def test_a_field_of_a_json_answer_can_be_read(looked_up):
    assert values(json.dumps({"answer": "140 EUR"}), [looked_up], field="answer")["all"] == 1
    assert values(json.dumps({"answer": 150}), [looked_up], field="answer")["all"] == 0
    assert values("not json", [looked_up], field="answer") == {
        "all": 0,
        "unsupported": "not_applicable",
        "citation_coverage": "not_applicable",
        "evidence_used": 1,
    }


def test_a_judge_beside_the_suite_decides_the_rest(tmp_path, looked_up):
    (tmp_path / "judge.py").write_text(
        "def judge(claim, texts):\n    assert any('Hotels' in text for text in texts)\n"
        "    return {'good': True, 'bad': False, 'broken': 1 / 0}[claim.split()[-1]] if 'broken' in claim else 'good' in claim\n"
    )
    options = {"folder": tmp_path, "judge": "judge.py:judge"}
    assert values("Hotels are good", [looked_up], allow_python=True, **options)["all"] == 1
    assert values("Hotels are bad", [looked_up], allow_python=True, **options)["all"] == 0
    assert set(values("Hotels are broken", [looked_up], allow_python=True, **options).values()) == {"unscored"}
    with pytest.raises(ConfigError, match="does not allow"):
        run("x", **options)


def test_a_suite_with_the_scorer_loads_and_its_judge_is_part_of_its_hash(tmp_path):
    (tmp_path / "cases.jsonl").write_text(json.dumps({"id": "a", "messages": [{"role": "user", "content": "hi"}]}))
    (tmp_path / "judge.py").write_text("def judge(claim, texts):\n    return None\n")
    scorer = "{grounding: {name: grounded, judge: 'judge.py:judge'}}"
    (tmp_path / "s.yaml").write_text(f"name: s\nversion: '1'\ncases: cases.jsonl\nallow_python: true\nscorers: [{scorer}]\n")
    suite = load_suite(tmp_path / "s.yaml")
    assert suite.score_names == ("grounded", "grounded_unsupported", "grounded_citation_coverage", "grounded_evidence_used")
    (tmp_path / "judge.py").write_text("def judge(claim, texts):\n    return True\n")
    assert load_suite(tmp_path / "s.yaml").hash != suite.hash


def test_on_real_reports_gold_answers_and_derivations_are_grounded_and_changed_digits_are_not():
    """TAT-QA's own answers. The report does not always name the scale, and a changed digit may by chance stand elsewhere in it."""
    draw = random.Random(0)
    counts = {"gold": [0, 0], "derivation": [0, 0], "changed": [0, 0]}
    for report in read_tatqa(SLICE):
        evidence = Evidence([render_report(report)])
        for question in report.questions:
            parts = question.answer if isinstance(question.answer, list | tuple) else [question.answer]
            answer = f"{', '.join(map(str, parts))} {question.scale}".strip() + "."
            claims = {"derivation": f"{question.derivation} = {answer}"} if question.answer_type == "arithmetic" else {"gold": answer}
            digits = [place for place, one in enumerate(answer) if one.isdigit()]
            if digits and question.answer_type in ("span", "multi-span"):
                place = draw.choice(digits)
                claims["changed"] = f"{answer[:place]}{(int(answer[place]) + draw.randint(1, 9)) % 10}{answer[place + 1 :]}"
            if question.answer_type != "count":  # what is counted stands nowhere
                for kind, claim in claims.items():
                    status = ground_claim(claim, evidence).status
                    if status != "not_checkable":
                        counts[kind][status == "grounded"] += 1
    shares = {kind: grounded / (grounded + not_grounded) for kind, (not_grounded, grounded) in counts.items()}
    assert min(map(sum, counts.values())) > 200
    assert shares["gold"] > 0.97
    assert shares["derivation"] > 0.97
    assert shares["changed"] < 0.06
