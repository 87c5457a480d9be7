"""Tasks that read: one call, calls in parallel, or none at all."""

from posttrain.worlds.finops.company import SPENT
from posttrain.worlds.finops.desk import euros, show
from posttrain.worlds.finops.scene import Plan, Scene, Wrong, call, kind
from posttrain.worlds.finops.signatures import allowed

BALANCE = "SELECT coalesce(sum(cents), 0) FROM lines WHERE account = ?"
OPEN_BY_PARTY = (
    "SELECT party, count(*), sum(cents), min(due) FROM invoices WHERE tenant = ? AND kind = ? AND status = 'open' "
    "GROUP BY party ORDER BY party"
)
NOT_APPROVED = ("not approved", "not yet approved", "not been approved", "unapproved", "pending", "rejected")
READERS = ("analyst", "accountant", "treasurer", "controller")


def balance_of(scene: Scene, account: str, kind_of_account: str) -> int:
    """Balance in cents, positive on the natural side."""
    cents = int(scene.value(BALANCE, account))
    return cents if kind_of_account in ("asset", "expense") else -cents


def pick_account(scene: Scene, where: str = "1") -> tuple[str, str, str]:
    """(number, name, type) of a random account of the tenant with a balance."""
    sql = f"SELECT number, name, type FROM accounts WHERE tenant = ? AND {where} AND number IN (SELECT account FROM lines) ORDER BY number"
    number, name, kind_of_account = scene.pick(sql, scene.tenant)
    return number, name, kind_of_account


@kind("balance", "lookup", *READERS, weight=2)
def balance(scene: Scene) -> Plan:
    """The balance of an account."""
    number, name, kind_of_account = pick_account(scene)
    amount = euros(balance_of(scene, number, kind_of_account))
    question = scene.say(
        "What is the balance of account {number}?",
        "How much is on account {number} right now?",
        "Balance of {number}, please.",
        "Can you tell me what account {number} stands at?",
        "I need today's balance of account {number}.",
        number=number,
    )
    answer = scene.tell(
        "The balance of account {number} ({name}) is EUR {amount}.",
        "EUR {amount}.",
        "Account {number} is {name}; its posted entries add up to EUR {amount}.",
        number=number,
        name=name,
        amount=show(amount),
    )
    other = pick_account(scene, f"number <> '{number}'")[0]
    wrong = (
        Wrong(
            "wrong_account", f"it reads account {other}, which nobody asked for", 0, (call("get_balance", account=other),), "EUR {balance}."
        ),
        Wrong(
            "guess", "it states a figure without reading it", 0, answer=f"The balance of account {number} is EUR {guess(scene, amount)}."
        ),
    )
    return Plan(question, answer, ((call("get_balance", account=number),),), numbers=(amount,), wrong=wrong)


def guess(scene: Scene, amount: float) -> str:
    """A figure of the same size as ``amount`` and another value."""
    return show(round(amount * scene.rng.uniform(1.1, 1.9) + 7, 2))


@kind("budget", "lookup", *READERS, weight=2)
def budget(scene: Scene) -> Plan:
    """What a department has spent, or has left."""
    department, cents = scene.pick("SELECT department, cents FROM budgets WHERE tenant = ? ORDER BY department", scene.tenant)
    spent = int(scene.value(SPENT, scene.tenant, department))
    asked = scene.rng.choice(("left", "spent"))
    amount = euros(cents - spent if asked == "left" else spent)
    phrasings = {
        "left": ("How much budget does {d} have left?", "What remains of the {d} budget?", "How much can {d} still spend?"),
        "spent": ("How much has {d} spent so far?", "What did {d} use of its budget?", "Spending of {d} up to now?"),
    }
    answer = scene.tell(
        "The {d} department has {verb} EUR {amount} of its budget of EUR {budget}.",
        "EUR {amount} {asked}.",
        "Of its budget of EUR {budget}, {d} has EUR {amount} {asked}.",
        d=department,
        verb="a remainder of" if asked == "left" else "spent",
        asked=asked,
        amount=show(amount),
        budget=show(euros(cents)),
    )
    wrong = (
        Wrong("guess", "it states a figure without reading it", 0, answer=f"{department} has EUR {guess(scene, amount)} {asked}."),
        Wrong(
            "wrong_tool",
            "it reads an account where the budget was asked for",
            0,
            (call("get_balance", account=pick_account(scene, f"department <> '{department}'")[0]),),
            "EUR {balance}.",
        ),
    )
    question = scene.say(*phrasings[asked], d=department)
    turns = ((call("budget_status", department=department),),)
    return Plan(question, answer, turns, numbers=(amount,), tools=("get_balance",), wrong=wrong)


@kind("payables", "lookup", "analyst", "treasurer", "controller", weight=2)
def payables(scene: Scene) -> Plan:
    """What a vendor is owed."""
    return _invoices(scene, "payable", "vendor")


@kind("receivables", "lookup", "analyst", "accountant", "controller", weight=2)
def receivables(scene: Scene) -> Plan:
    """What a customer owes."""
    return _invoices(scene, "receivable", "customer")


def _invoices(scene: Scene, kind_of_invoice: str, role: str) -> Plan:
    party, count, cents, due = scene.pick(OPEN_BY_PARTY, scene.tenant, kind_of_invoice)
    tools = {"vendor": "list_payables", "customer": "list_receivables"}
    tool = tools[role]
    phrasings = {
        "vendor": ("How much do we owe {p}?", "What is the open total with {p}?", "Total of the unpaid invoices from {p}?"),
        "customer": ("How much does {p} owe us?", "What has {p} not paid yet?", "Open total of our customer {p}?"),
    }
    formal = "We owe {p} EUR {amount}" if role == "vendor" else "{p} owes us EUR {amount}"
    answer = scene.tell(
        formal + " on {count} open invoice{s}.",
        "EUR {amount}.",
        formal + ": {count} open invoice{s}, the first due on {due}.",
        p=party,
        amount=show(euros(cents)),
        count=count,
        s="" if count == 1 else "s",
        due=due,
    )
    sibling = scene.rows(
        "SELECT name FROM parties WHERE tenant = ? AND kind = ? AND name <> ? AND name LIKE ? || ' %' ORDER BY name",
        *(scene.tenant, role, party, party.split()[0]),
    )
    reason = "it lists what customers owe, not what is owed" if role == "vendor" else "it lists what is owed to vendors"
    other = "customer" if role == "vendor" else "vendor"
    wrong = []
    if tools[other] in allowed(scene.role):
        wrong.append(Wrong("wrong_tool", reason, 0, (call(tools[other], **{other: party}),), "Nothing was found."))
    if sibling:
        similar = sibling[0][0]
        wrong.append(
            Wrong("wrong_party", f"it reads {similar}, a business of a similar name", 0, (call(tool, **{role: similar}),), "EUR {total}.")
        )
    turns = ((call(tool, **{role: party}),),)
    numbers = (euros(cents),)
    return Plan(scene.say(*phrasings[role], p=party), answer, turns, numbers=numbers, wrong=tuple(wrong))


@kind("ledger", "lookup", "analyst", "accountant", "controller", weight=2)
def ledger(scene: Scene) -> Plan:
    """What was booked on an expense account since a date."""
    number, name, _ = pick_account(scene, "type = 'expense'")
    later = (
        "SELECT date FROM entries JOIN lines ON entry = id WHERE account = ? "
        "AND date > (SELECT min(date) FROM entries JOIN lines ON entry = id WHERE account = ?) ORDER BY date"
    )
    since = str(scene.pick(later, number, number)[0])
    sql = "SELECT count(*), sum(cents) FROM lines JOIN entries ON entry = id WHERE account = ? AND date >= ?"
    count, cents = scene.row(sql, number, since)
    question = scene.say(
        "How much was booked on account {n} since {since}?",
        "Total of account {n} from {since} on?",
        "What did we post to {n} since {since}?",
        n=number,
        since=since,
    )
    answer = scene.tell(
        "Account {n} ({name}) shows postings of EUR {amount} since {since}.",
        "EUR {amount}.",
        "Since {since}, account {n} ({name}) has {count} posted line{s}, together EUR {amount}.",
        n=number,
        name=name,
        since=since,
        amount=show(euros(cents)),
        count=count,
        s="" if count == 1 else "s",
    )
    wrong = (
        Wrong("wrong_tool", "the balance is of all time, not since the date", 0, (call("get_balance", account=number),), "EUR {balance}."),
        Wrong(
            "missing_filter",
            "it leaves out the date, so the total is of all time",
            0,
            (call("query_ledger", account=number),),
            "EUR {total}.",
        ),
    )
    turns = ((call("query_ledger", account=number, since=since),),)
    accepted = {"query_ledger": {"until": (scene.today, "")}}
    return Plan(question, answer, turns, accepted, (euros(cents),), tools=("get_balance",), wrong=wrong)


@kind("approval_status", "lookup", "analyst", "treasurer", "controller")
def approval_status(scene: Scene) -> Plan:
    """Whether something was approved."""
    sql = "SELECT id, subject, cents, status FROM approvals WHERE tenant = ? ORDER BY id"
    approval, subject, cents, status = scene.pick(sql, scene.tenant)
    question = scene.say("What is the status of approval {a}?", "Has {a} been approved?", "Where does approval {a} stand?", a=approval)
    answer = scene.tell(
        "Approval {a} ({subject}, EUR {amount}) is {status}.",
        "{status}.",
        "{a} is about EUR {amount} for {subject}, and it is {status}.",
        a=approval,
        subject=subject,
        amount=show(euros(cents)),
        status=status,
    )
    wrong = (Wrong("guess", "it states a status without reading it", 0, answer=f"Approval {approval} is on its way."),)
    turns = ((call("get_approval_status", approval=approval),),)
    return Plan(question, answer, turns, contains=(status,), excludes=NOT_APPROVED if status == "approved" else (), wrong=wrong)


@kind("two_balances", "parallel", *READERS, weight=2)
def two_balances(scene: Scene) -> Plan:
    """Two accounts at once."""
    first, second = scene.rng.sample(
        scene.rows(
            "SELECT number, name, type FROM accounts WHERE tenant = ? AND number IN (SELECT account FROM lines) ORDER BY number",
            scene.tenant,
        ),
        2,
    )
    amounts = [euros(balance_of(scene, number, kind_of_account)) for number, _, kind_of_account in (first, second)]
    slots = {"a": first[0], "b": second[0], "x": show(amounts[0]), "y": show(amounts[1])}
    question = scene.say(
        "What are the balances of {a} and {b}?", "Balances of accounts {a} and {b}, please.", "Read me {a} and {b}.", **slots
    )
    answer = scene.tell(
        "Account {a} stands at EUR {x}, account {b} at EUR {y}.",
        "{a}: EUR {x}, {b}: EUR {y}.",
        "I read both: account {a} has EUR {x} and account {b} has EUR {y}.",
        **slots,
    )
    calls = (call("get_balance", account=first[0]), call("get_balance", account=second[0]))
    wrong = (Wrong("missing_call", "it reads only one of the two accounts", 0, calls[:1], "EUR {balance}."),)
    return Plan(question, answer, (calls,), numbers=tuple(amounts), wrong=wrong)


@kind("two_budgets", "parallel", *READERS)
def two_budgets(scene: Scene) -> Plan:
    """Which of two departments has more left."""
    rows = scene.rows("SELECT department, cents FROM budgets WHERE tenant = ? ORDER BY department", scene.tenant)
    (a, budget_a), (b, budget_b) = scene.rng.sample(rows, 2)
    left = {d: cents - int(scene.value(SPENT, scene.tenant, d)) for d, cents in ((a, budget_a), (b, budget_b))}
    most = max(left, key=lambda d: left[d])
    question = scene.say(
        "Who has more budget left, {a} or {b}?", "Compare what {a} and {b} have left.", "{a} or {b}: where is more left?", a=a, b=b
    )
    answer = scene.tell(
        "{m} has more left: EUR {x}, against EUR {y} of {o}.",
        "{m}: EUR {x}, {o}: EUR {y}.",
        "{m} has more: EUR {x} is left there, and EUR {y} in {o}.",
        m=most,
        o=a if most == b else b,
        x=show(euros(left[most])),
        y=show(euros(min(left.values()))),
    )
    calls = (call("budget_status", department=a), call("budget_status", department=b))
    wrong = (Wrong("missing_call", "it reads only one of the two departments", 0, calls[:1], "{department}, I think: EUR {left} is left."),)
    return Plan(question, answer, (calls,), numbers=tuple(euros(cents) for cents in left.values()), contains=(most,), wrong=wrong)
