import json
from pathlib import Path

import pytest

from posttrain.errors import ConfigError
from posttrain.tools import load_tools

SAMPLE = Path(__file__).with_name("sample_tools.py")
PARAMETERS = {"type": "object", "properties": {"account": {"type": "string"}}, "required": ["account"]}
FORMS = {
    "openai": {"type": "function", "function": {"name": "balance", "description": "Balance.", "parameters": PARAMETERS, "strict": True}},
    "responses": {"type": "function", "name": "balance", "description": "Balance.", "parameters": PARAMETERS},
    "bare": {"name": "balance", "description": "Balance.", "parameters": PARAMETERS},
    "mcp": {
        "name": "balance",
        "title": "Balance",
        "description": "Balance.",
        "inputSchema": PARAMETERS,
        "annotations": {"readOnlyHint": True},
    },
    "input_schema": {"name": "balance", "description": "Balance.", "input_schema": PARAMETERS},
}


def written(tmp_path, value, name="tools.json"):
    file = tmp_path / name
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


@pytest.mark.parametrize("entry", FORMS.values(), ids=FORMS)
def test_every_form_of_signature_is_the_same_tool(tmp_path, entry):
    (tool,) = load_tools(written(tmp_path, [entry]))
    assert tool.signature == {"type": "function", "function": {"name": "balance", "description": "Balance.", "parameters": PARAMETERS}}
    assert tool.version == load_tools(written(tmp_path, [FORMS["bare"]], "other.json"))[0].version


@pytest.mark.parametrize(
    "wrap", [lambda e: [e], lambda e: e, lambda e: {"tools": [e]}, lambda e: {"jsonrpc": "2.0", "id": 1, "result": {"tools": [e]}}]
)
def test_a_list_an_object_and_a_listing_as_it_came_over_the_wire_are_read(tmp_path, wrap):
    assert [tool.name for tool in load_tools(written(tmp_path, wrap(FORMS["mcp"])))] == ["balance"]


def test_yaml_carries_the_contract_beside_the_signature(tmp_path):
    text = """
tools:
  - name: transfer
    description: Move money.
    parameters: {type: object, properties: {amount: {type: number, exclusiveMinimum: 0}}, required: [amount]}
    action: true
    roles: [treasurer]
    tenants: [bank_A]
    cost: 0.5
    timeout_seconds: 3
    declared_version: "2"
  - {name: today, description: The date.}
"""
    transfer, today = load_tools(written(tmp_path, text, "tools.yaml"))
    assert (transfer.action, transfer.cost, transfer.timeout_seconds, transfer.declared_version) == (True, 0.5, 3, "2")
    assert transfer.permits("treasurer", "bank_A")
    assert not transfer.permits("clerk", "bank_A")
    assert not transfer.permits("treasurer", "retail_B")
    assert today.parameters == {"type": "object", "properties": {}}


def test_a_python_file_gives_its_decorated_functions_in_order():
    assert [tool.name for tool in load_tools(SAMPLE)] == ["add", "transfer", "who", "crash", "decline", "hang_with_child"]


BROKEN = {
    "json": ("tools.json", "[{", "not valid JSON: .*line 1"),
    "yaml": ("tools.yaml", "- {name: [", "not valid YAML"),
    "text": ("tools.json", '"balance"', "expected a list of tools, found str"),
    "empty": ("tools.json", "[]", "expected a list of tools, found an empty list"),
    "null": ("tools.yaml", "", "expected a list of tools, found NoneType"),
    "entry": ("tools.json", "[5]", r"tools\[0\] is int, not a mapping"),
    "name": ("tools.json", '[{"description": "x"}]', r"tools\[0\] has no name"),
    "schema": (
        "tools.json",
        '[{"name": "a"}, {"name": "b", "parameters": {"type": "object", "properties": {"x": {"type": "dict"}}}}]',
        r"tools\[1\]: tool 'b': parameters.properties.x.type is 'dict'",
    ),
    "two schemas": ("tools.json", '[{"name": "a", "parameters": {}, "inputSchema": {}}]', "has both parameters and inputSchema"),
    "twice": ("tools.json", '[{"name": "a"}, {"name": "a"}]', "two tools are called 'a'"),
    "unknown key": ("tools.json", '[{"name": "a", "role": ["x"]}]', r"\(a\): unknown key 'role'"),
    "suffix": ("tools.txt", "", "no tools are read from '.txt' files"),
    "python": ("tools.py", "x = 1\nprint(y)\n", r"tools.py:2: NameError: name 'y' is not defined"),
    "script": ("tools.py", "import sys\nsys.exit(0)\n", r"tools.py:2: SystemExit: 0"),
    "syntax": ("tools.py", "x = 1\ndef (:\n", r"tools.py:2: SyntaxError"),
    "no tools": ("tools.py", "def f(): pass\n", "holds no tools"),
    "broken tool": ("tools.py", "from posttrain.tools import tool\n@tool\ndef f(x): pass\n", "tool 'f': parameter 'x' has no type hint"),
}


@pytest.mark.parametrize(("name", "text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_gets_one_message_with_file_and_place(tmp_path, name, text, said):
    file = written(tmp_path, text, name)
    with pytest.raises(ConfigError, match=said) as caught:
        load_tools(file)
    assert str(file) in caught.value.message


@pytest.mark.parametrize("name", ["none.json", "none.py"])
def test_a_missing_file_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name}: no such file"):
        load_tools(tmp_path / name)
