"""What `lineage verify` sees of a store that was tampered with, and what it takes for an ordinary rerun."""

import contextlib
import sqlite3

import pytest
from typer.testing import CliRunner

from posttrain.cli.lineage import app
from posttrain.errors import DataError
from posttrain.lineage import LineageStore
from posttrain.lineage.database import MIGRATIONS

DATA = {"name": "books", "licence": "CC-BY-4.0", "consent": "public", "provenance": "made by hand"}


@pytest.fixture
def store(tmp_path):
    return LineageStore(tmp_path / "runs" / "lineage.db")


@pytest.fixture
def chain(store):
    """Data, a model made of it with its weights, the verdict on it: their ids."""
    weights = store.path.parent / "tiny/05-sft/model/weights.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"first")
    data = store.put("data", DATA)
    model = store.put("model", {"name": "m"}, parents=[data], files=[weights])
    return data, model, store.put("verdict", {"verdict": "block"}, parents=[model])


def tamper(store, *statements):
    """Statements in the file itself, by somebody who does not care for foreign keys."""
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        for statement, *values in statements:
            connection.execute(statement, values)
        connection.commit()


def found(store, node=None, **options):
    return [(problem.what, problem.node) for problem in store.verification(node, **options).problems]


def verify(store, *arguments):
    return CliRunner().invoke(app, ["verify", *arguments, "--store", str(store.path)])


def test_a_removed_record_shows_and_what_refers_to_it_is_one_message(store, chain):
    _, model, verdict = chain
    tamper(store, ("DELETE FROM nodes WHERE id = ?", model), ("DELETE FROM files WHERE node = ?", model))
    assert found(store) == found(store, "latest:verdict") == [("absent", model)]
    assert verify(store).exit_code == 1
    with pytest.raises(DataError, match=f"{model} is referred to, but its record is gone"):
        store.ancestors(verdict)


def test_a_record_removed_with_all_its_edges_shows_by_the_log(store, chain):
    verdict = chain[-1]
    tamper(store, ("DELETE FROM edges WHERE child = ?", verdict), ("DELETE FROM nodes WHERE id = ?", verdict))
    assert found(store) == [("absent", verdict)]
    tamper(store, ("DELETE FROM log WHERE subject = ?", verdict))
    assert found(store) == [], "the tail of the log went with it: only its head tells"


def test_a_cut_tail_shows_when_the_head_was_kept(store, chain):
    head = store.verification().head
    assert found(store, head=head) == []
    store.put("seed", {"seed": 1})
    assert found(store, head=head[:16]) == []
    tamper(
        store,
        ("DELETE FROM edges WHERE child = ?", chain[-1]),
        ("DELETE FROM nodes WHERE id = ?", chain[-1]),
        ("DELETE FROM nodes WHERE kind = ?", "seed"),
        ("DELETE FROM log WHERE number > ?", 2),
    )
    assert found(store) == []
    done = verify(store, "--head", head)
    assert done.exit_code == 1
    assert f"no entry of the log has the hash {head[:16]}" in done.stdout


@pytest.mark.parametrize("text", ["{not json", "[1]"])
def test_damaged_content_is_one_line_and_no_traceback(store, chain, text):
    model = chain[1]
    tamper(store, ("UPDATE nodes SET content = ? WHERE id = ?", text, model))
    assert found(store) == [("damaged", model)]
    assert verify(store).stdout.splitlines()[0].startswith(f"{model}: the stored content is damaged")
    with pytest.raises(DataError, match="the stored content is damaged"):
        store.get(model)


def test_a_changed_time_shows(store, chain):
    tamper(store, ("UPDATE nodes SET created = ? WHERE id = ?", "2020-01-01T00:00:00.000000+00:00", chain[1]))
    assert found(store) == [("time", chain[1])]


def test_a_recorded_place_that_was_changed_shows(store, chain):
    copy = store.path.parent / "copy.bin"
    copy.write_bytes(b"first")
    tamper(store, ("UPDATE files SET path = ? WHERE node = ?", "copy.bin", chain[1]))
    assert set(found(store)) == {("misplaced", chain[1])}
    assert verify(store).exit_code == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM log WHERE number = 2", "before entry 3 of the log one was removed, added or moved"),
        ("UPDATE log SET time = '2020' WHERE number = 2", "entry 2 of the log was changed"),
        ("UPDATE log SET files = 'no json' WHERE number = 2", "entry 2 of the log was changed"),
    ],
)
def test_a_changed_log_shows(store, chain, statement, said):
    tamper(store, (statement,))
    done = verify(store)
    assert done.exit_code == 1
    assert said in done.stdout.splitlines()


def test_a_record_put_past_the_log_shows(store, chain):
    tamper(store, ("INSERT INTO nodes SELECT 'seed:0123456789abcdef', kind, content, created FROM nodes WHERE id = ?", chain[0]))
    assert ("unlogged", "seed:0123456789abcdef") in found(store)


def test_a_file_replaced_by_a_later_record_is_superseded_and_a_real_change_still_fails(store, chain):
    weights = store.path.parent / "tiny/05-sft/model/weights.bin"
    weights.write_bytes(b"second")
    assert found(store) == [("changed", chain[1])]
    second = store.put("model", {"name": "m2"}, files=[weights])
    assert store.verification().superseded == (chain[1],)
    done = verify(store)
    assert done.exit_code == 0
    assert "superseded: 1 records" in done.stdout
    for bytes_now in (b"third", b"first"):
        weights.write_bytes(bytes_now)
        assert found(store) == [("changed", second)], "an older model put back is a change too"


def test_a_discarded_folder_is_not_missed_until_it_is_recorded_again(store, chain):
    folder = store.path.parent / "tiny/05-sft"
    weights = folder / "model/weights.bin"
    store.discard(folder)
    weights.unlink()
    assert store.verification().superseded == (chain[1],)
    assert found(store) == []
    weights.write_bytes(b"first")
    assert store.put("model", {"name": "m"}, parents=[chain[0]], files=[weights]) == chain[1]
    weights.unlink()
    assert found(store) == [("missing", chain[1])]


def test_discarding_what_nobody_recorded_leaves_no_trace(store, chain):
    before = store.verification().num_entries
    store.discard(store.path.parent / "tiny/05")
    assert store.verification().num_entries == before


def test_latest_is_what_was_put_last_when_a_run_goes_back(store):
    first = store.put("verdict", {"verdict": "ship"})
    store.put("verdict", {"verdict": "block"})
    assert store.put("verdict", {"verdict": "ship"}) == first
    assert store.get("latest:verdict").id == store.get("latest").id == first
    assert store.newest()[0].id == first
    assert len(store.newest()) == 2


def test_a_store_without_a_log_is_read_and_says_what_cannot_be_told(store, tmp_path):
    old = tmp_path / "old.db"
    node = store.put("seed", {"seed": 1})
    with contextlib.closing(sqlite3.connect(old)) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO nodes VALUES (?, 'seed', ?, '2026-01-01')", (node, '{"seed":1}'))
        connection.commit()
    older = LineageStore(old)
    assert older.get("latest").id == node
    done = verify(older)
    assert done.exit_code == 0
    assert "older than the log: 1 records" in done.stdout
    tamper(older, ("DELETE FROM nodes",))
    assert found(older) == [("absent", node)]


def test_files_recorded_at_one_place_before_there_was_a_log_may_be_in_any_order(store, chain):
    weights = store.path.parent / "tiny/05-sft/model/weights.bin"
    weights.write_bytes(b"second")
    store.put("model", {"name": "m2"}, files=[weights])
    weights.write_bytes(b"first")
    tamper(store, ("DROP TABLE log",), ("PRAGMA user_version = 1",))
    older = LineageStore(store.path)
    assert found(older) == []
    weights.write_bytes(b"third")
    assert {what for what, _ in found(older)} == {"changed"}
