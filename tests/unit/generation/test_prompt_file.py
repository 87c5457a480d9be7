"""Prompts from a file, answers to a file, and a run that was killed goes on where it was."""

import dataclasses
import gzip
import json
import resource
from pathlib import Path

import pytest

from posttrain.errors import ConfigError, DataError, InfrastructureError
from posttrain.generation import answer_prompts, read_prompts
from posttrain.records import Message, SamplingSettings

SAMPLING = SamplingSettings(max_new_tokens=5)


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_way_to_write_a_prompt_is_read(tmp_path):
    rows = [
        {"prompt": "a"},
        {"id": "x", "messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "left out"}]},
        {"id": 7, "prompt": [{"role": "user", "content": "c"}], "system": "own"},
        "",
    ]
    requests = read_prompts(write(tmp_path / "p.jsonl", rows), SAMPLING, system="general")
    general = Message("system", "general")
    assert [request.id for request in requests] == ["1", "x", "7"]
    assert [request.messages for request in requests] == [
        (general, Message("user", "a")),
        (general, Message("user", "b")),
        (Message("system", "own"), Message("user", "c")),
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "p.jsonl: the file is empty"),
        (["{"], r"p\.jsonl:1: not valid JSON"),
        ([{"prompt": "a"}, {"question": "b"}], r"p\.jsonl:2: field 'prompt': is missing"),
        ([{"messages": [{"role": "boss", "content": "b"}]}], r"p\.jsonl:1: .*is not a known role"),
        ([{"id": "a", "prompt": "b"}] * 2, r"p\.jsonl:2: id 'a' occurs twice"),
        ([{"id": "2", "prompt": "b"}, {"prompt": "b"}], r"p\.jsonl:2: id '2' occurs twice \(a row without one is called by its place\)"),
        ([{"messages": [{"role": "user", "content": ""}]}], r"p\.jsonl:1: .*ends with an empty message"),
    ],
)
def test_a_broken_row_is_named(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_prompts(write(tmp_path / "p.jsonl", rows), SAMPLING)


def test_prompts_are_read_from_any_format_and_named_by_their_place(tmp_path):
    rows = [{"prompt": "a\u2028b", "id": None}, {"prompt": "c", "id": None}]
    plain = write(tmp_path / "p.jsonl", rows)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "p.csv").write_text("prompt\na\u2028b\nc\n", encoding="utf-8")
    for file in (plain, tmp_path / "bom.jsonl", tmp_path / "p.jsonl.gz"):
        assert [(one.id, one.messages[0].content) for one in read_prompts(file, SAMPLING)] == [("1", "a\u2028b"), ("2", "c")]
    assert [one.messages[0].content for one in read_prompts(tmp_path / "p.csv", SAMPLING)] == ["a\u2028b", "c"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: no such file"):
        read_prompts(tmp_path / "none.jsonl", SAMPLING)


@pytest.fixture
def requests(tmp_path):
    return read_prompts(write(tmp_path / "p.jsonl", [{"id": f"r{i}", "prompt": f"account {i}"} for i in range(5)]), SAMPLING)


def test_a_run_stopped_inside_a_line_goes_on_and_ends_with_the_same_rows(tiny_generator, requests, tmp_path):
    out = tmp_path / "a" / "out.jsonl"
    whole = answer_prompts(tiny_generator, requests, out)
    lines = out.read_text().splitlines(keepends=True)
    for kept in (20, 3, -1):
        out.write_text("".join(lines[:2]) + lines[2][:kept])
        progress = []
        rows = answer_prompts(tiny_generator, requests, out, on_answer=lambda done, total, seen=progress: seen.append((done, total)))
        assert progress == [(n, 5) for n in ((3, 4, 5) if kept == -1 else (2, 3, 4, 5))]
        assert [{**row, "seconds": 0} for row in rows] == [{**row, "seconds": 0} for row in whole]
    assert sorted(json.loads(line)["id"] for line in out.read_text().splitlines()) == [f"r{i}" for i in range(5)]


def test_answers_of_another_setting_are_not_mixed_in(tiny_generator, requests, tmp_path):
    out = tmp_path / "out.jsonl"
    answer_prompts(tiny_generator, requests, out)
    before = out.read_bytes()
    warmer = [dataclasses.replace(request, sampling=dataclasses.replace(SAMPLING, temperature=1.0)) for request in requests]
    with pytest.raises(ConfigError, match=r"out\.jsonl:1: 'r\d' was answered by another model, prompt or sampling setting"):
        answer_prompts(tiny_generator, warmer, out)
    assert out.read_bytes() == before


def test_a_file_of_something_else_is_not_written_to(tiny_generator, requests, tmp_path):
    out = write(tmp_path / "out.jsonl", [{"id": "r0", "prompt": "mine"}])
    with pytest.raises(ConfigError, match="no answer written by this command"):
        answer_prompts(tiny_generator, requests, out)
    assert json.loads(out.read_text()) == {"id": "r0", "prompt": "mine"}
    for mine in (
        "notes without an end",
        '{"id": "r0", "text": "mine"}',
        '{"a": 1}\n{"b": 2}',
        '{"id": "r0", "text": "no key", "x": 1}\nend',
    ):
        out.write_text(mine)
        with pytest.raises(ConfigError, match="no answer written by this command"):
            answer_prompts(tiny_generator, requests, out)
        assert out.read_text() == mine


def test_answers_that_hold_line_separators_do_not_stop_the_next_call(tiny_generator, requests, tmp_path):
    out = tmp_path / "out.jsonl"
    answer_prompts(tiny_generator, requests, out)
    rows = [{**json.loads(line), "text": "one\u2028two\x85three"} for line in out.read_text().splitlines()]
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert {row["text"] for row in answer_prompts(tiny_generator, requests, out)} == {"one\u2028two\x85three"}


def test_a_place_that_cannot_be_written_is_one_message(tiny_generator, requests, tmp_path):
    for place in (tmp_path, Path("/dev/full")):
        with pytest.raises(ConfigError, match="is a folder or a device"):
            answer_prompts(tiny_generator, requests, place)
    with pytest.raises(InfrastructureError, match=r"p.jsonl/out.jsonl: cannot be written"):
        answer_prompts(tiny_generator, requests, tmp_path / "p.jsonl" / "out.jsonl")


def test_a_full_disk_stops_with_a_message_and_the_same_call_goes_on(tiny_generator, requests, tmp_path):
    out = tmp_path / "out.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(InfrastructureError, match=r"out.jsonl: cannot be written: File too large.*\n.*goes on where it was"):
            answer_prompts(tiny_generator, requests, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [row["id"] for row in answer_prompts(tiny_generator, requests, out)] == [request.id for request in requests]
