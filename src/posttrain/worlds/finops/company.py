"""The seeded generator: three companies, one a tenant, in one SQLite database whose books balance."""

import functools
import hashlib
import random
import sqlite3
from datetime import date, timedelta
from importlib import resources

from posttrain.errors import DataError
from posttrain.worlds.finops.documents import write_documents
from posttrain.worlds.finops.entities import Names

TENANTS = ("bank_A", "retail_B", "saas_C")
ROLES = ("analyst", "accountant", "treasurer", "controller")
ACCOUNTS = (  # name, type, first and last number, department
    ("Operating Bank", "asset", 1000, 1199, None),
    ("Reserve Bank", "asset", 1000, 1199, None),
    ("Receivables", "asset", 1200, 1399, None),
    ("Prepaid Travel", "asset", 1400, 1599, None),
    ("Payables", "liability", 2000, 2299, None),
    ("Accrued Costs", "liability", 2300, 2599, None),
    ("Equity", "equity", 3000, 3299, None),
    ("Product Sales", "revenue", 4000, 4299, None),
    ("Service Sales", "revenue", 4300, 4599, None),
    ("Advertising", "expense", 6000, 6999, "Marketing"),
    ("Events", "expense", 6000, 6999, "Marketing"),
    ("Travel", "expense", 6000, 6999, "Sales"),
    ("Client Meals", "expense", 6000, 6999, "Sales"),
    ("Software", "expense", 6000, 6999, "IT"),
    ("Hardware", "expense", 6000, 6999, "IT"),
    ("Training", "expense", 6000, 6999, "People"),
    ("Office Supplies", "expense", 6000, 6999, "Facilities"),
    ("Rent", "expense", 6000, 6999, "Facilities"),
)
SPENT = (
    "SELECT coalesce(sum(lines.cents), 0) FROM lines JOIN accounts ON account = accounts.number "
    "WHERE accounts.tenant = ? AND department = ?"
)
DEPARTMENTS = ("Marketing", "Sales", "IT", "People", "Facilities")
LIMITS = (500_000, 1_000_000, 2_000_000, 2_500_000, 5_000_000)  # cents a treasurer may transfer alone
STATES = ("arrived", "open", "paid")  # of a receivable: the money is on the statement, nothing yet, or matched and booked
MAX_SIZE = 200
CACHED = 64


def build_database(split: str, seed: int, number: int, size: int = 1) -> bytes:
    """The database of world ``number`` as SQLite bytes: equal arguments give equal bytes. ``size`` multiplies parties and entries."""
    if not 1 <= size <= MAX_SIZE:
        raise DataError(f"size {size} is not between 1 and {MAX_SIZE}", hint="1 is about 180 rows a company; make more worlds instead")
    return _build(split, seed, number, size)


@functools.lru_cache(CACHED)
def _build(split: str, seed: int, number: int, size: int) -> bytes:
    rng = random.Random(f"finops:{split}:{seed}:{number}:{size}")
    names = Names(split, rng)
    connection = sqlite3.connect(":memory:")
    connection.executescript(resources.files(__package__).joinpath("books.sql").read_text(encoding="utf-8"))
    today = date(2024, 2, 1) + timedelta(days=rng.randrange(900))
    for tenant in TENANTS:
        _Company(connection, rng, names, tenant, today).fill(size)
    connection.commit()
    data = connection.serialize()
    connection.close()
    return data


def database_hash(connection: sqlite3.Connection) -> str:
    """SHA-256 over every row of every table, whatever SQLite's version lays them out like."""
    digest = hashlib.sha256()
    for line in connection.iterdump():
        digest.update(line.encode())
    return f"sha256:{digest.hexdigest()}"


class _Company:
    """Writes the books of one tenant."""

    def __init__(self, connection: sqlite3.Connection, rng: random.Random, names: Names, tenant: str, today: date) -> None:
        self._db = connection
        self._rng = rng
        self._names = names
        self._tenant = tenant
        self._today = today
        self._accounts: dict[str, str] = {}
        self._people: dict[str, str] = {}

    def fill(self, size: int) -> None:
        """Everything, in an order in which later parts may refer to earlier ones."""
        self._insert("companies", self._tenant, self._names.business(), self._today.isoformat())
        for role in ROLES:
            self._people[role] = self._names.person()
            self._insert("people", self._people[role], self._tenant, role)
        self._insert("limits", self._tenant, "treasurer", self._rng.choice(LIMITS))
        self._insert("limits", self._tenant, "controller", self._rng.choice(LIMITS) * 4)
        for name, kind, first, last, department in ACCOUNTS:
            self._accounts[name] = self._names.number(first, last)
            self._insert("accounts", self._accounts[name], self._tenant, name, kind, department)
        self._open()
        vendors, customers = self._parties("vendor", 4 * size), self._parties("customer", 4 * size)
        for position, party in enumerate(vendors * 2):
            self._payable(party, paid=position == 1 or (position > 2 and self._rng.random() < 0.3))
        for position, party in enumerate(customers * 2):
            state = STATES[position] if position < len(STATES) else self._rng.choices(STATES, (3, 5, 2))[0]
            self._receivable(party, state)
        self._expenses(12 * size)
        self._budgets()
        self._approvals([vendor for position, vendor in enumerate(vendors) if not _changes_account(position)])
        for document in write_documents(self._rng, self._names, self._accounts):
            self._insert("documents", document.id, self._tenant, document.topic, document.text, document.fact)

    def _insert(self, table: str, *values: object) -> None:
        self._db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values))})", values)

    def _cents(self, low: int, high: int) -> int:
        """An amount between two whole ones; its cents are a quarter as often as anything."""
        return self._rng.randint(low, high) * 100 + self._rng.choice((0, 25, 50, 75, self._rng.randint(1, 99)))

    def _past(self, days: int) -> str:
        return (self._today - timedelta(days=self._rng.randint(1, days))).isoformat()

    def _due(self) -> str:
        return (self._today + timedelta(days=self._rng.randint(-20, 40))).isoformat()

    def _entry(self, when: str, memo: str, *lines: tuple[str, int]) -> None:
        """A posted entry; ``lines`` are (account name, cents) and sum to zero."""
        entry = self._names.number(100_000, 999_999, "JE-")
        self._insert("entries", entry, self._tenant, when, memo, "posted", self._people["accountant"])
        for number, (account, cents) in enumerate(lines, 1):
            self._insert("lines", entry, number, self._accounts[account], cents)

    def _open(self) -> None:
        operating, reserve = self._cents(60_000, 250_000), self._cents(20_000, 90_000)
        lines = (("Operating Bank", operating), ("Reserve Bank", reserve), ("Equity", -operating - reserve))
        self._entry((self._today - timedelta(days=100)).isoformat(), "Opening balances", *lines)

    def _parties(self, kind: str, count: int) -> list[str]:
        """Every second party has the first word of the one before it."""
        names: list[str] = []
        for position in range(count):
            name = self._names.sibling(names[-1]) if position % 2 else self._names.business()
            changed = self._past(9) if kind == "vendor" and _changes_account(position) else None
            self._insert("parties", name, self._tenant, kind, self._names.bank_account(), changed)
            names.append(name)
        return names

    def _payable(self, vendor: str, *, paid: bool) -> None:
        invoice, cents = self._names.number(10_000, 99_999, "INV-"), self._cents(120, 9_000)
        account = self._rng.choice([name for name, kind, *_ in ACCOUNTS if kind == "expense"])
        self._entry(self._past(60), f"Invoice {invoice}", (account, cents), ("Payables", -cents))
        if paid:
            when = self._past(20)
            self._entry(when, f"Payment {invoice}", ("Payables", cents), ("Operating Bank", -cents))
            self._line(when, -cents, vendor, invoice)
        self._insert("invoices", invoice, self._tenant, "payable", vendor, cents, self._due(), "paid" if paid else "open", "")

    def _receivable(self, customer: str, state: str) -> None:
        invoice, cents = self._names.number(10_000, 99_999, "RCV-"), self._cents(300, 18_000)
        self._entry(
            self._past(60), f"Sale {invoice}", ("Receivables", cents), (self._rng.choice(("Product Sales", "Service Sales")), -cents)
        )
        when = self._past(12)
        if state == "paid":
            self._entry(when, f"Receipt {invoice}", ("Operating Bank", cents), ("Receivables", -cents))
        if state != "open":
            self._line(when, cents, customer, invoice if state == "paid" else None)
        status = "paid" if state == "paid" else "open"
        self._insert("invoices", invoice, self._tenant, "receivable", customer, cents, self._due(), status, "")

    def _line(self, when: str, cents: int, party: str, invoice: str | None) -> None:
        line = self._names.number(10_000, 99_999, "BL-")
        self._insert("statement", line, self._tenant, self._accounts["Operating Bank"], when, cents, party, invoice)

    def _expenses(self, count: int) -> None:
        expenses = [name for name, kind, *_ in ACCOUNTS if kind == "expense"]
        for position in range(count):
            account, cents = expenses[position % len(expenses)], self._cents(40, 2_500)
            self._entry(self._past(60), account, (account, cents), ("Operating Bank", -cents))

    def _budgets(self) -> None:
        """Each department has spent between a third and all of its budget."""
        for department in DEPARTMENTS:
            used = self._db.execute(SPENT, (self._tenant, department)).fetchone()[0]
            budget = round(used * self._rng.uniform(1.02, 3.0) / 10_000 + 5) * 10_000
            self._insert("budgets", self._tenant, department, budget)

    def _approvals(self, vendors: list[str]) -> None:
        """One approval of each status, and one that its requester decided himself: worth nothing under four eyes."""
        treasurer, controller = self._people["treasurer"], self._people["controller"]
        for status, decided in (("approved", controller), ("pending", None), ("rejected", controller), ("approved", treasurer)):
            approval, cents = self._names.number(1000, 9999, "APR-"), self._cents(2_000, 80_000)
            self._insert("approvals", approval, self._tenant, self._rng.choice(vendors), cents, status, treasurer, decided)


def _changes_account(position: int) -> bool:
    """Whether the vendor at a position has a bank account that changed in the last days."""
    return position % 4 == 3
