"""Every answer that comes to an end under a schema is valid under it: the whole set of schemas, and the functions of BFCL."""

import json

import jsonschema
import pytest
from constrained import FIXTURES, make_contract, make_generator, supported_schemas

from posttrain.data.bfcl import read_bfcl
from posttrain.errors import ConfigError
from posttrain.generation.constraint import build_constraint
from posttrain.records import Constraint, GenerationRequest, SamplingSettings

SAMPLES, LENGTH = 3, 120


@pytest.fixture(scope="module")
def generator():
    return make_generator(make_contract(), seed=3)


def ask(constraint, seed, tools=()):
    sampling = SamplingSettings(max_new_tokens=LENGTH, temperature=1.0, seed=seed)
    return GenerationRequest((), tools, sampling, prompt_ids=(3, 1, 4, 1, 5), constraint=constraint)


def is_valid(schema, value):
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    return kind(schema, format_checker=kind.FORMAT_CHECKER).is_valid(value)


def test_the_set_has_at_least_two_hundred_schemas_of_every_enforced_keyword():
    from posttrain.generation.constraint.schema import ENFORCED

    text = "".join(json.dumps(schema) for schema in supported_schemas())
    assert len(supported_schemas()) + len(bfcl_tools()) >= 200
    assert [key for key in ENFORCED if f'"{key}"' not in text] == []


def test_all_answers_that_end_are_valid_under_their_schema_and_the_others_are_reported_as_cut(generator):
    schemas = supported_schemas()
    requests = [ask(Constraint("json_schema", schema), seed) for schema in schemas for seed in range(SAMPLES)]
    answers = generator.generate(requests)
    ended = dict.fromkeys(range(len(schemas)), 0)
    for i, answer in enumerate(answers):
        schema = schemas[i // SAMPLES]
        if answer.finish_reason == "stop":
            ended[i // SAMPLES] += 1
            assert is_valid(schema, json.loads(answer.text)), (schema, answer.text)
        else:
            assert (answer.finish_reason, answer.num_completion_tokens) == ("length", LENGTH)
    never = [schemas[i] for i, count in ended.items() if not count]
    assert len(never) <= len(schemas) * 0.1, never


def bfcl_tools():
    rows = [
        *read_bfcl(FIXTURES / "data/bfcl/BFCL_v4_multiple.json")[:40],
        *read_bfcl(FIXTURES / "data/bfcl/BFCL_v4_simple_python.json")[:40],
    ]
    return {tool["function"]["name"] if "function" in tool else tool["name"]: tool for row in rows for tool in row.tools}


def test_calls_of_bfcl_functions_that_end_are_read_without_error_and_fit_their_signature(generator):
    tools = list(bfcl_tools().values())
    groups = [tuple(tools[i : i + 3]) for i in range(0, len(tools), 3)]
    answers = generator.generate([ask(Constraint("tool_calls", "required"), i, group) for i, group in enumerate(groups)])
    ended = 0
    for group, answer in zip(groups, answers, strict=True):
        turn = generator.contract.parse_turn(answer.token_ids)
        functions = {tool.get("function", tool)["name"]: tool.get("function", tool) for tool in group}
        if answer.finish_reason == "stop":
            ended += 1
            assert (turn.errors, turn.content) == ((), "")
            assert turn.calls
        for call in turn.calls:
            assert is_valid(functions[call.name]["parameters"], dict(call.arguments))
    assert ended >= len(groups) / 2


UNSUPPORTED = [
    ({"type": "array", "uniqueItems": True}, "$: keyword 'uniqueItems' is not supported\n  -> leave it out, and check"),
    ({"not": {"type": "string"}}, "$: keyword 'not'"),
    ({"if": {"type": "string"}, "then": {"minLength": 2}}, "$: keyword 'if'"),
    ({"type": "object", "properties": {"a": {"contains": {"const": 1}}}}, "$.properties.a: keyword 'contains'"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "keyword 'dependentRequired'"),
    ({"type": "object", "dependentSchemas": {"a": {}}}, "keyword 'dependentSchemas'"),
    ({"type": "object", "propertyNames": {"maxLength": 3}}, "keyword 'propertyNames'"),
    ({"anyOf": [{"type": "object", "unevaluatedProperties": False}]}, "$.anyOf[0]: keyword 'unevaluatedProperties'"),
    ({"type": "array", "items": {"unevaluatedItems": False}}, "$.items: keyword 'unevaluatedItems'"),
    ({"$defs": {"a": {"$dynamicRef": "#x"}}}, "$.$defs.a: keyword '$dynamicRef'"),
    ({"type": "string", "minLenght": 3}, "keyword 'minLenght' is not supported\n  -> did you mean 'minLength'?"),
    ({"type": "string", "x-guidance": {"lenient": True}}, "keyword 'x-guidance'"),
    ({"type": "object", "minProperties": 2, "additionalProperties": {"type": "integer"}}, "keyword 'minProperties'"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "oneOf"),
    ({"type": "string", "format": "colour"}, "Unknown format: colour"),
    ({"type": "string", "pattern": "^(?=a)b"}, "look-ahead"),
    ({"$ref": "http://example.com/schema"}, "example.com"),
    ({"type": "dict"}, "$: type 'dict' is unknown\n  -> types are string, integer, number, boolean, null, array, object"),
    ({"type": ["string", "float"]}, "type 'float' is unknown"),
    ({"type": "string", "minLength": -1}, "-1 is less than the minimum of 0"),
    ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, "True is not of type 'number'"),
    ({"type": "string", "minLength": 5, "maxLength": 4}, "Unsatisfiable schema"),
    ({"type": "object", "properties": ["a"]}, "$.properties"),
    ('{"type": ', "the schema is no JSON"),
    ("[]", "a JSON Schema is an object, not list"),
    ({"const": {1, 2}}, "it is no JSON"),
]


@pytest.mark.parametrize(("schema", "message"), UNSUPPORTED, ids=[message[:40] for _, message in UNSUPPORTED])
def test_what_cannot_be_enforced_is_refused_before_anything_is_generated(generator, schema, message):
    with pytest.raises(ConfigError) as error:
        generator.generate([ask(Constraint("json_schema", schema), 0)])
    assert message in str(error.value)
    with pytest.raises(ConfigError) as error:
        build_constraint(Constraint("json_schema", schema), (), generator.contract, generator.model.config.vocab_size)
    assert message in str(error.value)
