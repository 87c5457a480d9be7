import gzip
import json

import pytest
from typer.testing import CliRunner

from posttrain.cli.index import app
from posttrain.errors import CheckFailed, ConfigError, DataError
from posttrain.tools.retrieval import load_embed, open_index, read_documents


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return folder


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_folder_gives_its_text_files_in_order_with_their_names(tmp_path):
    rows = "".join(
        json.dumps(row) + "\n" for row in ({"id": "x", "text": "X"}, {"id": "y", "text": "Y", "tenant": "t", "metadata": {"k": 1}})
    )
    files = {
        "b.md": "\ufeffB\r\nb",
        "sub/a (1).txt": "A",
        "sub/rows.jsonl": rows,
        "z.jsonl.gz": '\n{"id": "z", "text": "Z"}\n',
        ".git/c.md": "C",
        "d.pdf": "D",
    }
    write(tmp_path, files)
    found = [(one.id, one.text, one.tenant, dict(one.metadata)) for one in read_documents(tmp_path)]
    assert found == [
        ("b.md", "B\r\nb", None, {}),
        ("sub/a-1-.txt", "A", None, {}),
        ("x", "X", None, {}),
        ("y", "Y", "t", {"k": 1}),
        ("z", "Z", None, {}),
    ]
    assert [(one.id, one.tenant) for one in read_documents(tmp_path, tenant_folders=True)] == [
        ("b.md", None),
        ("sub/a-1-.txt", "sub"),
        ("x", "sub"),
        ("y", "t"),
        ("z", None),
    ]
    assert {one.tenant for one in read_documents(tmp_path, tenant="u")} == {"u", "t"}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "a list, not an object"),
        ('{"id": "a"}', "'text' is null"),
        ('{"id": 5, "text": "a"}', "'id' is 5"),
        ('{"id": "a", "text": "b", "txt": 1}', r"unknown key 'txt'.*text"),
        ('{"id": "a", "text": "b", "metadata": []}', r"'metadata' is \[\]"),
        ("[" * 100_000, "not JSON"),
        ('{"id": "a", "text": "b", "tenant": ""}', "'tenant' is empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, says):
    write(tmp_path, {"docs.jsonl": '{"id": "ok", "text": "fine"}\n' + line})
    with pytest.raises(DataError, match=r"(?s)docs\.jsonl:2: " + says):
        list(read_documents(tmp_path / "docs.jsonl"))


def test_files_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"caf\xe9")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a", "text": "b"}\n')[:-9])
    packed = bytearray(gzip.compress(b'{"id": "a", "text": "b"}\n'))
    packed[10] = 0xFF  # no kind of block that exists
    (tmp_path / "damaged.jsonl.gz").write_bytes(packed)
    for name in ("bad.txt", "cut.jsonl.gz", "damaged.jsonl.gz", "none.txt"):
        with pytest.raises(DataError, match=name):
            list(read_documents(tmp_path / name))
    write(tmp_path, {"page.html": "x"})
    with pytest.raises(DataError, match="not a kind of document"):
        list(read_documents(tmp_path / "page.html"))


def test_the_commands_build_search_and_verify(tmp_path):
    docs = write(
        tmp_path / "docs", {"travel.md": "Travel above 1,000 EUR needs the CFO.", "bank_A/limits.txt": "The bank's limit is 9,000 EUR."}
    )
    index = tmp_path / "index"
    built = call("build", docs, "--out", index, "--tenant-folders", "--json")
    assert built.exit_code == 0, built.output
    summary = json.loads(built.stdout)
    assert (summary["num_documents"], summary["num_passages"], summary["tenants"]) == (2, 2, [[None, 1], ["bank_A", 1]])
    with open_index(index, summary["version"]):
        pass

    found = json.loads(call("search", index, "limit EUR", "--json", "-k", 5).stdout)
    assert [hit["passage"]["id"] for hit in found["hits"]] == ["travel.md:0-37"]
    found = json.loads(call("search", index, "limit", "--tenant", "bank_A", "--json").stdout)
    assert [hit["passage"]["id"] for hit in found["hits"]] == ["bank_A/limits.txt:0-30"]
    assert "[travel.md:0-37]" in call("search", index, "cfo").stdout

    verified = call("verify", index, "--documents", docs, "--tenant-folders", "--expected-version", summary["version"])
    assert (verified.exit_code, summary["version"] in verified.stdout) == (0, True)
    write(docs, {"travel.md": "Travel is free."})
    changed = call("verify", index, "--documents", docs, "--tenant-folders", "--json")
    assert changed.exit_code == 1
    assert json.loads(changed.stdout)["problems"] == ["document 'travel.md' has changed since the index was built"]
    other = call("verify", index, "--expected-version", "sha256:0", "--json")
    assert (other.exit_code, json.loads(other.stdout)["ok"]) == (1, False)
    assert isinstance(call("search", index, "x", "--expected-version", "sha256:0").exception, CheckFailed)


def test_a_callable_of_ones_own_module_embeds(tmp_path, monkeypatch):
    code = "import numpy\nsize = 3\ndef embed(texts):\n    return numpy.array([[t.count('a'), t.count('b'), 1.0] for t in texts])\n"
    write(tmp_path, {"my_vectors.py": code, "docs/a.txt": "aaaa", "docs/b.txt": "bbbb"})
    monkeypatch.chdir(tmp_path)
    assert call("build", "docs", "--out", "index", "--backend", "dense", "--embed", "my_vectors:embed").exit_code == 0
    found = json.loads(call("search", "index", "bb", "-k", 1, "--embed", "my_vectors:embed", "--json").stdout)
    assert found["hits"][0]["passage"]["document"] == "b.txt"
    assert load_embed(None) is None
    for wrong in ("my_vectors:none", "no_such_module:embed", "my_vectors", "my_vectors:size"):
        with pytest.raises(ConfigError, match=f"--embed {wrong}"):
            load_embed(wrong)
