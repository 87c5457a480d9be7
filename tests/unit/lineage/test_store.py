import multiprocessing
import sqlite3

import pytest

from posttrain.errors import CheckFailed, ConfigError, DataError, InfrastructureError
from posttrain.lineage import LineageStore

DATA = {"name": "books", "licence": "CC-BY-4.0", "consent": "public", "provenance": "made by hand"}


@pytest.fixture
def store(tmp_path):
    return LineageStore(tmp_path / "runs" / "lineage.db")


def test_same_artefact_gets_the_same_id_whatever_the_key_order(store):
    first = store.put("config", {"a": 1, "b": [1.5, "x"]})
    second = store.put("config", {"b": [1.5, "x"], "a": 1})
    assert first == second
    assert first.startswith("config:")
    assert len(first) == len("config:") + 16
    assert len(store.newest()) == 1


def test_id_depends_on_content_parents_and_file_bytes_but_not_on_the_place(store, tmp_path):
    seed = store.put("seed", {"seed": 1})
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder, text in (("a", "weights"), ("b", "weights")):
        (tmp_path / folder / "w.bin").write_text(text)
    plain = store.put("model", {"name": "m"})
    with_parent = store.put("model", {"name": "m"}, parents=[seed])
    with_file = store.put("model", {"name": "m"}, files=[tmp_path / "a" / "w.bin"])
    elsewhere = store.put("model", {"name": "m"}, files=[tmp_path / "b" / "w.bin"])
    (tmp_path / "b" / "w.bin").write_text("other")
    other_bytes = store.put("model", {"name": "m"}, files=[tmp_path / "b" / "w.bin"])
    assert len({plain, with_parent, with_file, other_bytes}) == 4
    assert elsewhere == with_file


def test_ancestors_and_descendants_come_nearest_first(store):
    data = store.put("data", DATA)
    config = store.put("config", {"lr": 1e-4}, parents=[data])
    model = store.put("model", {"name": "m"}, parents=[config, data])
    verdict = store.put("verdict", {"verdict": "ship"}, parents=[model])
    assert [node.id for node in store.ancestors(verdict)] == [model, *sorted([config, data])]
    assert [node.id for node in store.descendants(data)] == [*sorted([config, model]), verdict]
    assert store.ancestors(data) == []
    assert store.get(model).parents == tuple(sorted([config, data]))


def test_get_accepts_a_beginning_the_hash_alone_and_latest(store):
    first = store.put("model", {"name": "one"})
    second = store.put("adapter", {"name": "two"})
    assert store.get(first[:-8]).id == first
    assert store.get(first.partition(":")[2][:6]).id == first
    assert store.get("latest").id == second
    assert store.get("latest:model").id == first
    with pytest.raises(ConfigError, match="no node 'model:ffffffff'"):
        store.get("model:ffffffff")
    store.put("model", {"name": "three"})
    with pytest.raises(ConfigError, match="beginning of several"):
        store.get("model:")


def test_verify_names_a_missing_and_a_changed_file(store, tmp_path):
    weights = tmp_path / "adapter"
    weights.mkdir()
    (weights / "a.bin").write_bytes(b"one")
    (weights / "b.bin").write_bytes(b"two")
    node = store.put("adapter", {"name": "a"}, files=[weights])
    other = store.put("adapter", {"name": "untouched"})
    assert store.verify() == []
    (weights / "a.bin").write_bytes(b"One")
    (weights / "b.bin").unlink()
    assert [(p.what, p.path.rpartition("/")[2]) for p in store.verify()] == [("changed", "a.bin"), ("missing", "b.bin")]
    assert "a.bin: changed" in str(store.verify(node)[0])
    assert store.verify(other) == []


def test_verify_of_a_node_covers_its_sources(store, tmp_path):
    (tmp_path / "d.jsonl").write_text("{}\n")
    data = store.put("data", DATA, files=[tmp_path / "d.jsonl"])
    model = store.put("model", {"name": "m"}, parents=[data])
    (tmp_path / "d.jsonl").write_text("{ }\n")
    assert [problem.node for problem in store.verify(model)] == [data]


def test_verify_finds_a_record_that_was_edited_in_the_database(store):
    node = store.put("verdict", {"verdict": "block"})
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE nodes SET content = ? WHERE id = ?", ('{"verdict":"ship"}', node))
    connection.commit()
    connection.close()
    assert [(problem.what, problem.node) for problem in store.verify()] == [("tampered", node)]


def test_files_inside_the_store_folder_move_with_it(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "w.bin").write_bytes(b"w")
    LineageStore(tmp_path / "runs" / "lineage.db").put("model", {"name": "m"}, files=[tmp_path / "runs" / "w.bin"])
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert LineageStore(tmp_path / "moved" / "lineage.db").verify() == []


def test_text_changed_under_the_same_version_is_refused_with_the_first_different_line(store):
    text = "Answer from the report.\nNever guess.\nBe short."
    first = store.put("policy", {"name": "finops", "version": "1.0.0", "text": text})
    assert store.put("policy", {"name": "finops", "version": "1.0.0", "text": text}) == first
    changed = text.replace("Never guess.", "Guess when you must.")
    with pytest.raises(CheckFailed, match=r"(?s)version 1.0.0.*line is 2.*Never guess.*Guess when you must") as refusal:
        store.put("policy", {"name": "finops", "version": "1.0.0", "text": changed})
    assert refusal.value.exit_code == 1
    assert len(store.newest()) == 1
    assert store.put("policy", {"name": "finops", "version": "1.1.0", "text": changed}) != first
    assert store.put("policy", {"name": "other", "version": "1.0.0", "text": changed}) != first


def test_a_line_added_at_the_end_is_a_changed_text_too(store):
    store.put("policy", {"name": "p", "version": "1", "text": "a"})
    with pytest.raises(CheckFailed, match=r"(?s)line is 2.*no such line.*'b'"):
        store.put("policy", {"name": "p", "version": "1", "text": "a\nb"})


@pytest.mark.parametrize("missing", ["licence", "consent"])
def test_data_without_licence_or_consent_is_refused(store, missing):
    with pytest.raises(CheckFailed, match=f"data books: {missing} not given"):
        store.put("data", {**DATA, missing: " "})


def test_data_must_say_where_it_came_from(store):
    with pytest.raises(CheckFailed, match="source or provenance not given"):
        store.put("data", {**DATA, "provenance": ""})
    store.put("data", {**DATA, "provenance": "", "source": "library"})


def test_a_waiver_must_say_what_who_and_why(store):
    with pytest.raises(CheckFailed, match="by, reason not given"):
        store.put("waiver", {"what": "contamination of suite finops"})


def test_wrong_kind_parent_file_and_content_are_named(store, tmp_path):
    with pytest.raises(ConfigError, match="unknown lineage kind 'modle'") as error:
        store.put("modle", {})
    assert "did you mean 'model'" in str(error.value)
    with pytest.raises(ConfigError, match="no node 'data:0'"):
        store.put("model", {}, parents=["data:0"])
    with pytest.raises(DataError, match=r"absent\.bin: no such file"):
        store.put("model", {}, files=[tmp_path / "absent.bin"])
    with pytest.raises(DataError, match="not JSON"):
        store.put("evaluation", {"accuracy": float("nan")})
    assert store.newest() == []


def test_a_store_that_is_no_database_or_not_there_or_newer_says_so(tmp_path):
    with pytest.raises(ConfigError, match="no lineage store here"):
        LineageStore(tmp_path / "none.db").get("latest")
    (tmp_path / "text.db").write_text("not a database, " * 100)
    with pytest.raises(InfrastructureError, match="cannot be used"):
        LineageStore(tmp_path / "text.db").put("seed", {"seed": 1})
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(ConfigError, match="newer posttrain"):
        LineageStore(tmp_path / "newer.db").put("seed", {"seed": 1})


def _write_many(path, worker):
    for number in range(25):
        shared = LineageStore(path).put("seed", {"seed": number})
        LineageStore(path).put("config", {"worker": worker, "number": number}, parents=[shared])


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    path = tmp_path / "lineage.db"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_many, args=(path, worker)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    nodes = LineageStore(path).newest(1000)
    assert sum(node.kind == "seed" for node in nodes) == 25
    assert sum(node.kind == "config" for node in nodes) == 100
    assert len(LineageStore(path).descendants(next(node.id for node in nodes if node.kind == "seed"))) == 4
    assert LineageStore(path).verify() == []
