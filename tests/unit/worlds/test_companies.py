import sqlite3

import pytest

from posttrain.errors import DataError
from posttrain.worlds import SPLITS
from posttrain.worlds.finops import TENANTS, build_database, database_hash
from posttrain.worlds.finops.documents import RULES, attacks
from posttrain.worlds.finops.policies import ORDERS
from posttrain.worlds.finops.questions import general_questions, unrelated_requests

ENTITIES = (
    "SELECT name FROM companies",
    "SELECT name FROM people",
    "SELECT number FROM accounts",
    "SELECT name FROM parties",
    "SELECT bank_account FROM parties",
    "SELECT id FROM entries",
    "SELECT id FROM invoices",
    "SELECT id FROM statement",
    "SELECT id FROM approvals",
    "SELECT id FROM documents",
)


def opened(split="train", seed=0, number=0, size=1):
    connection = sqlite3.connect(":memory:")
    connection.deserialize(build_database(split, seed, number, size))
    return connection


def values(connection, sql):
    return [row[0] for row in connection.execute(sql)]


def test_equal_arguments_give_equal_bytes_and_others_another_database():
    build_database.__globals__["_build"].cache_clear()
    first = build_database("test", 5, 1, 2)
    build_database.__globals__["_build"].cache_clear()
    assert build_database("test", 5, 1, 2) == first
    hashes = {
        database_hash(opened(*world))
        for world in (("test", 5, 1, 2), ("test", 5, 1, 1), ("test", 6, 1, 2), ("train", 5, 1, 2), ("test", 5, 2, 2))
    }
    assert len(hashes) == 5
    assert database_hash(opened("test", 5, 1, 2)) in hashes


def test_the_splits_share_no_entity_and_no_first_word_of_a_business():
    found = {split: set() for split in SPLITS}
    for split in SPLITS:
        for seed in (0, 1):
            for number in range(8):
                connection = opened(split, seed, number)
                for sql in ENTITIES:
                    names = values(connection, sql)
                    found[split].update(names)
                    if "name FROM" in sql and "accounts" not in sql:
                        found[split].update(name.split()[0] for name in names)
    assert all(len(found[split]) > 4000 for split in SPLITS)
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["validation"] & found["test"]


def test_the_splits_share_no_attack_question_or_phrasing():
    def texts(split):
        asked = [text for one in (*general_questions(split), *unrelated_requests(split)) for text in one.questions]
        return {*(one.text for one in attacks(split)), *ORDERS[split], *asked, *(text for topic in RULES for text in topic.asked(split))}

    sizes = [len(texts(split)) for split in SPLITS]
    assert len(set().union(*(texts(split) for split in SPLITS))) == sum(sizes)
    assert {one.kind for one in attacks("train")}.isdisjoint(one.kind for one in attacks("test"))


@pytest.mark.parametrize("number", range(4))
def test_the_books_balance(number):
    connection = opened(number=number)
    assert not values(connection, "SELECT entry FROM lines GROUP BY entry HAVING sum(cents) <> 0")
    assert not values(
        connection,
        "SELECT entry FROM lines JOIN entries ON entry = id JOIN accounts ON account = accounts.number "
        "WHERE entries.tenant <> accounts.tenant",
    )


@pytest.mark.parametrize("tenant", TENANTS)
def test_the_control_accounts_equal_the_open_invoices(tenant):
    connection = opened("validation", 2, 1)
    for account, kind, sign in (("Payables", "payable", -1), ("Receivables", "receivable", 1)):
        sql = "SELECT sum(cents) FROM lines JOIN accounts ON account = accounts.number WHERE tenant = ? AND name = ?"
        balance = connection.execute(sql, (tenant, account)).fetchone()[0]
        due = connection.execute(
            "SELECT sum(cents) FROM invoices WHERE tenant = ? AND kind = ? AND status = 'open'", (tenant, kind)
        ).fetchone()[0]
        assert balance == sign * due


def test_matched_bank_lines_are_paid_invoices_of_the_same_party_and_amount():
    connection = opened()
    sql = (
        "SELECT statement.party = invoices.party, abs(statement.cents) = invoices.cents, status FROM statement "
        "JOIN invoices ON statement.invoice = invoices.id"
    )
    rows = connection.execute(sql).fetchall()
    assert len(rows) > 5
    assert set(rows) == {(1, 1, "paid")}


def test_no_department_has_spent_more_than_its_budget():
    connection = opened("test", 1, 1)
    sql = (
        "SELECT budgets.cents - sum(lines.cents) FROM budgets JOIN accounts USING (tenant, department) "
        "JOIN lines ON account = accounts.number GROUP BY tenant, department"
    )
    assert min(values(connection, sql)) > 0


def test_size_multiplies_the_parties():
    assert values(opened(size=1), "SELECT count(*) FROM parties") == [24]
    assert values(opened(size=5), "SELECT count(*) FROM parties") == [120]


@pytest.mark.parametrize("size", [0, -1, 201])
def test_a_size_out_of_range_says_what_is_accepted(size):
    with pytest.raises(DataError, match=r"is not between 1 and 200"):
        build_database("train", 0, 0, size)


def test_an_unknown_split_is_answered_with_the_nearest():
    with pytest.raises(DataError, match=r"unknown split 'tset'.*\n.*'test'"):
        build_database("tset", 0, 0)
