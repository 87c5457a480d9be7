"""What changed in the books: a database diff against the start, and whether it is the expected one."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.worlds.finops.desk import euros

WITHOUT = ("id", "tenant", "by", "memo")  # columns of a new row that no task states
NEW = ("transfers", "escalations", "entries")
Change = dict[str, Any]
State = dict[str, list[Change]]
"""Table to its changes: new rows, changed columns of rows with their ``id``, ``removed`` rows. Unchanged tables are left out."""


def keep_start(connection: sqlite3.Connection, start: bytes) -> None:
    """Attach the database as it is at the beginning, for :func:`state_diff`."""
    connection.execute("ATTACH ':memory:' AS start")
    connection.deserialize(start, name="start")


def state_diff(connection: sqlite3.Connection) -> State:
    """Every difference to the start, in the form of :data:`State`; amounts in euros, the lines of an entry inside it."""
    tables = [name for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name")]
    state: State = {}
    lines: dict[str, list[list[Any]]] = {}
    for table in tables:
        columns = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
        keys = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})") if row[5]]
        added = _rows(connection, f"SELECT * FROM main.{table} EXCEPT SELECT * FROM start.{table}", columns)
        removed = _rows(connection, f"SELECT * FROM start.{table} EXCEPT SELECT * FROM main.{table}", columns)
        if table == "lines" and not removed:
            for row in added:
                lines.setdefault(row["entry"], []).append([row["account"], euros(row["cents"])])
        elif added or removed:
            state[table] = _changes(table, added, removed, keys)
    for entry in state.get("entries", []):
        entry["lines"] = sorted(lines.pop(entry.pop("id", ""), []))
    if lines:
        state["lines"] = [{"entry": entry, "lines": sorted(some)} for entry, some in sorted(lines.items())]
    return state


def _rows(connection: sqlite3.Connection, sql: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in connection.execute(sql)]


def _changes(table: str, added: list[dict[str, Any]], removed: list[dict[str, Any]], keys: Sequence[str]) -> list[Change]:
    before = {tuple(row[key] for key in keys): row for row in removed}
    changes: list[Change] = []
    for row in added:
        old = before.pop(tuple(row[key] for key in keys), None)
        if old is not None:
            shown = {name: value for name, value in row.items() if name in keys or old[name] != value}
        else:
            hidden = () if table not in NEW else tuple(name for name in WITHOUT if not (table == "entries" and name == "id"))
            shown = {name: value for name, value in row.items() if name not in hidden and value is not None}
        changes.append({"amount" if name == "cents" else name: euros(value) if name == "cents" else value for name, value in shown.items()})
    return changes + [{**{key: row[key] for key in keys}, "removed": True} for row in before.values()]


def same_state(actual: State, expected: Mapping[str, Any]) -> bool:
    """Whether the changes are the expected ones, in any order; a value of the expected side may be a list of accepted ones."""
    if set(actual) != set(expected):
        return False
    return all(_same_rows(actual[table], expected[table]) for table in actual)


def _same_rows(actual: Sequence[Change], expected: Sequence[Mapping[str, Any]]) -> bool:
    left = sorted(actual, key=lambda row: json.dumps(row, sort_keys=True))
    for wanted in expected:
        place = next((i for i, row in enumerate(left) if _same_row(row, wanted)), None)
        if place is None:
            return False
        left.pop(place)
    return not left


def _same_row(row: Change, wanted: Mapping[str, Any]) -> bool:
    if set(row) != set(wanted):
        return False
    return all(row[name] == value or (name != "lines" and isinstance(value, list) and row[name] in value) for name, value in wanted.items())
