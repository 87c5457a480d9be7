from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from posttrain.errors import ConfigError
from posttrain.records import ToolCall
from posttrain.tools import Caller, Tool, Toolbox, tool


class Currency(Enum):
    EUR = "EUR"
    USD = "USD"


class Line(BaseModel):
    account: str
    amount: float = Field(gt=0, description="in units of the currency")


class Node(BaseModel):
    name: str
    children: "list[Node]" = []


def call(made, **arguments):
    return Toolbox([made], caller=Caller("clerk", "bank_A")).call(ToolCall(made.name, arguments))


def test_hints_defaults_and_docstring_become_the_schema():
    @tool
    def post_entry(
        day: date,
        lines: list[Line],
        kind: Literal["manual", "import"] = "manual",
        currency: Currency = Currency.EUR,
        limit: Annotated[int, Field(ge=1, le=100)] = 10,
        note: str | None = None,
    ) -> dict:
        """Post a journal entry.

        Debits must equal credits.

        Args:
            day: the day it counts for
            lines: one line an account,
                debits positive
        """

    assert post_entry.signature == {
        "type": "function",
        "function": {
            "name": "post_entry",
            "description": "Post a journal entry.\nDebits must equal credits.",
            "parameters": {
                "type": "object",
                "properties": {
                    "day": {"type": "string", "format": "date", "description": "the day it counts for"},
                    "lines": {
                        "type": "array",
                        "description": "one line an account, debits positive",
                        "items": {
                            "type": "object",
                            "properties": {
                                "account": {"type": "string"},
                                "amount": {"type": "number", "exclusiveMinimum": 0, "description": "in units of the currency"},
                            },
                            "required": ["account", "amount"],
                        },
                    },
                    "kind": {"type": "string", "enum": ["manual", "import"], "default": "manual"},
                    "currency": {"type": "string", "enum": ["EUR", "USD"], "default": "EUR"},
                    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 10},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                },
                "required": ["day", "lines"],
                "additionalProperties": False,
            },
        },
    }


def test_the_function_receives_the_types_of_its_hints_and_its_own_defaults():
    seen = {}

    @tool
    def post(day: date, lines: list[Line], amount: Decimal, currency: Currency = Currency.USD) -> str:
        """Post."""
        seen.update(locals())
        return "ok"

    result = call(post, day="2025-03-01", lines=[{"account": "1000", "amount": 5}], amount="12.50")
    assert result.content == "ok"
    assert seen["day"] == date(2025, 3, 1)
    assert seen["lines"] == [Line(account="1000", amount=5.0)]
    assert seen["amount"] == Decimal("12.50")
    assert seen["currency"] is Currency.USD


def test_a_model_that_contains_itself_keeps_its_reference_and_works():
    @tool
    def count(tree: Node) -> int:
        """Count nodes."""
        return 1 + len(tree.children)

    assert count.parameters["properties"]["tree"] == {"$ref": "#/$defs/Node"}
    assert call(count, tree={"name": "a", "children": [{"name": "b"}]}).content == "2"
    wrong = call(count, tree={"name": "a", "children": [{"nome": "b"}]})
    assert "tree.children.0.name is missing; expected string" in wrong.content


def test_the_caller_is_given_by_the_program_and_not_shown_to_the_model():
    @tool
    def whoami(caller: Caller) -> str:
        """Say who calls."""
        return f"{caller.role} of {caller.tenant}"

    assert whoami.parameters["properties"] == {}
    assert call(whoami).content == "clerk of bank_A"
    forged = call(whoami, caller={"role": "treasurer", "tenant": "retail_B"})
    assert forged.status == "invalid_arguments"
    assert "caller is not an argument" in forged.content


def test_any_argument_name_works_also_those_pydantic_uses_itself():
    @tool
    def odd(schema: str, json: str, model_config: str, copy: str, self: str) -> str:
        """Names that collide."""
        return schema + json + model_config + copy + self

    assert call(odd, schema="a", json="b", model_config="c", copy="d", self="e").content == "abcde"


@pytest.mark.parametrize("hint", [Caller | None, Annotated[Caller, "who"], list[Caller]])
def test_who_calls_is_never_an_argument_of_the_model(hint):
    def whoami(text: str, caller: hint = None) -> str:
        """Who."""
        return text

    with pytest.raises(ConfigError, match=r"parameter 'caller' is .*Caller"):
        tool(whoami)


def test_a_second_caller_is_refused():
    def both(one: Caller, two: Caller) -> str:
        """Who."""
        return one.role + two.role

    with pytest.raises(ConfigError, match="parameter 'two'"):
        tool(both)


def test_an_async_function_is_awaited():
    @tool
    async def later(text: str) -> str:
        """Say it later."""
        return text.upper()

    assert call(later, text="hello").content == "HELLO"


def test_options_are_the_fields_of_tool():
    @tool(name="move", description="Move money.", action=True, roles=("treasurer",), cost=2)
    def transfer(amount: float) -> str:
        return "done"

    assert (transfer.name, transfer.description, transfer.action, transfer.roles, transfer.cost) == (
        "move",
        "Move money.",
        True,
        ("treasurer",),
        2,
    )
    assert isinstance(tool(lambda: 1, name="one"), Tool)


def missing_hint(amount):
    """No hint."""


def starred(*amounts: int):
    """Any number."""


def no_json_form(callback: type(lambda: 1)):
    """A function as argument."""


def unknown_hint(amount: "Dollars"):  # noqa: F821
    """A name that is nowhere."""


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (missing_hint, "parameter 'amount' has no type hint"),
        (starred, r"parameter '\*amounts: int' cannot be given by name"),
        (no_json_form, "a type hint has no JSON form"),
        (unknown_hint, "type hints cannot be read: name 'Dollars' is not defined"),
    ],
)
def test_a_function_that_cannot_be_described_is_refused_by_name(function, said):
    with pytest.raises(ConfigError, match=said) as caught:
        tool(function)
    assert f"tool '{function.__name__}'" in str(caught.value)


def test_an_option_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="unexpected keyword argument 'role'"):
        tool(lambda: 1, name="x", role="clerk")
