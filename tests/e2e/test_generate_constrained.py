"""`posttrain generate` with --schema, --regex, --lark, --tools and --call on a tiny model."""

import json
import re

import pytest
from typer.testing import CliRunner

from posttrain.chat import template_text
from posttrain.cli.generate import app
from posttrain.errors import ConfigError
from posttrain.models.tiny import write_tiny_model

TEXTS = [f"the ledger of account {i} shows {i * 37} paid and {i * 11} owed" for i in range(60)]
TOOL = {"name": "get_balance", "parameters": {"type": "object", "properties": {"account": {"enum": ["A", "B"]}}, "required": ["account"]}}


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", TEXTS, seed=5, vocab_size=400, hidden=32, max_length=1024)
    return folder


@pytest.fixture(scope="session")
def tool_model(tmp_path_factory):
    folder = write_tiny_model(tmp_path_factory.mktemp("tiny") / "tools", TEXTS, seed=5, vocab_size=400, hidden=32, max_length=1024)
    (folder / "chat_template.jinja").write_text(template_text("chatml-tools"), encoding="utf-8")
    return folder


@pytest.fixture
def answer(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"account {i}"}) + "\n" for i in range(3)))

    def run(model, *options):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}.jsonl"
        arguments = ["--model", model, "--prompts", prompts, "--out", out, "--max-new-tokens", "80", "--temperature", "1", *options]
        CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
        return [json.loads(line)["text"] for line in out.read_text().splitlines()]

    return run


def test_answers_are_valid_under_the_schema_pattern_or_grammar_given(model, answer, tmp_path):
    schema, grammar = tmp_path / "schema.json", tmp_path / "grammar.lark"
    schema.write_text('{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false}')
    grammar.write_text('start: "paid " /[0-9]{2}/ ("!" | "?")')
    assert all(isinstance(json.loads(text)["ok"], bool) for text in answer(model, "--schema", schema))
    assert all(re.fullmatch("[a-z]{3}", text) for text in answer(model, "--regex", "[a-z]{3}"))
    assert all(re.fullmatch("paid [0-9]{2}[!?]", text) for text in answer(model, "--lark", grammar))


def test_calls_fit_the_tools_given(tool_model, answer, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([TOOL]))
    for text in answer(tool_model, "--tools", tools, "--call", "get_balance"):
        assert text in {f'<tool_call>\n{{"name": "get_balance", "arguments": {{"account": "{name}"}}}}\n</tool_call>' for name in "AB"}


def test_what_cannot_be_asked_is_said_before_the_model_answers(model, answer, tmp_path):
    schema = tmp_path / "schema.json"
    with pytest.raises(ConfigError, match=r"schema\.json: cannot be read"):
        answer(model, "--schema", schema)
    schema.write_text('{"type": "array", "uniqueItems": true}')
    with pytest.raises(ConfigError, match="keyword 'uniqueItems' is not supported"):
        answer(model, "--schema", schema)
    with pytest.raises(ConfigError, match="--schema and --regex exclude each other"):
        answer(model, "--schema", schema, "--regex", "a")
    with pytest.raises(ConfigError, match="the chat template prints no tool calls"):
        answer(model, "--call", "required")
