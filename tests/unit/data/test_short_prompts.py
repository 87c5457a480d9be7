"""Cases that are too short for runs of words are found by what they ask."""

import json
from pathlib import Path

import pytest

from posttrain.data import contamination, read_records
from posttrain.evaluation import load_suite
from posttrain.recipes.curation import _own_prompts
from posttrain.records import Demonstration, Message, PreferencePair

ROOT = Path(__file__).parents[3]
QUESTION = "What is the capital of France?"
CASES = {"capital": (QUESTION, '{"contains": "Paris"}'), "more": ("Continue.", "and so on"), "other": ("Who wrote Emma in 1815?", "Austen")}
CLEAN = [("Where does the Danube end?", "In the Black Sea."), ("Continue with the second chapter of it.", "Then ...")]


def dialogue(*turns):
    return Demonstration(tuple(Message(role, text) for role, text in zip(("user", "assistant") * len(turns), turns, strict=False)))


def check(rows, cases=CASES):
    texts = {"s": [(name, f"{prompt}\n{expected}") for name, (prompt, expected) in cases.items()]}
    prompts = {"s": {name: prompt for name, (prompt, _) in cases.items()}}
    return contamination([dialogue(*turns) for turns in [*CLEAN, *rows]], texts, prompts=prompts)


def hits(rows, cases=CASES):
    return [(hit.case_id, hit.kind, hit.records) for hit in check(rows, cases).hits]


@pytest.mark.parametrize(
    "asked", [QUESTION, f"Please: {QUESTION}", f"Answer in one word. {QUESTION} Thanks!", "what is the capital of france"]
)
def test_the_prompt_with_any_answer_and_any_words_around_it_is_found(asked):
    assert hits([(asked, "Paris")]) == [("capital", "prompt", (2,))]


def test_a_prompt_inside_a_dialogue_or_a_pair_is_found():
    assert hits([("Hello there", "Hello!", f"Well, {QUESTION}", "Paris")]) == [("capital", "prompt", (2,))]
    pair = PreferencePair((Message("user", QUESTION),), (Message("assistant", "Paris"),), (Message("assistant", "Rome"),))
    report = contamination([pair], {"s": [("capital", QUESTION + " Paris")]}, prompts={"s": {"capital": QUESTION}})
    assert [hit.kind for hit in report.hits] == ["prompt"]


def test_other_words_in_between_or_an_answer_that_quotes_it_are_no_leak():
    assert hits([("What is the old capital of France?", "Paris"), ("Ask me something.", QUESTION)]) == []


def test_a_prompt_of_a_few_words_counts_where_it_opens_the_record_and_nowhere_else():
    assert hits([("Tell a story.", "Once ...", "Continue.", "there was"), ("Please: continue.", "...")]) == []
    assert hits([("Continue.", "What?")]) == [("more", "prompt", (2,))]
    assert hits([("Continue.", "What?", "Never mind.", "All right.")]) == [("more", "prompt", (2,))]


def test_a_common_phrase_is_no_leak_and_a_leak_repeated_word_for_word_is_no_common_phrase():
    greetings = [("Continue.", f"Part {number}") for number in range(60)]
    assert hits(greetings) == []
    inside = [(f"{QUESTION} And of country {number}?", "Paris and ...") for number in range(60)]
    assert hits(inside) == []
    assert [case for case, _, _ in hits([(QUESTION, "Paris")] * 60)] == ["capital"]


def test_a_prompt_that_several_cases_share_with_other_answers_is_not_theirs_alone():
    shared = {"a": ("Which account is it booked on?", "office"), "b": ("Which account is it booked on?", "travel")}
    assert hits([("Which account is it booked on?", "rent")], shared) == []
    same = {"a": ("Which account is it booked on?", "office"), "b": ("Which account is it booked on?", "office")}
    assert [case for case, _, _ in hits([("Which account is it booked on?", "rent")], same)] == ["a", "b"]


def test_the_report_says_how_short_cases_were_compared():
    assert check([]).short_cases() == (
        "3 of 3 suite cases are too short for runs of 13 words: 3 compared by their prompt alone, 2 of them inside longer messages too"
    )
    without = contamination([dialogue(*CLEAN[0])], {"s": [("a", "two words")]})
    assert without.short_cases().endswith("0 compared by their prompt alone, 0 of them inside longer messages too; 1 only as a whole text")
    assert json.loads(json.dumps(check([]).to_dict()))["num_short"] == 3


@pytest.mark.parametrize("change", ["other answer", "prefix"])
def test_every_leaked_case_of_the_tiny_suite_is_found(change):
    suite = load_suite(ROOT / "suites/tiny.yaml")
    clean = list(read_records(ROOT / "recipes/data/tiny.jsonl"))
    texts, prompts = {"tiny": list(suite.texts.items())}, {"tiny": _own_prompts(suite)}
    assert contamination(clean, texts, prompts=prompts).hits == ()
    prefix = "Please: " if change == "prefix" else ""
    leaks = [
        Demonstration(
            (*case.messages[:-1], Message("user", prefix + case.messages[-1].content), Message("assistant", f'{{"note": "", {case.line}}}'))
        )
        for case in suite.cases
    ]
    assert len(contamination([*clean, *leaks], texts, prompts=prompts).hits) == len(suite.cases) == 128


@pytest.mark.parametrize("name", ["preference", "tools"])
def test_shipped_suites_with_short_cases_are_not_in_the_shipped_data(name):
    suite = load_suite(ROOT / f"suites/{name}.yaml")
    texts, prompts = {name: list(suite.texts.items())}, {name: _own_prompts(suite)}
    files = sorted((ROOT / "recipes/data").glob(f"{name}*.jsonl.gz"))
    assert files
    for file in files:
        assert contamination(read_records(file), texts, prompts=prompts).hits == (), file
