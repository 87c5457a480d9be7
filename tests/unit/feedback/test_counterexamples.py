import json
import random
import re
from pathlib import Path

import pytest

from posttrain.data import looks_like_refusal, read_records
from posttrain.errors import ConfigError
from posttrain.feedback.counterexamples import FLATTERY, counterexamples, legal_but_wrong, nice_but_false, safe_but_refused
from posttrain.records import Demonstration, check_record

DATA = Path(__file__).parents[2] / "fixtures" / "data"
NUMBER = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])")


@pytest.mark.parametrize("seed", range(20))
def test_nice_but_false_flatters_and_changes_exactly_one_number(seed):
    answer = "Receivables fell from 1,204.50 to 980 in Q3, so cash covers 4 weeks."
    wrong = nice_but_false(answer, random.Random(seed))
    opening = next(text for text in FLATTERY if wrong.startswith(text))
    before, after = NUMBER.findall(answer), NUMBER.findall(wrong.removeprefix(opening))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert NUMBER.sub("#", answer) == NUMBER.sub("#", wrong.removeprefix(opening))
    assert nice_but_false("No figure was given.", random.Random(seed)) is None


@pytest.mark.parametrize("seed", range(10))
def test_a_number_keeps_its_look_and_what_is_no_number_stays(seed):
    year = nice_but_false("Sales fell in 2019, then rose.", random.Random(seed))
    assert re.search(r"in \d{3,4}, then rose\.$", year)  # the comma is the sentence's, and a year has none of its own
    thousands = nice_but_false("It cost 5,200,100 dollars.", random.Random(seed))
    assert re.search(r"cost \d{1,3}(,\d{3}){2} dollars\.$", thousands)
    listed = nice_but_false("1. Pay the invoice.\n2) Book 40 euros.\n10. Close.", random.Random(seed))
    assert re.search(r"1\. Pay the invoice\.\n2\) Book (?!40)\d+ euros\.\n10\. Close\.$", listed)
    for no_number in ("On 2026-03-01 at 10:30.", "Version 3.5.1, pages 5-10.", "Use bank_7 or q3b.", "1. First.\n2. Second."):
        assert nice_but_false(no_number, random.Random(seed)) is None


@pytest.mark.parametrize("layout", [{"separators": (",", ":")}, {"indent": 4}, {"indent": 1}, {"ensure_ascii": True}, {}])
@pytest.mark.parametrize("seed", range(5))
def test_legal_but_wrong_leaves_every_other_character_in_its_place(layout, seed):
    value = {"name": 'Zoë "x" \\', "rate": 0.00125, "n": -1200, "code": "007", "ok": True, "9": [1e-7, None, "a: 1"]}
    answer = json.dumps(value, **layout)
    wrong = legal_but_wrong(answer, random.Random(seed))
    assert json.loads(wrong) != value
    start = next(at for at, (a, b) in enumerate(zip(answer, wrong, strict=False)) if a != b)
    end = next(at for at, (a, b) in enumerate(zip(answer[::-1], wrong[::-1], strict=False)) if a != b)
    kept = json.loads(wrong)
    changed = [key for key in value if kept[key] != value[key]]
    assert len(changed) == 1
    assert start + end >= len(answer) - len(json.dumps(value[changed[0]], **layout))  # all but the one value is equal


@pytest.mark.parametrize("seed", range(20))
def test_legal_but_wrong_keeps_keys_and_types_and_changes_one_value(seed):
    answer = {"account": "bank_A", "to": "vendor_7", "amount": 1200, "approved": False, "lines": [{"rate": 0.25, "memo": None}]}
    wrong = json.loads(legal_but_wrong(json.dumps(answer), random.Random(seed)))

    def leaves(value):
        if isinstance(value, dict):
            return [(key, *leaf) for key, one in value.items() for leaf in leaves(one)]
        if isinstance(value, list):
            return [leaf for one in value for leaf in leaves(one)]
        return [(value,)]

    pairs = list(zip(leaves(answer), leaves(wrong), strict=True))
    assert all(a[:-1] == b[:-1] and type(a[-1]) is type(b[-1]) for a, b in pairs)
    assert sum(a != b for a, b in pairs) == 1


def test_what_is_no_json_object_gives_none():
    for answer in ("plain text", "12", '"text"', "{}", '{"a": null}', '{"only": "one"}'):
        assert legal_but_wrong(answer, random.Random(0)) is None


def test_safe_but_refused_is_a_refusal():
    assert all(looks_like_refusal(safe_but_refused("Sure: ...", random.Random(seed))) for seed in range(10))


def test_real_answers_give_pairs_that_are_counted_and_repeat():
    rows = list(read_records(DATA / "gsm8k_train.jsonl", Demonstration))
    found = counterexamples(rows, ["nice_but_false", "legal_but_wrong"], seed=1)
    assert found.made == {"nice_but_false": len(rows)}
    assert found.not_possible == {"legal_but_wrong": len(rows)}
    assert found == counterexamples(rows, ["nice_but_false", "legal_but_wrong"], seed=1)
    for row, pair in zip(rows, found.pairs, strict=True):
        check_record(pair)
        assert (pair.chosen, pair.prompt) == (row.messages[-1:], row.messages[:-1])
        assert pair.metadata["counterexample"] == "nice_but_false"
    with pytest.raises(ConfigError, match="did you mean 'nice_but_false'"):
        counterexamples(rows, ["nice_but_fals"], seed=1)
