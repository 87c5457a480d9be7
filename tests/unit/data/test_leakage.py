import json
import random
from pathlib import Path

import pytest

from posttrain.data import contamination, read_records, speech
from posttrain.errors import CheckFailed
from posttrain.records import Demonstration, Message

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "tests" / "fixtures" / "data"
rng = random.Random(5)
WORDS = [f"word{n}" for n in range(3000)]


def prose(count):
    return " ".join(rng.choices(WORDS, k=count))


def row(asked, answered="ok", id=""):
    return Demonstration((Message("user", asked), Message("assistant", answered)), id=id)


TRAIN = [row(prose(60), prose(20)) for _ in range(100)]
CASES = [(f"c{n}", prose(50)) for n in range(40)]


def test_clean_data_passes():
    report = contamination(TRAIN, {"s": CASES})
    assert report.hits == ()
    assert report.precision is None
    report.check()


def test_a_case_inside_a_longer_row_is_found_with_its_text_and_place():
    report = contamination([*TRAIN, row(f"{prose(30)} {CASES[7][1]} {prose(30)}", id="leaky")], {"s": CASES})
    (hit,) = report.hits
    assert (hit.suite, hit.case_id, hit.kind, hit.overlap, hit.record_id, hit.records) == ("s", "c7", "ngram", 1.0, "leaky", (100,))
    assert CASES[7][1].startswith(hit.text)
    assert report.contaminated_records == {100}
    assert report.precision == 1.0


def test_punctuation_and_case_do_not_hide_a_leak():
    shouted = ", ".join(word.upper() for word in CASES[3][1].split())
    assert [hit.case_id for hit in contamination([*TRAIN, row(shouted)], {"s": CASES}).hits] == ["c3"]


def test_coverage_is_the_share_of_the_case_words_the_record_holds():
    words = CASES[0][1].split()
    leak = row(" ".join(words[:20]) + " " + prose(10) + " " + " ".join(words[30:45]))
    (hit,) = contamination([*TRAIN, leak], {"s": CASES}).hits
    assert hit.overlap == (20 + 15) / 50
    assert contamination([*TRAIN, leak], {"s": CASES}, min_coverage=0.71, near_jaccard=0.9).hits == ()


def test_one_shared_phrase_is_counted_but_is_no_leak():
    phrase = " ".join(CASES[0][1].split()[10:23])
    report = contamination([*TRAIN, row(f"{prose(40)} {phrase} {prose(40)}")], {"s": CASES})
    assert (report.hits, report.num_sharing, report.precision) == ((), 1, 0.0)


def test_twelve_words_are_no_run_and_runs_do_not_span_messages():
    words = CASES[0][1].split()
    rows = [row(prose(5) + " " + " ".join(words[:12]), " ".join(words[12:24]) + " " + prose(5))]
    report = contamination([*TRAIN, *rows], {"s": CASES})
    assert report.num_sharing == 0


def test_a_template_in_every_case_and_every_row_is_boilerplate():
    template = prose(80)
    train = [row(f"{template} {prose(40)}") for _ in range(60)]
    cases = [(case_id, f"{template} {text}") for case_id, text in CASES]
    assert contamination(train, {"s": cases}).hits == ()
    report = contamination([*train, row(f"{template} {CASES[4][1]}")], {"s": cases})
    assert [(hit.case_id, hit.overlap) for hit in report.hits] == [("c4", 1.0)]
    assert report.num_sharing == 40
    assert report.num_boilerplate >= 80 - 12


def test_a_template_is_told_from_a_leak_in_a_suite_of_five_cases_too():
    template = prose(80)
    train = [row(f"{template} {prose(20)}") for _ in range(20)]
    cases = [(f"t{n}", f"{template} {prose(20)}") for n in range(5)]
    assert contamination(train, {"s": cases}).hits == ()
    assert [hit.case_id for hit in contamination([*train, row(cases[3][1])], {"s": cases}).hits] == ["t3"]


def test_a_short_case_with_one_word_changed_is_a_near_duplicate():
    words = prose(20).split()
    changed = " ".join([*words[:10], "other", *words[11:]])
    (hit,) = contamination([*TRAIN, row(changed)], {"s": [*CASES, ("short", " ".join(words))]}).hits
    # 18 runs of three words each, 15 of them the same
    assert (hit.case_id, hit.kind, hit.overlap) == ("short", "near_duplicate", round(15 / 21, 4))


def test_a_leak_repeated_in_training_is_no_template():
    report = contamination([*TRAIN, *[row(CASES[2][1])] * 500], {"s": CASES})
    (hit,) = report.hits
    assert len(hit.records) == 500


def test_a_report_shared_by_several_cases_is_found_with_another_question():
    document = prose(120)
    cases = [*CASES, *[(f"d{n}", f"{document} {prose(8)}") for n in range(6)]]
    report = contamination([*TRAIN, row(f"{document} {prose(9)}")], {"s": cases})
    assert sorted(hit.case_id for hit in report.hits) == [f"d{n}" for n in range(6)]


@pytest.mark.parametrize("every", [12, 11])
def test_edits_that_leave_no_run_of_thirteen_are_found_as_near_duplicates(every):
    words = prose(72).split()
    edited = [f"other{n}" if n % every == every - 1 else word for n, word in enumerate(words)]
    report = contamination([*TRAIN, row(" ".join(edited))], {"s": [*CASES, ("long", " ".join(words))]})
    (hit,) = report.hits
    assert (hit.case_id, hit.kind) == ("long", "near_duplicate")
    # six edits, five of which change three of the 70 runs of three words and the last (at the very end) one or more
    same = sum(words[n : n + 3] == edited[n : n + 3] for n in range(70))
    assert hit.overlap == pytest.approx(same / (140 - same), abs=1e-4)


def test_a_short_question_matches_only_a_message_that_says_exactly_that():
    cases = [("q", "What was the total revenue in 2019?")]
    assert contamination([row("Report ... What was the total revenue in 2019?")], {"s": cases}).hits == ()
    assert contamination([row("What was the total revenue in 2018?")], {"s": cases}).hits == ()
    (hit,) = contamination([row("x"), row("what was the total revenue in 2019")], {"s": cases}).hits
    assert (hit.kind, hit.overlap, hit.records) == ("exact", 1.0, (1,))


def test_the_stop_names_cases_and_is_lifted_only_by_a_written_reason():
    report = contamination([*TRAIN, row(CASES[7][1], id="leaky")], {"s": CASES})
    for waiver in (None, "", "ok"):
        with pytest.raises(
            CheckFailed, match=r"1 of 40 suite cases are in the training data \(1 of 101 records\):\n.*s/c7 in leaky \(ngram, 100%\)"
        ):
            report.check(waiver)
    report.check("the public set is reported beside a private one")


def test_several_suites_are_told_apart():
    report = contamination([row(CASES[0][1]), row(CASES[30][1])], {"one": CASES[:20], "two": CASES[20:]})
    assert sorted((hit.suite, hit.case_id) for hit in report.hits) == [("one", "c0"), ("two", "c30")]
    assert report.num_cases == {"one": 20, "two": 20}
    assert json.loads(json.dumps(report.to_dict()))["contaminated_records"] == [0, 1]


def test_empty_suites_and_empty_data():
    assert contamination([], {"s": CASES}).hits == ()
    assert contamination(TRAIN, {}).hits == ()
    assert contamination(TRAIN, {"s": [("empty", ""), ("short", "two words")]}).hits == ()


def test_batches_change_nothing(monkeypatch):
    rows = [*TRAIN, row(CASES[7][1]), row(CASES[9][1]), *TRAIN]
    whole = contamination(rows, {"s": CASES})
    monkeypatch.setattr("posttrain.data.leakage.BATCH", 7)
    assert contamination(rows, {"s": CASES}) == whole
    assert len(whole.hits) == 2


def test_gsm8k_train_and_test_do_not_overlap_and_a_planted_question_is_found():
    train = list(read_records(FIXTURES / "gsm8k_train.jsonl"))
    test = list(read_records(FIXTURES / "gsm8k_test.jsonl"))
    cases = {"gsm8k": [(record.id, record.messages[0].content) for record in test]}
    assert contamination(train, cases).hits == ()
    (hit,) = contamination([*train, test[11]], cases).hits
    assert (hit.case_id, hit.overlap, hit.records) == (test[11].id, 1.0, (20,))


def test_held_out_financial_reports_are_clean_and_a_leaked_report_is_found():
    train = list(read_records(ROOT / "recipes" / "data" / "finops.jsonl.gz"))
    rows = [json.loads(line) for line in (ROOT / "suites" / "finops.jsonl").read_text().splitlines()]
    conversations = [tuple(Message(turn["role"], turn["content"]) for turn in case["messages"]) for case in rows]
    cases = [(case["id"], speech(turns) + "\n" + json.dumps(case["expected"])) for case, turns in zip(rows, conversations, strict=True)]
    report = contamination(train, {"finops": cases})
    assert report.hits == ()
    leak = Demonstration((*conversations[0][:-1], Message("user", conversations[0][-1].content), Message("assistant", "{}")))
    leaked = contamination([*train, leak], {"finops": cases})
    assert rows[0]["id"] in {hit.case_id for hit in leaked.hits}
    same_report = {case["id"] for case in rows if case["metadata"]["report"] == rows[0]["metadata"]["report"]}
    assert {hit.case_id for hit in leaked.hits} <= same_report
