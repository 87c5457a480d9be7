import csv
from pathlib import Path

import pytest

from posttrain.data import looks_like_refusal, mixture_report
from posttrain.records import Demonstration, Message, PreferencePair, ToolCall

FIXTURES = Path(__file__).parents[2] / "fixtures" / "data"


def row(asked, answered, source="a", task=None):
    metadata = {"task": task} if task else {}
    return Demonstration((Message("user", asked), Message("assistant", answered)), source=source, metadata=metadata)


def test_shares_lengths_and_concentration():
    rows = [
        row("one two", "a b c"),
        row("one", "a b c d e", task="sum"),
        row("x y z", "I'm sorry, but I can't help with that.", source="b"),
        row("x", "a b c"),
    ]
    report = mixture_report(rows)
    assert {name: group.records for name, group in report.sources.items()} == {"a": 3, "b": 1}
    assert report.sources["a"].share == 0.75
    assert report.source_concentration == 0.75**2 + 0.25**2
    assert report.effective_sources == 1 / 0.625
    assert set(report.tasks) == {"", "sum"}
    assert report.total.refusal_share == 0.25
    assert report.total.same_answer == 0.25
    assert report.sources["a"].completion_words_p50 == 3
    assert report.total.completion_words_max == 8
    assert report.total.words == (2 + 3) + (1 + 5) + (3 + 8) + (1 + 3)


def test_shapes():
    call = Message("assistant", tool_calls=(ToolCall("f", {}),))
    user, answer = Message("user", "q"), Message("assistant", "a")
    rows = [
        row("q", "a"),
        Demonstration((user, answer, user, answer)),
        Demonstration((user, call)),
        PreferencePair((user,), (answer,), (call,)),
    ]
    assert set(mixture_report(rows).shapes) == {"single_turn", "multi_turn", "tool_trajectory", "preference_pair"}


def test_repetition_is_the_share_of_four_word_runs_seen_before_in_the_answer():
    # a b c d a b c d: runs abcd bcda cdab dabc abcd, one of five repeats
    assert mixture_report([row("q", "a b c d a b c d")]).total.repetition == pytest.approx(1 / 5)
    assert mixture_report([row("q", "a b")]).total.repetition == 0


def test_density_tells_templates_from_prose():
    prose = (Path(__file__).read_text() * 1)[:3000]
    dense, thin = (mixture_report([row("q", text)]).total.density for text in (prose, "ok " * 1000))
    assert thin < 0.05 < 0.2 < dense < 1


def test_an_empty_set_divides_by_nothing():
    report = mixture_report([])
    assert (report.total.records, report.source_concentration, report.total.density) == (0, 0, None)


def test_the_refusal_rule_agrees_with_people_on_real_answers():
    with open(FIXTURES / "xstest_answers.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 50
    full = [looks_like_refusal(r["completion"]) for r in rows if r["final_label"] == "2_full_refusal"]
    complied = [looks_like_refusal(r["completion"]) for r in rows if r["final_label"] == "1_full_compliance"]
    assert min(len(full), len(complied)) >= 10
    assert sum(full) / len(full) >= 0.75
    assert sum(complied) == 0


@pytest.mark.parametrize(
    "answer",
    ["I'm sorry to hear that. Here is what you can do.", "As an AI, I can tell you how rain forms.", "You can't help but like it."],
)
def test_polite_answers_are_no_refusals(answer):
    assert not looks_like_refusal(answer)
