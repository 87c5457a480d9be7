import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from posttrain.errors import CheckFailed, ConfigError, DataError, InfrastructureError
from posttrain.tools.retrieval import Document, build_index, open_index, verify_index
from posttrain.tools.retrieval import fts5 as fts5_module

pytest.importorskip("tantivy")
WORDS = ("rent", "tax", "invoice", "travel", "hotel", "bank")
DOCUMENTS = [
    Document("travel.md", "Travel above 1,000 EUR needs the CFO. Hotels cost at most 140 EUR.", metadata={"kind": "policy"}),
    Document("rent.md", "Rent is paid on the first day of a month."),
    Document("tax.md", "Invoices from abroad carry no tax."),
    Document("limits-a.md", "The travel limit of this bank is 9,000 EUR.", tenant="bank_A"),
    Document("limits-b.md", "The travel limit of this shop is 700 EUR.", tenant="retail_B"),
    Document("notes-a.md", "Rent of the bank's hotel.", tenant="bank_A"),
]


def embed(texts):
    """Counts of six words, a little of a seventh direction: a real, if small, vector space."""
    return np.array([[text.lower().count(word) for word in WORDS] + [0.1] for text in texts], dtype=np.float32)


BACKENDS = [("fts5", None), ("tantivy", None), ("dense", embed), ("hybrid", embed)]


def build(path):
    """The version of an index of DOCUMENTS at ``path``."""
    with build_index(DOCUMENTS, path) as index:
        return index.version


@contextlib.contextmanager
def disk_of(pages):
    """SQLite refuses to let a file grow beyond so many pages, as on a full disk."""
    connect = sqlite3.connect

    def limited(*arguments, **options):
        connection = connect(*arguments, **options)
        connection.execute(f"PRAGMA max_page_count={pages}")
        return connection

    sqlite3.connect = limited
    try:
        yield
    finally:
        sqlite3.connect = connect


def names(hits):
    return [hit.passage.document for hit in hits]


@pytest.mark.parametrize(("backend", "callable_"), BACKENDS)
@pytest.mark.parametrize("kept", ["memory", "disk"])
def test_each_backend_finds_the_passage_and_gives_it_back_whole(backend, callable_, kept, tmp_path):
    path = tmp_path / "index" if kept == "disk" else None
    with build_index(DOCUMENTS, path, backend, callable_) as index:
        hits = index.search("hotels for travel", 3)
        assert hits[0].passage.document == "travel.md"
        assert hits[0].passage.text == DOCUMENTS[0].text
        assert (hits[0].passage.start, hits[0].passage.end, hits[0].passage.metadata) == (0, len(DOCUMENTS[0].text), {"kind": "policy"})
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert index.verify(DOCUMENTS) == []


@pytest.mark.parametrize(("backend", "callable_"), BACKENDS)
def test_a_search_sees_what_is_for_all_and_its_own_tenants_passages_only(backend, callable_):
    with build_index(DOCUMENTS, None, backend, callable_) as index:
        for tenant in (None, "", "bank_A", "retail_B", "saas_C", "bank_A' OR 1"):
            allowed = {one.id for one in DOCUMENTS if one.tenant is None or one.tenant == tenant}
            found = index.search("travel limit rent tax invoice hotel bank shop", 50, tenant=tenant)
            assert {hit.passage.document for hit in found} <= allowed
            assert {hit.passage.tenant for hit in found} <= {None, tenant}
        assert "limits-a.md" in names(index.search("travel limit", 50, tenant="bank_A"))


def test_dense_is_the_cosine_and_hybrid_the_sum_of_reciprocal_ranks():
    with (
        build_index(DOCUMENTS, None, "dense", embed) as dense,
        build_index(DOCUMENTS, None) as words,
        build_index(DOCUMENTS, None, "hybrid", embed) as hybrid,
    ):
        query, texts = "travel tax", [one.text for one in DOCUMENTS[:3]]
        rows, asked = embed(texts), embed([query])[0]
        cosines = rows @ asked / np.linalg.norm(rows, axis=1) / np.linalg.norm(asked)
        assert {hit.passage.text: pytest.approx(hit.score, abs=1e-6) for hit in dense.search(query, 9)} == dict(
            zip(texts, cosines.tolist(), strict=True)
        )
        ranks = [{name: place for place, name in enumerate(names(one.search(query, 9)), start=1)} for one in (dense, words)]
        expected = {name: sum(1 / (60 + rank[name]) for rank in ranks if name in rank) for name in ranks[0] | ranks[1]}
        assert {hit.passage.document: hit.score for hit in hybrid.search(query, 9)} == pytest.approx(expected)


HOSTILE = [
    "",
    " \n",
    '"',
    '""" AND',
    "travel AND (NOT hotel",
    "NEAR(travel hotel, 2",
    "text:travel",
    "-travel +hotel ^x*",
    "travel\x00hotel",
    "'; DROP TABLE passages; --",
    "\ud800 travel",
    "[7 TO 8] IN {zz}",
    "_ __ ²",
    "\\",
    "世界 旅行",
    "travel " * 15_000,
    "x" * 100_000,
    " ".join(f"w{number}" for number in range(20_000)),
]


@pytest.mark.parametrize("backend", ["fts5", "tantivy"])
def test_any_text_is_a_query_never_syntax_never_an_error(backend):
    with build_index(DOCUMENTS, None, backend) as index:
        for query in HOSTILE:
            begin = time.perf_counter()
            found = names(index.search(query, 3))
            assert time.perf_counter() - begin < 5
            assert ("travel.md" in found) == ("travel" in query), query[:40]
        assert index.verify() == []

        @settings(max_examples=150, deadline=None)
        @given(st.text(max_size=60))
        @example("text MATCH 'x'")
        def never_fails(query):
            index.search(query, 2)

        never_fails()


def test_common_words_are_left_out_when_rarer_ones_suffice(monkeypatch):
    documents = [Document(f"d{number}", f"common words here, item{number % 50} and part{number}") for number in range(400)]
    monkeypatch.setattr(fts5_module, "MAX_SCORED", 20)
    with build_index(documents, None) as index:
        assert names(index.search("common part17", 5))[0] == "d17"
        assert len(index.search("common words", 5)) == 5  # nothing rarer: they are searched after all
        assert len(index.search("common item7", 50)) == 8  # those with item7: 7, 57, ... 357
        assert index.search("part9999 nowhere", 5) == []


@pytest.mark.parametrize("k", [0, -3, 1001, 2**70])
@pytest.mark.parametrize("backend", ["fts5", "tantivy"])
def test_a_search_for_nothing_or_without_bound_is_refused(backend, k):
    with build_index(DOCUMENTS, None, backend) as index, pytest.raises(ConfigError, match="1 or more, at most 1,000"):
        index.search("rent", k)


def test_searches_from_many_threads_agree(tmp_path):
    with build_index(DOCUMENTS, tmp_path / "index") as index:
        right, seen = names(index.search("travel hotel", 3)), []
        threads = [
            threading.Thread(target=lambda: seen.extend(names(index.search("travel hotel", 3)) for _ in range(30))) for _ in range(6)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert seen == [right] * 180


# ---- version, damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("backend", "callable_"), BACKENDS)
def test_the_version_is_of_contents_settings_and_library(backend, callable_, tmp_path, monkeypatch):
    def version(documents, **options):
        with build_index(documents, None, backend, callable_, **options) as index:
            return index.version

    base = version(DOCUMENTS)
    with build_index(iter(DOCUMENTS), tmp_path / "index", backend, callable_) as index:
        assert index.version == base
    others = [
        version(DOCUMENTS[:-1]),
        version([*DOCUMENTS[1:], DOCUMENTS[0]]),
        version([*DOCUMENTS[:-1], Document("notes-a.md", "Rent of the bank's hotel!", tenant="bank_A")]),
        version([*DOCUMENTS[:-1], Document("notes-a.md", DOCUMENTS[-1].text, tenant="retail_B")]),
        version([Document("travel.md", DOCUMENTS[0].text), *DOCUMENTS[1:]]),
        version(DOCUMENTS, max_chars=400),
    ]
    from posttrain.tools.retrieval.backends import backend_class

    monkeypatch.setattr(backend_class(backend, callable_), "version", "0.0")
    assert len({base, *others, version(DOCUMENTS)}) == len(others) + 2


def test_an_index_of_another_version_is_refused(tmp_path):
    version = build(tmp_path / "index")
    with open_index(tmp_path / "index", version) as index:
        assert index.version == version
    with pytest.raises(CheckFailed, match="expected sha256:123"):
        open_index(tmp_path / "index", "sha256:123")


def test_changed_new_and_missing_sources_are_named(tmp_path):
    with build_index(DOCUMENTS, tmp_path / "index") as index:
        now = [Document("travel.md", "Travel is free."), *DOCUMENTS[2:], Document("new.md", "News.")]
        assert index.verify(now) == [
            "document 'travel.md' has changed since the index was built",
            "document 'new.md' is not in the index",
            "document 'rent.md' of the index is not among the sources",
        ]


def edit(path, statement):
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_passage_edited_in_place_is_seen_when_the_index_is_opened(tmp_path):
    build_index(DOCUMENTS, tmp_path / "index").close()
    size = (tmp_path / "index" / "passages.db").stat().st_size
    edit(tmp_path / "index" / "passages.db", "UPDATE passages SET text = replace(text, '1,000', '9,000')")
    assert (tmp_path / "index" / "passages.db").stat().st_size == size
    with pytest.raises(DataError, match=r"passages\.db: changed or damaged"):
        open_index(tmp_path / "index")
    assert len(verify_index(tmp_path / "index")[1]) == 2  # the file, and what its passages hash to


def test_a_byte_flipped_beyond_the_header_is_seen_by_verify(tmp_path):
    build_index([Document("d", "plain words " * 400)], tmp_path / "index").close()
    file = tmp_path / "index" / "passages.db"
    content = bytearray(file.read_bytes())
    place = content.rindex(b"plain words")
    content[place] ^= 1
    file.write_bytes(bytes(content))
    with open_index(tmp_path / "index") as index:
        assert any("has changed" in problem for problem in index.verify())


@pytest.mark.parametrize(("backend", "callable_"), BACKENDS)
def test_every_damage_is_one_error_that_names_the_file(backend, callable_, tmp_path):
    folder = tmp_path / "index"
    build_index(DOCUMENTS, folder, backend, callable_).close()
    files = [file for file in folder.rglob("*") if file.is_file() and not file.name.endswith(".lock")]
    assert {"manifest.json", "passages.db"} <= {file.name for file in files}
    for file in files:
        original = file.read_bytes()
        for damaged in (None, b"", b"\x00" * len(original), original[: len(original) // 2], original + b"x"):
            if damaged is None:
                file.unlink()
            else:
                file.write_bytes(damaged)
            with pytest.raises(DataError, match=str(folder)):
                open_index(folder, embed=callable_)
            file.write_bytes(original)
    open_index(folder, embed=callable_).close()


def test_no_damage_beyond_the_header_makes_the_library_panic(tmp_path):
    documents = [Document(f"d{number}", f"budget word{number % 7} travel {number} hotel") for number in range(300)]
    build_index(documents, tmp_path / "index", "tantivy").close()
    refused = 0
    for file in [*tmp_path.rglob("*.idx"), *tmp_path.rglob("*.term")]:
        original = file.read_bytes()
        for at in range(100, len(original), len(original) // 12):
            replace(file, original[:at] + bytes([original[at] ^ 0xFF]) + original[at + 1 :])
            try:
                with open_index(tmp_path / "index") as index:
                    index.search("travel word3 12", 5)
            except DataError:
                refused += 1
        replace(file, original)
    assert refused > 0


def replace(file, content):
    """Another file in its place: the old one may still be mapped."""
    other = file.with_name("other.tmp")
    other.write_bytes(content)
    other.replace(file)


def test_what_is_no_index_is_said_to_be_none(tmp_path):
    (tmp_path / "foreign").mkdir()
    for content in ("[1]", '{"format": "other"}', '{"format": "posttrain index 1", "files": {}}', "[" * 100_000, "\udcff"):
        (tmp_path / "foreign" / "manifest.json").write_text(content, errors="surrogateescape")
        with pytest.raises(DataError, match=r"manifest\.json"):
            open_index(tmp_path / "foreign")
    with pytest.raises(DataError, match="no index"):
        open_index(tmp_path)
    with pytest.raises(ConfigError, match="exists and is no index"):
        build_index(DOCUMENTS, tmp_path)


def test_a_manifest_edited_to_another_version_is_refused(tmp_path):
    version = build(tmp_path / "index")
    file = tmp_path / "index" / "manifest.json"
    manifest = json.loads(file.read_text())
    for change in ({"num_documents": 7}, {"files": {"passages.db": None}}, {"files": {"passages.db": {}}}):
        file.write_text(json.dumps(manifest | change))
        with pytest.raises(DataError, match="changed by hand"):
            open_index(tmp_path / "index", version)
        with pytest.raises(DataError, match="changed by hand"):
            verify_index(tmp_path / "index")


# ---- building --------------------------------------------------------------------------------------------------------------


def test_a_build_that_fails_leaves_the_old_index_and_nothing_else(tmp_path):
    version = build(tmp_path / "index")

    def broken():
        yield Document("x", "new text")
        raise RuntimeError("source went away")

    with pytest.raises(RuntimeError):
        build_index(broken(), tmp_path / "index")
    with open_index(tmp_path / "index") as index:
        assert index.version == version
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


KILLED = """
import sys, time
from posttrain.tools.retrieval import Document, build_index
def documents():
    for number in range(10**9):
        yield Document(f"d{number}", "words " * 50)
        if number == 3000:
            print("going", flush=True)
build_index(documents(), sys.argv[1])
"""


def test_a_killed_build_leaves_the_old_index_and_the_next_one_cleans_up(tmp_path):
    version = build(tmp_path / "index")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "index")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"going\n"
    running = [file.name for file in tmp_path.iterdir() if file.name != "index"]
    build_index(DOCUMENTS, tmp_path / "index").close()  # another build at the same time leaves the running one alone
    assert [file.name for file in tmp_path.iterdir() if file.name != "index"] == running
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with open_index(tmp_path / "index", version) as index:
        assert index.verify() == []
    build_index(DOCUMENTS, tmp_path / "index").close()
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


def test_documents_are_streamed_and_progress_is_told(tmp_path):
    alive, most = 0, 0

    class Counted(str):
        def __new__(cls, text):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return super().__new__(cls, text)

        def __del__(self):
            nonlocal alive
            alive -= 1

    told = []
    documents = (Document(f"d{number}", Counted(f"text {number}")) for number in range(2500))
    build_index(documents, tmp_path / "index", on_progress=lambda phase, done: told.append((phase, done))).close()
    assert most <= 3
    assert told == [("read", 1000), ("read", 2000), ("read", 2500), ("indexed", 2000), ("indexed", 2500)]


def test_a_full_disk_is_said_to_be_full(tmp_path):
    documents = (Document(f"d{number}", "words " * 100) for number in range(10_000))
    with pytest.raises(InfrastructureError, match="no space left"), disk_of(30):
        build_index(documents, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_backends_that_cannot_be_had_are_explained(monkeypatch):
    with pytest.raises(ConfigError, match=r"(?s)unknown backend 'fts4'.*fts5"):
        build_index(DOCUMENTS, None, "fts4")
    with pytest.raises(ConfigError, match="needs an embedding callable"):
        build_index(DOCUMENTS, None, "dense")
    monkeypatch.setitem(sys.modules, "tantivy", None)
    monkeypatch.delitem(sys.modules, "posttrain.tools.retrieval.tantivy_index", raising=False)
    with pytest.raises(ConfigError, match=r"(?s)needs the tantivy library.*posttrain\[retrieval\]"):
        build_index(DOCUMENTS, None, "tantivy")


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda texts: np.zeros((len(texts), 3)), "zero or not finite"),
        (lambda texts: np.full((len(texts), 3), np.nan), "zero or not finite"),
        (lambda texts: np.ones(len(texts)), "must give"),
        (lambda texts: np.ones((len(texts) + 1, 3)), "must give"),
        (lambda texts: "vectors", "no table of numbers"),
        (lambda texts: [[1.0, 2.0]] * (len(texts) - 1) + [[1.0]], "no table of numbers"),
    ],
)
def test_an_embedding_callable_that_gives_no_vectors_is_refused(broken, says):
    with pytest.raises(ConfigError, match=says):
        build_index(DOCUMENTS, None, "dense", broken)


def test_another_embedding_callable_than_the_one_it_was_built_with_is_refused(tmp_path):
    build_index(DOCUMENTS, tmp_path / "index", "dense", embed).close()
    with pytest.raises(ConfigError, match="another embedding callable"):
        open_index(tmp_path / "index", embed=lambda texts: embed(texts)[:, ::-1])
    with pytest.raises(ConfigError, match="needs an embedding callable"):
        open_index(tmp_path / "index")


@pytest.mark.parametrize("backend", ["dense", "hybrid"])
def test_another_embedding_is_another_version(backend):
    def backwards(texts):
        return embed(texts)[:, ::-1]

    versions = []
    for callable_ in (embed, embed, backwards):
        with build_index(DOCUMENTS, None, backend, callable_) as index:
            versions.append(index.version)
    assert versions[0] == versions[1] != versions[2]
