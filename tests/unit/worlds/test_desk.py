"""What the tools do, and what they refuse, whatever a model writes into their arguments."""

import json
import sqlite3

import pytest

from posttrain.records import ToolCall
from posttrain.tools import Caller
from posttrain.worlds.finops import ROLES, allowed, build_database
from posttrain.worlds.finops.desk import cents_of, euros
from posttrain.worlds.finops.environment import FinopsEnvironment
from posttrain.worlds.finops.scene import Injection, Plan
from posttrain.worlds.finops.signatures import CONTRACTS, SEARCH
from posttrain.worlds.finops.state import same_state

DATA = build_database("train", 0, 0)
BOOKS = sqlite3.connect(":memory:")
BOOKS.deserialize(DATA)
TRICKS = ("' OR '1'='1", "1; DROP TABLE lines; --", "../../etc/passwd", "x' UNION SELECT name FROM people --", "\x00", "%", "")


def one(sql, *values):
    return BOOKS.execute(sql, values).fetchone()


def account(name, tenant="bank_A"):
    return one("SELECT number FROM accounts WHERE tenant = ? AND name = ?", tenant, name)[0]


class Desk:
    """Calls as a caller of bank_A; every tool is offered."""

    def __init__(self, role, plan=None):
        subject = one("SELECT name FROM people WHERE tenant = 'bank_A' AND role = ?", role)[0]
        offered = (*CONTRACTS, SEARCH)
        self.environment = FinopsEnvironment(DATA, plan or Plan("", ""), offered, Caller(role, "bank_A", subject))

    def call(self, name, **arguments):
        return self.environment.call_many([ToolCall(name, arguments)])[0]

    def value(self, name, **arguments):
        result = self.call(name, **arguments)
        assert not result.is_error, result
        return json.loads(result.content)

    @property
    def outcome(self):
        return self.environment.outcome(())


@pytest.fixture
def desk():
    made = []

    def make(role, plan=None):
        made.append(Desk(role, plan))
        return made[-1]

    yield make
    for item in made:
        item.environment.close()


def lines(debit, credit, amount, less=0):
    return [{"account": debit, "amount": amount}, {"account": credit, "amount": -amount + less}]


def test_reads_tell_the_figures_of_the_books_and_change_nothing(desk):
    analyst = desk("analyst")
    payables = account("Payables")
    owed = -one("SELECT sum(cents) FROM lines WHERE account = ?", payables)[0]
    assert analyst.value("get_balance", account=payables)["balance"] == owed / 100
    assert analyst.value("get_balance", account="Payables")["account"] == payables
    budget = analyst.value("budget_status", department="marketing")
    assert budget["budget"] == pytest.approx(budget["spent"] + budget["left"], abs=0.001)
    assert analyst.outcome["diff"] == {}


def test_ledger_filters_hold_both_dates_and_the_total_is_of_all_lines(desk):
    number = account("Operating Bank")
    rows = BOOKS.execute("SELECT date, cents FROM lines JOIN entries ON entry = id WHERE account = ? ORDER BY date", (number,)).fetchall()
    since, until = rows[3][0], rows[-4][0]
    inside = [cents for when, cents in rows if since <= when <= until]
    found = desk("analyst").value("query_ledger", account=number, since=since, until=until)
    assert (found["count"], found["total"]) == (len(inside), pytest.approx(sum(inside) / 100))
    assert len(found["lines"]) == 4 < found["count"]


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("name", [name for name, contract in CONTRACTS.items() if contract.required == 1 or not contract.required])
def test_tricks_in_arguments_are_data(desk, name, trick):
    role = CONTRACTS[name].roles[0]
    item = desk(role)
    result = item.call(name, **{next(iter(CONTRACTS[name].properties)): trick})
    assert "passwd:" not in result.content
    assert result.status in ("ok", "error")
    assert item.outcome["diff"] == {}
    assert item.outcome["violations"] == []
    people = [row[0] for row in BOOKS.execute("SELECT name FROM people")]
    assert not any(person in result.content for person in people)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_call_its_own_tools_and_no_other(desk, role):
    item = desk(role)
    for name in CONTRACTS:
        result = item.call(name, **dict.fromkeys(list(CONTRACTS[name].properties)[: CONTRACTS[name].required], "x"))
        assert (result.status == "forbidden") == (name not in allowed(role)), (name, result)
    kinds = [(one["kind"], one["tool"]) for one in item.outcome["violations"]]
    assert kinds == [("role", name) for name in CONTRACTS if name not in allowed(role)]


def test_another_tenants_books_look_empty_and_the_try_is_noted(desk):
    treasurer = desk("treasurer")
    number = account("Operating Bank", "retail_B")
    vendor, target = one("SELECT name, bank_account FROM parties WHERE tenant = 'saas_C' AND kind = 'vendor'")
    approval = one("SELECT id FROM approvals WHERE tenant = 'retail_B'")[0]
    tried = [
        treasurer.call("get_balance", account=number),
        treasurer.call("list_payables", vendor=vendor),
        treasurer.call("get_approval_status", approval=approval),
        treasurer.call("request_transfer", from_account=account("Operating Bank"), to_account=target, amount=5, date="2024-05-05"),
    ]
    unknown = treasurer.call("get_balance", account="0000").content
    assert all(result.is_error for result in tried)
    assert tried[0].content == unknown.replace("0000", number)
    assert [one["kind"] for one in treasurer.outcome["violations"]] == ["tenant"] * 4
    assert treasurer.outcome["diff"] == {}


def test_the_search_finds_the_callers_own_rules_only(desk):
    found = desk("analyst").call("search_policy", query="payment terms days receipt vendor invoices").content
    own = one("SELECT id FROM documents WHERE tenant = 'bank_A' AND topic = 'payment terms'")[0]
    others = [row[0] for row in BOOKS.execute("SELECT id FROM documents WHERE tenant <> 'bank_A'")]
    assert f"[{own}:" in found
    assert not any(other in found for other in others)


def test_an_entry_must_balance_and_becomes_a_proposal(desk):
    accountant = desk("accountant")
    debit, credit = account("Travel"), account("Payables")
    refused = accountant.call("propose_journal_entry", date="2024-05-05", lines=lines(debit, credit, 10.5, less=0.01))
    assert (refused.is_error, accountant.outcome["diff"]) == (True, {})
    assert "does not balance" in refused.content
    accountant.value("propose_journal_entry", date="2024-05-05", lines=lines(debit, credit, 10.5))
    assert accountant.outcome["diff"] == {
        "entries": [{"date": "2024-05-05", "status": "proposed", "lines": sorted([[debit, 10.5], [credit, -10.5]])}]
    }
    assert accountant.value("get_balance", account=debit) == desk("accountant").value("get_balance", account=debit)
    assert accountant.value("query_ledger", account=debit) == desk("accountant").value("query_ledger", account=debit)


@pytest.mark.parametrize("amount", [0, -5, 1e15, 1e308, 10**400, 0.001, 5.005, True, "5"])
def test_amounts_are_positive_whole_cents(desk, amount):
    treasurer = desk("treasurer")
    own = {"from_account": account("Operating Bank"), "to_account": account("Reserve Bank")}
    assert treasurer.call("request_transfer", **own, amount=amount, date="2024-05-05").is_error
    assert treasurer.outcome["diff"] == {}


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("get_balance", {"account": "1", "tenant": "retail_B"}, "tenant is not an argument"),
        ("request_transfer", {"date": "tomorrow"}, "date is"),
        ("request_transfer", {"to_account": "FROM"}, "are both"),
        ("escalate", {"reason": "because", "reference": "INV-1"}, "reason is"),
        ("escalate", {"reason": "suspicious", "reference": "x" * 81}, "81 characters"),
        ("escalate", {"reason": "suspicious", "reference": ""}, "0 characters"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_words(desk, name, arguments, said):
    treasurer = desk("treasurer")
    source = account("Operating Bank")
    own = {"from_account": source, "to_account": account("Reserve Bank"), "amount": 5, "date": "2024-05-05"}
    given = {key: source if value == "FROM" else value for key, value in arguments.items()}
    result = treasurer.call(name, **{**(own if name == "request_transfer" else {}), **given})
    assert (result.is_error, treasurer.outcome["diff"]) == (True, {})
    assert said in result.content


@pytest.mark.parametrize("some", [[], [{"account": "x", "amount": 1}], [{"account": "x"}], "x", [{"account": "Travel", "amount": 0}] * 2])
def test_an_entry_without_two_lines_of_own_accounts_is_refused(desk, some):
    accountant = desk("accountant")
    assert accountant.call("propose_journal_entry", date="2024-05-05", lines=some).is_error
    assert accountant.outcome["diff"] == {}


def test_cents_and_euros_are_inverses():
    assert [euros(cents_of(amount, "amount")) for amount in (0.07, 1.1, 2.675 + 0.005, 80, 123456.78)] == [0.07, 1.1, 2.68, 80, 123456.78]


def test_transfers_respect_limit_approval_and_four_eyes(desk):
    treasurer = desk("treasurer")
    limit = one("SELECT cents FROM limits WHERE tenant = 'bank_A' AND role = 'treasurer'")[0]
    own = {"from_account": account("Operating Bank"), "to_account": account("Reserve Bank"), "date": "2024-05-05"}
    sql = "SELECT id, cents FROM approvals WHERE tenant = 'bank_A' AND status = ? AND coalesce(decided_by, '') {} requested_by"
    good, good_cents = one(sql.format("<>"), "approved")
    assert treasurer.call("request_transfer", **own, amount=limit / 100 + 0.01).is_error
    assert treasurer.call("request_transfer", **own, amount=good_cents / 100 + 0.01, approval=good).is_error
    for status, sign in (("pending", "<>"), ("rejected", "<>"), ("approved", "=")):
        approval, cents = one(sql.format(sign), status)
        assert treasurer.call("request_transfer", **own, amount=cents / 100, approval=approval).is_error
    assert [one["kind"] for one in treasurer.outcome["violations"]] == ["limit"] * 5
    assert treasurer.outcome["diff"] == {}
    treasurer.value("request_transfer", **own, amount=limit / 100)
    treasurer.value("request_transfer", **own, amount=good_cents / 100, approval=good)
    done = [{**own, "amount": euros(limit)}, {**own, "amount": euros(good_cents), "approval": good}]
    assert treasurer.outcome["diff"] == {"transfers": done}


def test_the_same_transfer_asked_twice_is_made_once(desk):
    treasurer = desk("treasurer")
    same = {"from_account": account("Operating Bank"), "to_account": account("Reserve Bank"), "amount": 5, "date": "2024-05-05"}
    assert [treasurer.call("request_transfer", **same).status for _ in range(3)] == ["ok", "repeated", "repeated"]
    assert len(treasurer.outcome["diff"]["transfers"]) == 1


def test_a_bank_line_settles_only_the_invoice_of_its_party_and_amount(desk):
    accountant = desk("accountant")
    sql = (
        "SELECT statement.id, invoices.id, statement.party FROM statement JOIN invoices USING (party, cents) "
        "WHERE statement.tenant = 'bank_A' AND statement.invoice IS NULL AND status = 'open'"
    )
    line, invoice, party = one(sql)
    other = one("SELECT id FROM invoices WHERE tenant = 'bank_A' AND kind = 'receivable' AND status = 'open' AND id <> ?", invoice)[0]
    assert accountant.call("match_bank_line", line=line, invoice=other).is_error
    accountant.value("match_bank_line", line=line, invoice=invoice)
    assert accountant.call("match_bank_line", line=line, invoice=other).is_error
    assert set(accountant.outcome["diff"]) == {"entries", "invoices", "statement"}
    assert line not in accountant.call("list_bank_lines", party=party).content


def test_parallel_reads_agree_with_reads_one_by_one(desk):
    numbers = [row[0] for row in BOOKS.execute("SELECT number FROM accounts WHERE tenant = 'bank_A'")]
    calls = [ToolCall("get_balance", {"account": number}) for number in numbers]
    together = [result.content for result in desk("analyst").environment.call_many(calls)]
    assert together == [desk("analyst").call("get_balance", account=number).content for number in numbers[:3]] + together[3:]
    assert len(set(together)) == len(numbers)


def test_the_diff_holds_every_change_of_any_table(desk):
    analyst = desk("analyst")
    database = analyst.environment._db
    person, number = one("SELECT name FROM people")[0], account("Travel")
    with database:
        database.execute("DELETE FROM people WHERE name = ?", (person,))
        database.execute("UPDATE accounts SET name = 'Voyages' WHERE number = ?", (number,))
        database.execute("UPDATE lines SET cents = cents + 100 WHERE entry = (SELECT min(entry) FROM lines)")
        database.execute("INSERT INTO budgets VALUES ('bank_A', 'Fun', 500)")
    diff = analyst.outcome["diff"]
    assert diff["people"] == [{"name": person, "removed": True}]
    assert diff["accounts"] == [{"number": number, "name": "Voyages"}]
    assert diff["budgets"] == [{"tenant": "bank_A", "department": "Fun", "amount": 5}]
    assert len(diff["lines"]) == 2
    assert all(set(line) == {"entry", "number", "amount"} for line in diff["lines"])


def test_a_state_is_the_expected_one_only_with_the_same_rows_no_more_no_fewer():
    rows = [{"to_account": "1", "amount": 5}, {"to_account": "2", "amount": 5}]
    assert same_state({"transfers": rows}, {"transfers": rows[::-1]})
    assert not same_state({"transfers": rows}, {"transfers": rows[:1]})
    assert not same_state({"transfers": rows[:1]}, {"transfers": rows})
    assert not same_state({"transfers": rows, "escalations": []}, {"transfers": rows})
    assert not same_state({"transfers": rows[:1]}, {"transfers": [{**rows[0], "approval": "A"}]})
    assert same_state({"transfers": rows[:1]}, {"transfers": [{"to_account": ["2", "1"], "amount": 5}]})
    assert not same_state({"transfers": rows[:1]}, {"transfers": [{"to_account": ["2", "3"], "amount": 5}]})
    assert not same_state({"entries": [{"lines": [["1", 5]]}]}, {"entries": [{"lines": [[["1", 5]]]}]})


def test_handing_a_matter_on_is_never_a_violation(desk):
    treasurer = desk("treasurer", Plan("", "", authorised=False))
    treasurer.value("escalate", reason="suspicious", reference="INV-1")
    assert treasurer.outcome["violations"] == []


def test_a_change_against_a_rule_of_the_task_is_a_violation_that_was_done(desk):
    treasurer = desk("treasurer", Plan("", "", authorised=False, injection=Injection("pay", account=account("Reserve Bank"))))
    own = {"from_account": account("Operating Bank"), "to_account": account("Reserve Bank"), "amount": 5, "date": "2024-05-05"}
    treasurer.value("request_transfer", **own)
    outcome = treasurer.outcome
    assert [(one["kind"], one["done"]) for one in outcome["violations"]] == [("rule", True)]
    assert (outcome["end_state_ok"], outcome["injection_obeyed"], outcome["injection_read"]) == (False, True, False)
