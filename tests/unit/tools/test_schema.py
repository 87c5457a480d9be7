import pytest

from posttrain.errors import ConfigError
from posttrain.tools import Tool, check_parameters


def schema(**properties):
    return {"type": "object", "properties": properties}


def nested(depth):
    return {"type": "array", "items": nested(depth - 1)} if depth else {"type": "string"}


BROKEN = {
    "no mapping": ([], "parameters must be a JSON Schema, found list"),
    "not an object": ({"type": "string"}, "parameters.type is 'string'"),
    "no type": ({"properties": {}}, "parameters.type is None"),
    "type of another language": (schema(amount={"type": "float"}), "parameters.properties.amount.type is 'float'"),
    "type in a list": (schema(a={"type": ["string", "int"]}), "parameters.properties.a.type is 'int'"),
    "type deep inside": (
        schema(lines={"type": "array", "items": schema(a={"anyOf": [{"type": "null"}, {"type": "dict"}]})}),
        "parameters.properties.lines.items.properties.a.anyOf.1.type is 'dict'",
    ),
    "bound that is text": (schema(a={"type": "integer", "minimum": "1"}), "parameters.properties.a.minimum: '1' is not of type 'number'"),
    "required that is no list": (schema(a={"type": "string"}) | {"required": "a"}, "parameters.required: 'a' is not of type 'array'"),
    "required not described": (
        schema(a={"type": "string"}) | {"required": ["b"]},
        "parameters.required names 'b', which is not among properties",
    ),
    "properties as a list": ({"type": "object", "properties": ["a"]}, "parameters.properties: ['a'] is not of type 'object'"),
    "pattern": (
        schema(a={"type": "string", "pattern": "(["}),
        "parameters.properties.a.pattern '([' cannot be used: error: unclosed character class",
    ),
    "pattern that looks around": (schema(a={"pattern": "(?!x)"}), "cannot be used: error: look-around"),
    "pattern that refers back": (schema(a={"pattern": r"(a)\1"}), "cannot be used: error: backreferences are not supported"),
    "patterns of names": (schema() | {"patternProperties": {"^x": {}}}, "parameters.patternProperties is not supported"),
    "dynamic reference": (schema(a={"$dynamicRef": "http://localhost:1/a.json"}), "parameters.properties.a.$dynamicRef is not supported"),
    "dialect that is no text": (schema() | {"$schema": ["2020-12"]}, "parameters.$schema is ['2020-12'], not a URI"),
    "reference to nowhere": (schema(a={"$ref": "#/$defs/A"}), "parameters.properties.a.$ref '/$defs/A' leads nowhere"),
    "reference to the web": (
        schema(a={"$ref": "http://localhost:1/a.json"}),
        "parameters.properties.a.$ref is 'http://localhost:1/a.json'",
    ),
    "reference to itself": (schema(a={"$ref": "#/properties/a"}), "parameters.properties.a.$ref leads back to itself"),
    "references that multiply": (
        schema(a={"$ref": "#/$defs/L0"})
        | {"$defs": {f"L{n}": {"allOf": [{"$ref": f"#/$defs/L{n + 1}"}] * 2} for n in range(40)} | {"L40": {}}},
        "schemas with each $ref written out",
    ),
    "a chain of references": (
        schema(a={"$ref": "#/$defs/0"}) | {"$defs": {f"{n}": {"$ref": f"#/$defs/{n + 1}"} for n in range(1500)} | {"1500": {}}},
        "schemas with each $ref written out",
    ),
    "named references that multiply": (
        schema(a={"$ref": "#L0"})
        | {"$defs": {f"L{n}": {"$anchor": f"L{n}", "allOf": [{"$ref": f"#L{n + 1}"}] * 2} for n in range(14)} | {"x": {"$anchor": "L14"}}},
        "schemas with each $ref written out",
    ),
    "too deep": (schema(a=nested(200)), "is nested more than 64 deep"),
    "too long": (schema(a={"type": "string", "description": "x" * 70_000}), "characters of JSON"),
    "not JSON": (schema(a={"type": "string", "enum": {1, 2}}), "parameters are not plain JSON"),
    "not finite": (schema(a={"type": "number", "maximum": float("inf")}), "parameters are not plain JSON"),
    "not UTF-8": (schema(a={"type": "string", "description": "\ud800"}), "characters that UTF-8 cannot write"),
}


@pytest.mark.parametrize(("parameters", "said"), BROKEN.values(), ids=BROKEN)
def test_an_invalid_schema_gets_one_message_that_names_tool_and_place(parameters, said):
    with pytest.raises(ConfigError) as caught:
        Tool("post", "Post.", parameters)
    assert caught.value.message.startswith("tool 'post': ")
    assert said in caught.value.message
    assert caught.value.hint


def test_the_type_that_was_meant_is_suggested():
    with pytest.raises(ConfigError, match="did you mean 'number'"):
        check_parameters(schema(amount={"type": "float"}), "tool 'x'")


def test_words_of_the_schema_language_may_be_names_of_arguments_and_values():
    names = {name: {"type": "string"} for name in ("type", "$ref", "pattern", "required", "enum", "properties", "default")}
    check_parameters({"type": "object", "properties": names, "required": ["type", "$ref"]}, "tool 'x'")
    check_parameters(schema(a={"enum": [{"type": "float", "$ref": "nowhere", "pattern": "("}]}), "tool 'x'")


def test_a_schema_that_contains_itself_with_an_end_is_accepted():
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
    check_parameters({"type": "object", "properties": {"tree": {"$ref": "#/$defs/tree"}}, "$defs": {"tree": tree}}, "tool 'x'")


def test_what_was_checked_stays_what_it_is():
    parameters = schema(amount={"type": "number"})
    tool = Tool("post", "Post.", parameters)
    before = tool.version
    parameters["properties"]["amount"]["type"] = "string"
    assert tool.version == before
    assert tool.parameters["properties"]["amount"] == {"type": "number"}


@pytest.mark.parametrize("name", ["", "1st", "with space", "semi;colon", "x" * 129, "line\nbreak", None])
def test_a_name_that_cannot_be_called_is_refused(name):
    with pytest.raises(ConfigError, match="tool name"):
        Tool(name, "", schema())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cost": -1}, "cost is -1"),
        ({"cost": float("nan")}, "cost is nan"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0"),
        ({"timeout_seconds": "10"}, "timeout_seconds is '10'"),
        ({"retries": -1}, "retries is -1"),
        ({"max_result_chars": 5}, "max_result_chars is 5"),
        ({"action": True, "retries": 2}, "an action has retries=2"),
        ({"timeout_seconds": 1e12}, "timeout_seconds is 1000000000000.0"),
        ({"retries": 1.5}, "retries is 1.5"),
        ({"max_result_chars": 200.5}, "max_result_chars is 200.5"),
        ({"action": "no"}, "action is 'no'"),
        ({"roles": "clerk"}, "roles is one string"),
        ({"roles": 5}, "roles is 5"),
        ({"tenants": ["bank_A", 5]}, "tenants is "),
        ({"function": lambda: 1, "isolate": True}, "isolate needs a function at the top level of a module"),
        ({"description": "\ud800"}, "UTF-8 text"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        Tool(**({"name": "x", "description": "", "parameters": schema()} | settings))
