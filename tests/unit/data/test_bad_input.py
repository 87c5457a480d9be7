import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data import read_records
from posttrain.errors import ConfigError, DataError

GOOD = b'{"prompt": "q", "completion": "a"}\n'
ARRAY = json.dumps([{"prompt": "q", "completion": "a"}] * 3).encode()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.jsonl", b"\n  \n", "the file is empty"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "is a Git LFS pointer.*\n.*git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "is a Git LFS pointer"),
        ("a.json", b"<!DOCTYPE html><html><body>404</body></html>", "is a web page, not data"),
        ("a.jsonl", GOOD.decode().encode("utf-16"), "UTF-16.*\n.*iconv -f UTF-16"),
        ("a.csv", "prompt,completion\nq,a\n".encode("utf-16-le"), "UTF-16"),
        (
            "a.jsonl",
            GOOD + '{"prompt": "café", "completion": "a"}\n'.encode("latin-1"),
            r"a.jsonl:2: byte 0xe9 at column 16 is not UTF-8.*café.*\n.*iconv",
        ),
        ("a.csv", "prompt,completion\nq,a\ncafé,a\n".encode("latin-1"), "a.csv:3: byte 0xe9 .*café"),
        ("a.json", '[{"prompt": "café", "completion": "a"}]'.encode("latin-1"), "byte 0xe9 .*café"),
        ("a.jsonl", GOOD + GOOD[:20], "a.jsonl:2: the file ends in the middle of this line.*\n.*cut"),
        ("a.jsonl", GOOD[:20] + b"\n" + GOOD, "a.jsonl:1: not valid JSON"),
        ("a.jsonl", b'{"prompt": NaN}\n' + GOOD, "a.jsonl:1: not valid JSON: NaN is not JSON"),
        ("a.jsonl", GOOD + b"[1]\n", "a.jsonl:2: a row must be an object, found list"),
        ("a.jsonl.gz", gzip.compress(GOOD * 5000, mtime=0)[:-20], "the gzip stream ends early"),
        (
            "a.jsonl.gz",
            gzip.compress(GOOD * 50, mtime=0)[:40] + b"broken" + gzip.compress(GOOD * 50, mtime=0)[46:],
            "gzip stream is damaged|gzip stream ends early",
        ),
        ("a.json", ARRAY[:-15], "the file ends in the middle of row 3"),
        ("a.json", ARRAY[:-1], "the file ends after row 3"),
        ("a.json", ARRAY[:-1] + b",]", r"a comma follows the last row \(3\)"),
        ("a.json", ARRAY.replace(b'"q"', b"q", 1), "row 1 is not valid JSON"),
        ("a.json", b"[]", "the array is empty"),
        ("a.json", b'{"data": []}', "the array under 'data' is empty"),
        ("a.json", ARRAY + b"garbage", "row 4 is not valid JSON.*garbage"),
        ("a.json", b'{"train": ' + ARRAY + b', "n": 1, "test": ' + ARRAY + b"}", "rows under 'train' and under 'test'"),
        ("a.json", b'{"train": [], "test": ' + ARRAY + b"}", "rows under 'train' and under 'test'"),
        ("a.json", b'{"data": ' + ARRAY, "the file ends after row 3"),
        ("a.json", b"[1, 2]", "row 1: a row must be an object, found int"),
        ("a.csv", b"prompt,completion\nq,a\nq\n", "a.csv:3: 1 cells under 2 columns"),
        ("a.csv", b'prompt,completion\nq,a\n"q,a\nq,a\n', "a.csv: line 3: .*\n.*quote is opened"),
        ("a.csv", b"prompt,completion\nq,a\n\xef\xbb\xbfprompt,completion\nq,a\n", "a.csv:3: repeats the header line"),
        ("notes", b"Dear all, I write\nto you, friends, today\n", "not a format that can be read"),
        ("a.csv", b"prompt,prompt\nq,a\n", "empty or repeated names"),
        ("a.csv", b"prompt,completion\n", "holds no rows"),
        ("a.csv", b"prompt,completion\nq,\n", "a.csv:2: the columns"),
        ("a.parquet", b"PAR1 not really", "damaged Parquet file"),
        ("a.arrow", b"ARROW1 not really", "damaged Arrow file"),
        ("a.xlsx", b"PK\x03\x04....", "zip archive or a spreadsheet"),
        ("a.jsonl.zst", b"\x28\xb5\x2f\xfd....", "compressed with zstd"),
        ("a.bin", b"\x01\x02\x03\x04 hello", "not a format that can be read"),
        ("a.jsonl", GOOD + b'{"messages": [{"role": "user", "content": "q"}]}\n', "a.jsonl:2: .*'prompt_completion'.*line 1"),
        ("a.jsonl", GOOD + b'{"prompt": "q", "completion": "a", "label": true}\n', "a.jsonl:2: this row is 'unpaired' but the file began"),
    ],
)
def test_bad_files_are_told_apart_and_explained(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_records(path))
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert caught.value.exit_code == 2


def test_a_missing_file_is_named_with_its_nearest_neighbour(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"trian.jsonl: no such file\n.*did you mean 'train.jsonl'"):
        read_records(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="does not exist"):
        read_records(tmp_path / "nowhere" / "train.jsonl")


def test_a_cut_parquet_file_is_called_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": "q", "completion": "a"}] * 100), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged Parquet file"):
        list(read_records(path))


def test_damage_to_the_file_raises_even_when_rows_are_skipped(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD * 5000, mtime=0)[:-20])
    with pytest.raises(DataError, match="the gzip stream ends early"):
        list(read_records(path, on_bad_row="skip"))


def test_foreign_and_incomplete_folders(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"did not write \(it holds notes.txt\)"):
        read_records(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    with pytest.raises(DataError, match=r"data-0.arrow is missing"):
        list(read_records(tmp_path))
    with pytest.raises(DataError, match=r"has no split 'test'|without splits"):
        read_records(tmp_path, split="test")


def test_a_wrong_option_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="on_bad_row"):
        read_records(tmp_path / "a.jsonl", on_bad_row="ignore")
