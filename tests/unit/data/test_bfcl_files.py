"""BFCL's files as they are: signatures as JSON Schema, answers, names with dots, several turns."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from posttrain.data.bfcl import read_bfcl, right_calls, signature
from posttrain.errors import DataError
from posttrain.records import ToolCall

FOLDER = Path(__file__).parents[2] / "fixtures" / "data" / "bfcl"
SIZES = {
    "simple_python": 300,
    "multiple": 150,
    "parallel": 120,
    "irrelevance": 180,
    "live_simple": 150,
    "live_relevance": 6,
    "live_irrelevance": 6,
    "multi_turn_base": 7,
}


def read(category, **options):
    return read_bfcl(FOLDER / f"BFCL_v4_{category}.json", **options)


@pytest.mark.parametrize("category", SIZES)
def test_every_row_is_read_with_signatures_that_are_json_schema(category):
    rows = read(category)
    assert len(rows) == SIZES[category]
    assert {row.category for row in rows} == {category}
    for row in rows:
        for tool in row.tools:
            Draft202012Validator.check_schema(tool["function"]["parameters"])
            assert tool["function"]["parameters"]["type"] == "object"


def test_what_is_needed_follows_the_category():
    assert {row.needed for row in read("irrelevance")} == {()} == {row.needed for row in read("live_irrelevance")}
    assert {row.needed for row in read("live_relevance")} == {None}
    assert {len(row.needed) for row in read("simple_python")} == {1}
    assert min(len(row.needed) for row in read("parallel")) >= 2
    assert read("irrelevance")[0].expected == {"calls": []}
    assert read("live_relevance")[0].expected == {"calls": "any"}


def test_types_are_written_as_json_schema_at_every_depth():
    function = {
        "name": "a.b",
        "description": "d",
        "parameters": {
            "type": "dict",
            "properties": {
                "x": {"type": "float", "optional": True, "default": 1.0},
                "y": {"type": "array", "items": {"type": "dict", "properties": {"z": {"type": "tuple", "items": {"type": "any"}}}}},
            },
            "required": ["x"],
        },
    }
    assert signature(function)["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "x": {"type": "number", "default": 1.0},
            "y": {"type": "array", "items": {"type": "object", "properties": {"z": {"type": "array", "items": {}}}}},
        },
        "required": ["x"],
    }
    assert signature(function)["function"]["name"] == "a.b"
    assert signature(function, dots="underscore")["function"]["name"] == "a_b"


def test_an_underscore_for_a_dot_changes_signatures_and_answers_alike():
    kept, written = read("simple_python"), read("simple_python", dots="underscore")
    assert any("." in next(iter(row.needed[0])) for row in kept)
    for before, after in zip(kept, written, strict=True):
        assert next(iter(after.needed[0])) == next(iter(before.needed[0])).replace(".", "_") == after.tools[0]["function"]["name"]


def test_a_right_answer_takes_what_the_question_says_and_leaves_out_what_may_be_left_out():
    rows = {row.id: row for row in read("simple_python")}
    triangle = rows["simple_python_0"]
    assert triangle.needed[0]["calculate_triangle_area"]["unit"] == ["units", ""]
    assert "10 units" in triangle.question
    assert right_calls(triangle) == (ToolCall("calculate_triangle_area", {"base": 10, "height": 5, "unit": "units"}),)
    left_out = 0
    for row in rows.values():
        (name, accepted), required = next(iter(row.needed[0].items())), row.tools[0]["function"]["parameters"]["required"]
        for argument, values in accepted.items():
            if (
                "" in values
                and argument not in required
                and not any(str(one).lower() in row.question.lower() for one in values if one != "")
            ):
                assert argument not in right_calls(row)[0].arguments, (row.id, name)
                left_out += 1
    assert left_out >= 90


def test_turns_have_their_calls_and_positions_become_names():
    row = read("multi_turn_base")[0]
    assert len(row.turns) == len(row.turn_calls) == 4
    assert row.turn_calls[0][0] == ToolCall("cd", {"folder": "document"})
    assert row.turn_calls[2] == (ToolCall("sort", {"file_name": "final_report.pdf"}),)
    offered = {tool["function"]["name"] for tool in row.tools}
    assert {call.name for one in read("multi_turn_base")[:1] for turn in one.turn_calls for call in turn} <= offered
    assert row.metadata["initial_config"]


def write(folder, row, answer=None):
    (folder / "BFCL_v4_simple.json").write_text(json.dumps(row) + "\n")
    if answer is not None:
        (folder / "possible_answer").mkdir()
        (folder / "possible_answer" / "BFCL_v4_simple.json").write_text(json.dumps(answer) + "\n")
    return folder / "BFCL_v4_simple.json"


GOOD = {
    "id": "simple_0",
    "question": [[{"role": "user", "content": "q"}]],
    "function": [{"name": "f", "description": "", "parameters": {"type": "dict", "properties": {}}}],
}
ANSWER = {"id": "simple_0", "ground_truth": [{"f": {}}]}


@pytest.mark.parametrize(
    ("change", "answer", "message"),
    [
        ({}, None, "has no possible answer"),
        ({"id": 5}, ANSWER, r"\$.id: 5 is not of type 'string'"),
        ({"question": None}, ANSWER, r"\$.question: None is not of type"),
        ({"question": ["q"]}, ANSWER, r"\$.question\[0\]: 'q' is not of type"),
        ({"function": [{"name": "f"}]}, ANSWER, "'parameters' is a required property"),
        ({"function": [{"name": "f", "parameters": {"type": "HashMap"}}]}, ANSWER, "type 'HashMap'"),
        ({}, {"id": "simple_0", "ground_truth": [{"f": {}, "g": {}}]}, "has too many properties"),
        ({}, {"id": "simple_0", "ground_truth": [{"f": {"x": 1}}]}, "1 is not of type 'array'"),
        ({}, {"id": "simple_0", "ground_truth": [["f()"]]}, "those of another category"),
    ],
)
def test_a_broken_row_is_named_with_file_and_line(tmp_path, change, answer, message):
    path = write(tmp_path, {**GOOD, **change}, answer)
    with pytest.raises(DataError, match=message) as error:
        read_bfcl(path)
    assert "BFCL_v4_simple.json:1" in str(error.value)


def test_a_good_row_of_the_same_form_is_read(tmp_path):
    assert read_bfcl(write(tmp_path, GOOD, ANSWER))[0].needed == ({"f": {}},)
