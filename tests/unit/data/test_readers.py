import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data import read_records, record_to_row, write_jsonl
from posttrain.errors import DataError
from posttrain.records import Demonstration, Message, PreferencePair, PromptOnly, StepLabels, ToolCall, UnpairedLabel

ROWS = [{"prompt": f'q {n} é 日本 "x", y', "completion": f"a\n{n}", "n": n} for n in range(1, 600)]
EXPECTED = [(row["prompt"], row["completion"]) for row in ROWS]


def pairs(path, **options):
    return [(record.messages[0].content, record.messages[1].content) for record in read_records(path, Demonstration, **options)]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def csv_bytes(rows, delimiter=","):
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue().encode()


def parquet(rows):
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


FORMATS = {
    "a.jsonl": jsonl(ROWS),
    "bom.jsonl": b"\xef\xbb\xbf" + jsonl(ROWS),
    "crlf.jsonl": jsonl(ROWS).replace(b"\n", b"\r\n"),
    "blank-lines.jsonl": jsonl(ROWS).replace(b"}\n", b"}\n\n"),
    "no-last-newline.jsonl": jsonl(ROWS).rstrip(),
    "array.json": json.dumps(ROWS).encode(),
    "indented.json": json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
    "keyed.json": json.dumps({"version": "1 {[", "meta": {"rows": [{"x": 1}]}, "data": ROWS}).encode(),
    "concatenated.json": b"\n".join(json.dumps(row, indent=2).encode() for row in ROWS),
    "jsonl-inside.json": jsonl(ROWS),
    "array-inside.jsonl": json.dumps(ROWS).encode(),
    "a.csv": csv_bytes(ROWS),
    "semicolon.csv": csv_bytes(ROWS, ";"),
    "a.tsv": csv_bytes(ROWS, "\t"),
    "a.parquet": parquet(ROWS),
    "no-suffix": jsonl(ROWS),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_records(tmp_path, name, packed):
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(FORMATS[name]) if packed else FORMATS[name])
    assert pairs(path) == EXPECTED


def test_gzip_is_recognised_without_its_suffix(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(gzip.compress(FORMATS["a.jsonl"]))
    assert pairs(path) == EXPECTED


def test_datasets_folders_and_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(ROWS)
    whole.save_to_disk(tmp_path / "one", num_shards=3)
    assert pairs(tmp_path / "one") == EXPECTED
    shuffled = whole.shuffle(seed=1)
    shuffled.save_to_disk(tmp_path / "shuffled")
    assert pairs(tmp_path / "shuffled") == [(row["prompt"], row["completion"]) for row in shuffled]
    datasets.DatasetDict(train=whole, test=whole.select(range(3))).save_to_disk(tmp_path / "two")
    assert pairs(tmp_path / "two", split="test") == EXPECTED[:3]
    assert pairs(tmp_path / "two" / "train") == EXPECTED
    with pytest.raises(DataError, match="several splits: train, test"):
        read_records(tmp_path / "two")
    with pytest.raises(DataError, match=r"no split 'tests'.*\n.*did you mean 'test'"):
        read_records(tmp_path / "two", split="tests")


def test_folders_of_parquet_shards_as_the_hub_has_them(tmp_path):
    rows = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(7)]
    data = tmp_path / "set" / "data"
    data.mkdir(parents=True)
    for number, part in enumerate((rows[:3], rows[3:])):
        (data / f"train-{number:05}-of-00002.parquet").write_bytes(parquet(part))
    (data / "test-00000-of-00001.parquet").write_bytes(parquet(rows[:2]))
    with pytest.raises(DataError, match="has several splits: test, train"):
        read_records(tmp_path / "set")
    reader = read_records(tmp_path / "set", split="train")
    found = [(reader.position, record.messages[0].content) for record in reader]
    assert found == [(n + 1, f"p{n}") for n in range(7)]
    (data / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="holds 1 of the 2 shards"):
        read_records(tmp_path / "set", split="train")
    (data / "train-00000-of-00002.parquet").unlink()
    assert len(list(read_records(tmp_path / "set"))) == 2, "a single split need not be named"


def test_a_pipe_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="is a pipe or a device"):
        read_records(tmp_path / "rows.jsonl")


def test_arrow_files_of_both_kinds(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    for name, writer in (("file.arrow", pa.ipc.new_file), ("stream.arrow", pa.ipc.new_stream)):
        with pa.OSFile(str(tmp_path / name), "wb") as sink, writer(sink, table.schema) as out:
            out.write_table(table)
        assert pairs(tmp_path / name) == EXPECTED


def test_conversations_in_parquet_and_csv_cells(tmp_path):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "[1, 2]"}]
    (tmp_path / "a.parquet").write_bytes(parquet([{"messages": turns, "tools": None}]))
    (tmp_path / "a.csv").write_bytes(csv_bytes([{"messages": json.dumps(turns)}]))
    (tmp_path / "pairs.csv").write_bytes(csv_bytes([{"prompt": "[1]", "chosen": json.dumps(turns[1:]), "rejected": "{}", "label": ""}]))
    assert next(read_records(tmp_path / "a.parquet")).messages == next(read_records(tmp_path / "a.csv")).messages
    pair = next(read_records(tmp_path / "pairs.csv"))
    assert (pair.prompt[0].content, pair.chosen[0].content, pair.rejected[0].content) == ("[1]", "[1, 2]", "{}")


def test_skipped_rows_are_written_aside_with_reason_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    good = {"prompt": "q", "completion": "a"}
    bad = [{"prompt": "q", "completion": ""}, {"prompt": "q"}, {"messages": []}]
    path.write_bytes(jsonl([good, bad[0], good, bad[1]]) + b"{broken}\n" + b"caf\xe9\n" + jsonl([bad[2], good]))
    reader = read_records(path, on_bad_row="skip")
    assert len(list(reader)) == 3
    report = reader.report
    assert (report.rows, report.skipped, report.shape, report.format) == (3, 5, "prompt_completion", "jsonl")
    rejects = [json.loads(line) for line in Path(report.rejects_path).read_text().splitlines()]
    assert report.rejects_path == str(path) + ".rejects.jsonl"
    assert [reject["position"] for reject in rejects] == [2, 4, 5, 6, 7]
    assert [rejects[0]["row"], rejects[1]["row"]] == bad[:2]
    assert "not valid JSON" in rejects[2]["reason"]
    assert rejects[2]["row"] == "{broken}\n"
    assert "not UTF-8" in rejects[3]["reason"]
    assert "is missing or null" in rejects[4]["reason"]


def test_a_clean_file_leaves_no_rejects(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(ROWS))
    reader = read_records(path, on_bad_row="skip")
    assert len(list(reader)) == len(ROWS)
    assert reader.report.rejects_path is None
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_file_without_a_good_row_raises_even_when_skipping(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl([{"prompt": "q", "completion": ""}] * 3))
    with pytest.raises(DataError, match=r"no row is good \(3 set aside in .*a.jsonl:1: field 'completion': is empty"):
        list(read_records(path, on_bad_row="skip"))


text = st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip)
json_object = st.dictionaries(text, st.none() | st.booleans() | st.integers() | text, max_size=3)
user = st.builds(Message, role=st.just("user"), content=text)
call = st.builds(ToolCall, name=text, arguments=json_object, id=st.none() | text)
answer = st.builds(Message, role=st.just("assistant"), content=text, reasoning=st.none() | text)
calling = st.builds(Message, role=st.just("assistant"), content=st.just(""), tool_calls=st.lists(call, min_size=1, max_size=2).map(tuple))
about = {"id": text, "source": text, "metadata": json_object}
records = st.one_of(
    st.builds(Demonstration, messages=st.tuples(user, answer | calling), **about),
    st.builds(
        PreferencePair,
        prompt=st.tuples(user),
        chosen=st.tuples(answer),
        rejected=st.tuples(calling),
        probability=st.floats(0, 1),
        margin=st.none() | st.floats(-2, 2),
        **about,
    ),
    st.builds(PromptOnly, prompt=st.tuples(user), **about),
    st.builds(UnpairedLabel, prompt=st.tuples(user), completion=st.tuples(answer), label=st.booleans(), **about),
    st.builds(
        StepLabels, prompt=st.tuples(user), steps=st.tuples(text, text), labels=st.tuples(st.none() | st.booleans(), st.booleans()), **about
    ),
)


@settings(deadline=None)
@given(record=records)
def test_what_is_written_is_read_back_equal(tmp_path_factory, record):
    path = tmp_path_factory.getbasetemp() / "round-trip.jsonl"
    assert write_jsonl([record], path) == 1
    assert list(read_records(path, type(record))) == [record]


def test_writing_is_atomic(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("before")

    def rows():
        yield record_to_row(Demonstration((Message("user", "q"), Message("assistant", "a"))))
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        write_jsonl(rows(), path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def called(name, arguments):
    return [
        {"role": "user", "content": "go", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}]},
    ]


def signature(name, key, **schema):
    parameters = {"type": "object", "properties": {key: {"type": "string", **schema}}, "required": [key]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize("write", ["parquet", "arrow", "datasets"])
def test_keys_that_a_struct_column_adds_to_calls_and_schemas_are_not_part_of_the_row(tmp_path, write):
    rows = [
        {"messages": called("f", {"x": 1, "deep": {"a": 1}, "list": [{"k": 1}, {"l": None}]}), "tools": [signature("f", "x", enum=["a"])]},
        {"messages": called("g", {"y": 2, "deep": {"b": 2}}), "tools": [signature("g", "y")]},
    ]
    table, path = pa.Table.from_pylist(rows), tmp_path / "data"
    if write == "parquet":
        pq.write_table(table, path)
    elif write == "arrow":
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        pytest.importorskip("datasets").Dataset(table).save_to_disk(path)
    first, second = read_records(path)
    assert first.messages[1].tool_calls == (ToolCall("f", {"x": 1, "deep": {"a": 1}, "list": [{"k": 1}, {}]}),)
    assert second.messages[1].tool_calls == (ToolCall("g", {"y": 2, "deep": {"b": 2}}),)
    assert (first.tools, second.tools) == ((signature("f", "x", enum=["a"]),), (signature("g", "y"),))


def test_nulls_in_json_text_are_meant(tmp_path):
    arguments = '{"x": null}'
    pq.write_table(pa.Table.from_pylist([{"messages": called("f", arguments)}]), tmp_path / "a.parquet")
    (record,) = read_records(tmp_path / "a.parquet")
    assert record.messages[1].tool_calls == (ToolCall("f", {"x": None}),)


ROW, ROW_2 = ({"prompt": str(n), "completion": str(n)} for n in (1, 2))
ONE, TWO = json.dumps(ROW), json.dumps(ROW_2)
BOM = "\ufeff"


@pytest.mark.parametrize(
    "text",
    [
        f"[{ONE}]\n[{TWO}]",
        f"[{ONE}]\n{TWO}",
        f"{ONE} [{TWO}]",
        f"{BOM}[{ONE}]{BOM}[{TWO}]",
        f'{{"version": 1, "data": [{ONE}, {TWO}], "end": [1]}}',
        f'{{"data": [{ONE}]}} {{"data": [{TWO}]}}',
        json.dumps({"about": "word " * 100_000, "more": [1] * 1000, "data": [ROW, ROW_2], "items": "none"}),
    ],
)
def test_everything_in_a_json_file_is_read(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert pairs(tmp_path / "a.json") == [("1", "1"), ("2", "2")]


def test_joined_files_with_byte_order_marks_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{BOM}{ONE}\n{BOM}{TWO}\n", encoding="utf-8")
    assert pairs(tmp_path / "a.jsonl") == [("1", "1"), ("2", "2")]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_without_a_suffix_is_read_by_its_header(tmp_path, separator):
    (tmp_path / "table").write_text(f"prompt{separator}completion\n1{separator}1\n2{separator}2\n")
    assert pairs(tmp_path / "table") == [("1", "1"), ("2", "2")]
