import json
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.data import read_records
from posttrain.data.preference_sets import dialogue_key, prompt_key
from posttrain.errors import DataError
from posttrain.records import Message, PreferencePair

FILE = Path(__file__).parents[2] / "fixtures" / "data" / "llmbar_natural.json"


def test_llmbar_is_read_as_published():
    raw = json.loads(FILE.read_text())
    pairs = list(read_records(FILE, PreferencePair))
    assert len(pairs) == len(raw)
    for pair, row in zip(pairs, raw, strict=True):
        assert pair.prompt == (Message("user", row["input"]),)
        assert pair.chosen[0].content == row[f"output_{row['label']}"]
        assert pair.rejected[0].content == row[f"output_{3 - row['label']}"]
        assert pair.metadata["chosen_was"] == ("first" if row["label"] == 1 else "second")
    assert {row["label"] for row in raw} == {1, 2}, "the slice holds both positions"


def test_a_label_of_another_kind_is_named(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"input": "a", "output_1": "b", "output_2": "c", "label": 0}]))
    with pytest.raises(DataError, match=r"field 'label': is neither 1 nor 2 \(got 0\)"):
        list(read_records(file, PreferencePair))


def test_a_prompt_has_one_key_whatever_the_answers():
    first = PreferencePair((Message("user", "a"),), (Message("assistant", "b"),), (Message("assistant", "c"),))
    assert prompt_key(first) == prompt_key(replace(first, chosen=first.rejected, rejected=first.chosen, id="x", probability=0.7))
    assert prompt_key(first) != prompt_key(replace(first, prompt=(Message("user", "A"),)))


def test_a_dialogue_and_its_continuation_have_one_key():
    first = PreferencePair((Message("user", "Hello  there"),), (Message("assistant", "b"),), (Message("assistant", "c"),))
    longer = replace(
        first, prompt=(Message("system", "s"), Message("user", "hello there\n"), Message("assistant", "b"), Message("user", "d"))
    )
    assert dialogue_key(first) == dialogue_key(longer)
    assert dialogue_key(first) != dialogue_key(replace(first, prompt=(Message("user", "Hello"),)))
    assert prompt_key(first) != prompt_key(longer)
