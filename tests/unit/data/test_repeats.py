import json

from posttrain.data import Duplicate, duplicates
from posttrain.records import Demonstration, Message, UnpairedLabel

REPORT = " ".join(f"In note {n} the company states that item {n * 7} was measured at amortised cost." for n in range(30))


def row(asked, answered, system=""):
    head = (Message("system", system),) if system else ()
    return Demonstration((*head, Message("user", asked), Message("assistant", answered)))


def test_equal_rows_are_exact_duplicates_whatever_their_blanks():
    report = duplicates([row("a  b", "c"), row("x", "c"), row("a b", "c\n"), row("a b", "c")])
    assert report.exact == (Duplicate(0, 2, 1.0), Duplicate(0, 3, 1.0))
    assert report.dropped == {2, 3}
    assert report.num_records == 4


def test_case_numbers_and_labels_make_rows_different():
    assert not duplicates([row("What is 1.5?", "1.5"), row("What is 15?", "15"), row("WHAT IS 15?", "15")]).exact
    turns = (Message("user", "q"),), (Message("assistant", "a"),)
    assert not duplicates([UnpairedLabel(*turns, True), UnpairedLabel(*turns, False)]).dropped


def test_questions_about_one_report_are_no_duplicates():
    rows = [
        row(f"{REPORT}\nQuestion: {question}", json.dumps({"answer": answer}))
        for question, answer in [
            ("What was the total revenue?", "10"),
            ("Who signed the audit report?", "10"),
            ("What was the total revenue in 2018?", "10"),
            ("What was the total revenue in 2019?", "10"),
        ]
    ]
    assert duplicates(rows, near_jaccard=0.8).near == ()


def test_the_same_question_reworded_is_a_near_duplicate():
    first = row(f"{REPORT}\nQuestion: What was the total revenue of the company?", "It was 10 million dollars")
    again = row(f"{REPORT}\nQuestion: What was total revenue of the company?", "It was 10 million dollars")
    other = row(f"{REPORT}\nQuestion: What was total revenue of the company?", "It was 99 billion euros")
    report = duplicates([first, other, again], near_jaccard=0.8)
    assert [(one.kept, one.dropped) for one in report.near] == [(0, 2)]
    assert 0.8 <= report.near[0].similarity < 1


def test_long_answers_that_agree_are_enough():
    answer = " ".join(f"step {n} follows from step {n + 1}" for n in range(20))
    report = duplicates(
        [row("Explain it.", answer), row("Please tell me how this works.", answer.replace("step 3 follows", "step 3 comes"))],
        near_jaccard=0.7,
    )
    assert [(one.kept, one.dropped) for one in report.near] == [(0, 1)]


def test_the_similarity_said_is_the_jaccard_of_three_word_runs():
    words = [f"w{n}" for n in range(60)]
    a, b = " ".join(words), " ".join([*words[:-2], "x", "y"])
    (found,) = duplicates([row("q", a), row("q", b)], near_jaccard=0.8).near
    # 61 words with the prompt: 59 runs each, the last two of which differ
    assert found.similarity == 57 / 61


def test_threshold_one_finds_exact_ones_only():
    assert duplicates([row("q " * 30, "a"), row("q " * 31, "a")], near_jaccard=1.0).dropped == frozenset()
