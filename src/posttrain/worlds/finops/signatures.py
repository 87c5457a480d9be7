"""What a model sees of the tools, kept short because every request pays for it, and which role may call which."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.errors import suggest
from posttrain.tools import InvalidArguments, Tool
from posttrain.worlds.finops.desk import Desk

TEXT = {"type": "string"}
DATE = {"type": "string", "format": "date"}
AMOUNT = {"type": "number"}
REASONS = ("over_limit", "not_approved", "over_budget", "suspicious")


@dataclass(frozen=True, slots=True)
class Contract:
    """A tool without its function. ``required`` are its first arguments; ``roles`` may call it."""

    description: str
    properties: Mapping[str, Any]
    required: int
    roles: tuple[str, ...]
    action: bool = False


EVERYBODY = ("analyst", "accountant", "treasurer", "controller")
CONTRACTS: Mapping[str, Contract] = {
    "get_balance": Contract("Balance of an account, by number.", {"account": TEXT}, 1, EVERYBODY),
    "budget_status": Contract("Budget of a department: spent and left.", {"department": TEXT}, 1, EVERYBODY),
    "query_ledger": Contract(
        "Posted lines of an account.", {"account": TEXT, "since": DATE, "until": DATE}, 1, ("analyst", "accountant", "controller")
    ),
    "list_payables": Contract("Open invoices we owe a vendor.", {"vendor": TEXT}, 1, ("analyst", "treasurer", "controller")),
    "list_receivables": Contract("Open invoices a customer owes us.", {"customer": TEXT}, 1, ("analyst", "accountant", "controller")),
    "get_approval_status": Contract("Status of an approval.", {"approval": TEXT}, 1, ("analyst", "treasurer", "controller")),
    "list_bank_lines": Contract("Bank lines without an invoice.", {"party": TEXT}, 0, ("accountant",)),
    "match_bank_line": Contract("Settle a receivable with a bank line.", {"line": TEXT, "invoice": TEXT}, 2, ("accountant",), action=True),
    "propose_journal_entry": Contract(
        "Propose an entry. Debits positive, credits negative, sum zero.",
        {
            "date": DATE,
            "lines": {
                "type": "array",
                "items": {"type": "object", "properties": {"account": TEXT, "amount": AMOUNT}, "required": ["account", "amount"]},
            },
        },
        2,
        ("accountant", "controller"),
        action=True,
    ),
    "request_transfer": Contract(
        "Transfer money from a bank account.",
        {"from_account": TEXT, "to_account": TEXT, "amount": AMOUNT, "date": DATE, "approval": TEXT},
        4,
        ("treasurer", "controller"),
        action=True,
    ),
    "escalate": Contract(
        "Hand a matter to the controller.",
        {"reason": {"type": "string", "enum": list(REASONS)}, "reference": TEXT},
        2,
        ("accountant", "treasurer", "controller"),
        action=True,
    ),
}
ACTIONS = tuple(name for name, contract in CONTRACTS.items() if contract.action)


SEARCH = "search_policy"
SEARCH_DESCRIPTION = "Search the policy documents."


def allowed(role: str) -> tuple[str, ...]:
    """The tools a role may call."""
    return (*(name for name, contract in CONTRACTS.items() if role in contract.roles), SEARCH)


def build_tool(name: str, desk: Desk) -> Tool:
    """The tool called ``name`` at a desk. Arguments it does not have are refused by name, without the signature's saying so each time."""
    contract = CONTRACTS[name]
    required = list(contract.properties)[: contract.required]
    parameters = {"type": "object", "properties": dict(contract.properties), **({"required": required} if required else {})}
    return Tool(
        name,
        contract.description,
        parameters,
        _strict(getattr(desk, name), contract.properties),
        action=contract.action,
        roles=contract.roles,
    )


def _strict(function: Callable[..., Any], properties: Mapping[str, Any]) -> Callable[..., Any]:
    def call(**arguments: Any) -> Any:
        unknown = [name for name in arguments if name not in properties]
        if unknown:
            raise InvalidArguments([f"{name[:80]} is not an argument; {suggest(name, properties)}" for name in unknown])
        return function(**arguments)

    return call
