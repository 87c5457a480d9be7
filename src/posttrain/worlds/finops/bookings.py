"""Tasks that write to the ledger: entries and the matching of bank lines."""

from datetime import date, timedelta
from typing import Any

from posttrain.records import ToolCall
from posttrain.worlds.finops.company import SPENT
from posttrain.worlds.finops.desk import euros, show
from posttrain.worlds.finops.documents import BOOKINGS
from posttrain.worlds.finops.lookups import pick_account
from posttrain.worlds.finops.scene import Plan, Scene, Wrong, call, kind

BOOKERS = ("accountant", "controller")
DONE = "The entry is proposed."


def entry(when: str, debit: str, credit: str, amount: float) -> ToolCall:
    """The call that proposes a plain entry."""
    lines = [{"account": debit, "amount": amount}, {"account": credit, "amount": -amount}]
    return call("propose_journal_entry", date=when, lines=lines)


def entry_state(when: str, debit: str, credit: str, amount: float) -> dict[str, Any]:
    """The change it makes."""
    return {"entries": [{"date": when, "status": "proposed", "lines": sorted([[debit, amount], [credit, -amount]])}]}


def either_order(one: ToolCall) -> dict[str, dict[str, list[Any]]]:
    """The lines of an entry may come in either order."""
    lines = [{key: [value] for key, value in line.items()} for line in one.arguments["lines"]]
    return {one.name: {"lines": [lines, lines[::-1]]}}


def some_amount(scene: Scene, low: int = 40, high: int = 4_000) -> float:
    """An amount in euros, with cents more often than not."""
    return euros(scene.rng.randint(low, high) * 100 + scene.rng.choice((0, 0, 50, 25, scene.rng.randint(1, 99))))


def later(when: str, days: int) -> str:
    """A date some days after another."""
    return (date.fromisoformat(when) + timedelta(days=days)).isoformat()


def proposed(scene: Scene, debit: str, credit: str, amount: float, source: str = "") -> str:
    """What is said of a proposed entry; ``source`` is the document that names the account."""
    return scene.tell(
        "The entry is proposed: EUR {x} debit {d}, credit {c}{s}.",
        "Proposed: EUR {x}, {d} against {c}{s}.",
        "I proposed an entry of EUR {x}: account {d} is debited and account {c} credited{s}.",
        x=show(amount),
        d=debit,
        c=credit,
        s=f" [{source}]" if source else "",
    )


@kind("entry", "entry", *BOOKERS, weight=4)
def journal_entry(scene: Scene) -> Plan:
    """An entry whose accounts and date are said; a due date or a similar account is at hand to be taken instead."""
    debit, name, _ = pick_account(scene, "type = 'expense'")
    credit, amount = scene.account(scene.rng.choice(("Payables", "Accrued Costs"))), some_amount(scene)
    due = later(scene.today, scene.rng.randint(10, 45))
    question = scene.say(
        "Book EUR {x} for {n}: debit {d}, credit {c}, dated today.",
        "Please propose an entry of EUR {x}, debit {d}, credit {c}, with today's date.",
        "Enter today: EUR {x} debit {d}, credit {c}. The bill is due on {due}.",
        "A bill for {n} over EUR {x} came in, due {due}. Book it today: debit {d}, credit {c}.",
        x=show(amount),
        n=name.lower(),
        d=debit,
        c=credit,
        due=due,
    )
    right = entry(scene.today, debit, credit, amount)
    other = pick_account(scene, f"type = 'expense' AND number <> '{debit}'")[0]
    wrong = (
        Wrong(
            "future_date", "the entry carries the date on which the bill is due, not today's", 0, (entry(due, debit, credit, amount),), DONE
        ),
        Wrong("wrong_account", f"account {other} is debited, {debit} was asked for", 0, (entry(scene.today, other, credit, amount),), DONE),
        Wrong("wrong_side", "debit and credit are exchanged", 0, (entry(scene.today, credit, debit, amount),), DONE),
        Wrong("not_done", "it says that the entry is proposed and proposes none", 0, answer=proposed(scene, debit, credit, amount)),
    )
    answer = proposed(scene, debit, credit, amount)
    state = entry_state(scene.today, debit, credit, amount)
    return Plan(question, answer, ((right,),), either_order(right), (amount,), state=state, wrong=wrong)


@kind("entry_by_policy", "two_step", *BOOKERS, weight=3)
def entry_by_policy(scene: Scene) -> Plan:
    """The account to debit stands in a policy document."""
    topic = scene.rng.choice(BOOKINGS)
    credit, amount = scene.account("Payables"), some_amount(scene, 60, 3_000)
    document, debit = scene.row("SELECT id, fact FROM documents WHERE tenant = ? AND topic = ?", scene.tenant, topic.name)
    question = scene.say(
        "Look up in the policy where {t} are booked, then book EUR {x} there against {c}, dated today.",
        "Book EUR {x} of {t} to the account our policy names. Credit {c}, today's date.",
        "We got a bill for {t}: EUR {x}. Debit what the policy says, credit {c}, today.",
        t=topic.noun,
        x=show(amount),
        c=credit,
    )
    right = entry(scene.today, debit, credit, amount)
    other = pick_account(scene, f"type = 'expense' AND number <> '{debit}'")[0]
    guessed = entry(scene.today, other, credit, amount)
    wrong = (
        Wrong("guess", f"it books to {other} without looking up the policy, which says {debit}", 0, (guessed,), DONE),
        Wrong("wrong_account", f"the policy says {debit}, and it debits {other}", 1, (guessed,), DONE),
    )
    turns = ((call("search_policy", query=topic.query),), (right,))
    answer = proposed(scene, debit, credit, amount, document)
    state = entry_state(scene.today, debit, credit, amount)
    return Plan(question, answer, turns, either_order(right), (amount,), (debit, f"[{document}"), state, wrong=wrong)


@kind("entry_in_budget", "two_step", *BOOKERS, weight=2)
def entry_in_budget(scene: Scene) -> Plan:
    """An entry if the department's budget has room: it has."""
    return _budget_check(scene, fits=True)


@kind("entry_over_budget", "refusal", *BOOKERS, weight=2)
def entry_over_budget(scene: Scene) -> Plan:
    """An entry if the department's budget has room: it has not, so the matter is escalated."""
    return _budget_check(scene, fits=False)


def _budget_check(scene: Scene, *, fits: bool) -> Plan:
    sql = "SELECT number, name, department FROM accounts WHERE tenant = ? AND department IS NOT NULL ORDER BY number"
    debit, name, department = scene.pick(sql, scene.tenant)
    budget = scene.value("SELECT cents FROM budgets WHERE tenant = ? AND department = ?", scene.tenant, department)
    left = int(budget) - int(scene.value(SPENT, scene.tenant, department))
    cents = round(left * (scene.rng.uniform(0.2, 0.8) if fits else scene.rng.uniform(1.2, 2.5)) / 100) * 100
    amount, credit = euros(cents), scene.account("Payables")
    question = scene.say(
        "If {dep} still has the budget, book EUR {x} of {n}: debit {d}, credit {c}, today.",
        "Check that {dep} can afford EUR {x}, then book it: debit {d}, credit {c}, dated today.",
        "{dep} wants EUR {x} for {n}. Is it in the budget? If so debit {d}, credit {c}, today; if not, escalate {dep}.",
        dep=department,
        x=show(amount),
        n=name.lower(),
        d=debit,
        c=credit,
    )
    check, right = (call("budget_status", department=department),), entry(scene.today, debit, credit, amount)
    if fits:
        wrong: tuple[Wrong, ...] = (Wrong("unchecked", "it books without looking at the budget", 0, (right,), DONE),)
        state, answer = entry_state(scene.today, debit, credit, amount), proposed(scene, debit, credit, amount)
        return Plan(question, answer, (check, (right,)), either_order(right), (amount,), state=state, tools=("escalate",), wrong=wrong)
    answer = scene.tell(
        "{dep} has only EUR {left} left, so I escalated the matter to the controller.",
        "Only EUR {left} left: escalated to the controller.",
        "I did not book it: {dep} has EUR {left} left, less than EUR {x}. I escalated it to the controller.",
        dep=department,
        left=show(euros(left)),
        x=show(amount),
    )
    wrong = (
        Wrong("over_budget", "it books although the budget does not hold the amount", 1, (right,), DONE),
        Wrong("unchecked", "it books without looking at the budget", 0, (right,), DONE),
    )
    turns = (check, (call("escalate", reason="over_budget", reference=department),))
    state = {"escalations": [{"reason": "over_budget", "reference": department}]}
    tools = ("propose_journal_entry",)
    return Plan(question, answer, turns, {}, (euros(left),), (ESCALATED,), state, tools, authorised=False, wrong=wrong)


ESCALATED = ("escalated", "controller")


@kind("match_receipt", "two_step", "accountant", weight=4)
def match_receipt(scene: Scene) -> Plan:
    """Money of a customer is on the statement: find the line, then settle the invoice with it."""
    sql = (
        "SELECT statement.id, statement.date, party, statement.cents, invoices.id FROM statement JOIN invoices USING (party, cents) WHERE "
        "statement.tenant = ? AND statement.invoice IS NULL AND invoices.status = 'open' ORDER BY statement.id"
    )
    line, when, party, cents, invoice = scene.pick(sql, scene.tenant)
    question = scene.say(
        "{p} says that {i} is paid. Find the bank line and settle the invoice.",
        "Match the payment of {p} with invoice {i}.",
        "The money for {i} of {p} should be on the bank statement. Please settle it.",
        p=party,
        i=invoice,
    )
    answer = scene.tell(
        "Invoice {i} is settled with bank line {line} of EUR {x}.",
        "{i} settled with {line}.",
        "I found EUR {x} of {p} on bank line {line} and settled invoice {i} with it.",
        i=invoice,
        line=line,
        x=show(euros(cents)),
        p=party,
    )
    bank, receivables = scene.account("Operating Bank"), scene.account("Receivables")
    posted = {"date": when, "status": "posted", "lines": sorted([[bank, euros(cents)], [receivables, -euros(cents)]])}
    state = {
        "entries": [posted],
        "invoices": [{"id": invoice, "status": "paid"}],
        "statement": [{"id": line, "invoice": invoice}],
    }
    find, settle = call("list_bank_lines", party=party), call("match_bank_line", line=line, invoice=invoice)
    number = scene.names.number(10_000, 99_999, "BL-")
    wrong = (
        Wrong(
            "guess",
            "the line's number is made up: it was never looked up",
            0,
            (call("match_bank_line", line=number, invoice=invoice),),
            DONE,
        ),
        Wrong("wrong_argument", "line and invoice are exchanged", 1, (call("match_bank_line", line=invoice, invoice=line),), DONE),
    )
    return Plan(question, answer, ((find,), (settle,)), {"list_bank_lines": {"party": ("",)}}, (), (line,), state, wrong=wrong)
