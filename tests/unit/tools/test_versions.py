import json
from dataclasses import replace

import pytest

from posttrain.errors import CheckFailed, DataError
from posttrain.tools import Caller, Tool, Toolbox, check_versions, read_record, record_of, tool_changes

PARAMETERS = {"type": "object", "properties": {"amount": {"type": "number"}}, "required": ["amount"]}
TRANSFER = Tool("transfer", "Move money.", PARAMETERS, action=True, roles=("treasurer", "cfo"))
BALANCE = Tool("balance", "Balance.", {"type": "object", "properties": {}})


@pytest.mark.parametrize(
    "change",
    [
        {"name": "move"},
        {"description": "Move money!"},
        {"parameters": PARAMETERS | {"required": []}},
        {"declared_version": "2"},
        {"action": False},
        {"roles": None},
        {"tenants": ("bank_A",)},
        {"cost": 1.0},
        {"timeout_seconds": 11.0},
        {"max_result_chars": 4001},
    ],
)
def test_whatever_changes_what_a_tool_is_or_does_changes_its_version(change):
    assert replace(TRANSFER, **change).version != TRANSFER.version


@pytest.mark.parametrize(
    "same",
    [{"function": print}, {"roles": ["cfo", "treasurer"]}, {"timeout_seconds": 10}, {"parameters": dict(reversed(PARAMETERS.items()))}],
)
def test_what_changes_nothing_does_not(same):
    assert replace(TRANSFER, **same).version == TRANSFER.version


def test_the_version_of_a_toolbox_is_over_all_tools_whatever_their_order_or_the_caller():
    def version(*tools, role="clerk"):
        return Toolbox(tools, caller=Caller(role, "bank_A")).version

    assert version(TRANSFER, BALANCE) == version(BALANCE, TRANSFER, role="treasurer")
    assert version(TRANSFER) != version(TRANSFER, BALANCE)
    assert version(replace(TRANSFER, cost=1)) != version(TRANSFER)


def test_a_change_is_told_as_a_diff_of_the_contract():
    recorded = json.loads(json.dumps(record_of([TRANSFER, BALANCE])))
    parameters = {"type": "object", "properties": {"amount": {"type": "string"}, "to": {"type": "string"}}, "required": ["amount"]}
    now = [replace(TRANSFER, parameters=parameters, roles=None), Tool("report", "Report.", {"type": "object", "properties": {}})]
    old, new = TRANSFER.version[:19], now[0].version[:19]
    assert tool_changes(recorded, now) == [
        "balance: recorded, no longer there",
        "report: not recorded, new",
        f"transfer: version {old} -> {new}",
        '  signature.function.parameters.properties.amount.type: "number" -> "string"',
        '  signature.function.parameters.properties.to: (absent) -> {"type": "string"}',
        '  roles: ["cfo", "treasurer"] -> null',
    ]
    assert tool_changes(recorded, [BALANCE, TRANSFER]) == []


def test_a_toolbox_checks_itself_against_what_was_recorded():
    recorded = Toolbox([TRANSFER], caller=Caller("a", "b")).record()
    Toolbox([replace(TRANSFER)], caller=Caller("c", "d")).check_versions(recorded)
    with pytest.raises(CheckFailed, match=r'description: "Move money\." -> "Move it\."'):
        Toolbox([replace(TRANSFER, description="Move it.")], caller=Caller("a", "b")).check_versions(recorded)


def test_versions_alone_say_which_but_not_how():
    recorded = {"tools": {"transfer": TRANSFER.version}}
    check_versions(recorded, [TRANSFER])
    (line,) = tool_changes(recorded, [replace(TRANSFER, cost=9)])
    assert line.startswith("transfer: version ")


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    file = tmp_path / "record.json"
    file.write_text(text)
    with pytest.raises(DataError, match="not a record of tools"):
        read_record(file)
    with pytest.raises(DataError, match="no such file"):
        read_record(tmp_path / "none.json")
    with pytest.raises(DataError, match="has no 'tools'"):
        tool_changes({}, [])
