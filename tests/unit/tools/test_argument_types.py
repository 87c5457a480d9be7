import sqlite3
from pathlib import Path
from typing import Annotated

import pytest

from posttrain.records import ToolCall
from posttrain.tools import Caller, Identifier, Line, Toolbox, Within, tool


def call(made, **arguments):
    return Toolbox([made], caller=Caller("clerk", "bank_A")).call(ToolCall(made.name, arguments))


@pytest.fixture
def reader(tmp_path):
    """A tool over a folder with one report, a secret outside, and links that lead there."""
    folder = tmp_path / "reports"
    (folder / "2025").mkdir(parents=True)
    (folder / "2025" / "q1.txt").write_text("first quarter")
    (tmp_path / "secret.txt").write_text("TOP SECRET")
    (tmp_path / "reports-other").mkdir()
    (tmp_path / "reports-other" / "x.txt").write_text("TOP SECRET")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "up").symlink_to(tmp_path)
    (folder / "other").symlink_to(tmp_path / "reports-other")
    (folder / "loop").symlink_to(folder / "loop")

    @tool
    def read_report(file: Annotated[Path, Within(folder)]) -> str:
        """Read a report.

        Args:
            file: for example 2025/q1.txt
        """
        return file.read_text()

    return read_report


def test_a_path_inside_is_resolved_and_read(reader):
    assert reader.parameters["properties"]["file"] == {
        "type": "string",
        "description": "for example 2025/q1.txt",
        "minLength": 1,
        "maxLength": 500,
    }
    assert call(reader, file="2025/q1.txt").content == "first quarter"
    assert call(reader, file="./2025/q1.txt").content == "first quarter"


PATH_TRICKS = [
    "../secret.txt",
    "2025/../../secret.txt",
    "/etc/passwd",
    "~/secret.txt",
    "link.txt",
    "up/secret.txt",
    "other/x.txt",
    "../reports-other/x.txt",
    "..\\secret.txt",
    "2025/q1.txt\x00.png",
    "..",
    "2025/../..",
    "loop",
    "a" * 10_000,
    "",
    "x/" * 240,
    "{secret.txt,q1.txt}",
    "$(cat ../secret.txt)",
    "file:///etc/passwd",
    "%2e%2e/secret.txt",
]


@pytest.mark.parametrize("trick", PATH_TRICKS)
def test_no_path_leads_outside(reader, tmp_path, trick):
    result = call(reader, file=trick)
    assert result.is_error
    assert "SECRET" not in result.content
    assert "root:" not in result.content


def test_what_is_refused_says_why_without_naming_the_folder(reader, tmp_path):
    result = call(reader, file="../secret.txt")
    assert result.status == "invalid_arguments"
    assert result.content == "read_report was not called: file is '../secret.txt'; must be a relative path without '..'."
    assert str(tmp_path) not in call(reader, file="link.txt").content


@pytest.fixture
def ledger():
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.executescript("create table ledger(account text, amount real); insert into ledger values ('1000', 5), ('2000', 7);")
    database.executescript("create table salaries(name text); insert into salaries values ('TOP SECRET');")

    @tool
    def total(column: Identifier, account: Line) -> list:
        """Sum of a column of the ledger for an account."""
        return database.execute(f"select sum({column}) from ledger where account = ?", (account,)).fetchall()

    return total, database


SQL_TRICKS = [
    "amount); drop table ledger; --",
    "(select name from salaries)",
    "amount) from salaries --",
    "amount\n) from salaries --",
    "amount\n",
    'amount"',
    "1; attach database '/etc/passwd' as x",
    "ａmount",
    "amount\u200b",
]


def test_a_column_name_and_a_bound_value_work(ledger):
    assert call(ledger[0], column="amount", account="1000").content == "[[5.0]]"


@pytest.mark.parametrize("trick", SQL_TRICKS)
def test_no_name_becomes_sql(ledger, trick):
    total, database = ledger
    assert call(total, column=trick, account="1000").status == "invalid_arguments"
    assert database.execute("select count(*) from ledger").fetchone() == (2,)


@pytest.mark.parametrize("trick", ["' or 1=1 --", "1000'; drop table ledger; --", "1000 union select name from salaries"])
def test_a_value_is_bound_and_finds_nothing(ledger, trick):
    total, database = ledger
    assert call(total, column="amount", account=trick).content == "[[null]]"
    assert database.execute("select count(*) from ledger").fetchone() == (2,)


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\x00b", "\x1b[31m", "x" * 1001])
def test_a_line_is_one_line(ledger, text):
    assert call(ledger[0], column="amount", account=text).status == "invalid_arguments"
