"""Constraints of every kind: what may follow, what must, when a turn may end, and what is refused."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from constrained import make_contract, make_generator, walk

sys.path.insert(0, str(Path(__file__).parents[1] / "chat"))
from families import WITH_TOOLS, contract, tokenizer

from posttrain.chat import ChatContract, template_text
from posttrain.errors import ConfigError
from posttrain.generation.constraint import build_constraint
from posttrain.records import Constraint, GenerationRequest, SamplingSettings

SHIPPED = ChatContract(tokenizer("smollm2"), template_text("chatml-tools"))
FORMATS = [*WITH_TOOLS, "chatml-tools"]
BALANCE = {
    "name": "get_balance",
    "parameters": {"type": "object", "properties": {"account": {"type": "string", "maxLength": 6}}, "required": ["account"]},
}
BOOK = {
    "name": "book.entry-2",
    "parameters": {
        "type": "object",
        "properties": {"side": {"enum": ["debit", "credit"]}, "lines": {"type": "array", "items": {"type": "integer"}, "maxItems": 2}},
        "required": ["side"],
    },
}
NOW = {"name": "now"}
TOOLS = tuple({"type": "function", "function": function} for function in (BALANCE, BOOK, NOW))
SEEDS = range(8)


def of(name):
    return SHIPPED if name == "chatml-tools" else contract(name)


def build(constraint, chat=SHIPPED, tools=TOOLS):
    return build_constraint(constraint, tools, chat, chat.backend.get_vocab_size())


def turns(name, choice):
    """Turns that ended, of random walks under a tool-call constraint."""
    chat = of(name)
    runs = [walk(build(Constraint("tool_calls", choice), chat), chat, seed) for seed in SEEDS]
    found = [chat.parse_turn(ids) for ids in runs if ids[-1] in chat.eos_token_ids]
    assert len(found) >= len(SEEDS) / 2
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_required_gives_calls_that_are_read_without_error_and_fit_their_signatures(name):
    for turn in turns(name, "required"):
        assert (turn.content, turn.errors) == ("", ())
        assert turn.calls
        for call in turn.calls:
            if call.name == "get_balance":
                assert list(call.arguments) == ["account"]
                assert len(call.arguments["account"]) <= 6
            elif call.name == "book.entry-2":
                assert call.arguments["side"] in ("debit", "credit")
                assert set(call.arguments) <= {"side", "lines"}
            else:
                assert (call.name, dict(call.arguments)) == ("now", {})


@pytest.mark.parametrize("name", FORMATS)
def test_a_named_tool_is_called_once_and_no_other(name):
    for turn in turns(name, "book.entry-2"):
        assert [call.name for call in turn.calls] == ["book.entry-2"]
        assert turn.errors == ()


@pytest.mark.parametrize("name", FORMATS)
def test_none_gives_text_that_holds_no_call(name):
    for turn in turns(name, "none"):
        assert (turn.calls, turn.errors) == ((), ())


@pytest.mark.parametrize("name", FORMATS)
def test_auto_takes_text_and_calls_alike_and_nothing_half_called(name):
    chat = of(name)
    form = chat.call_format
    opening = form.lead + form.literals[0]
    for turn in turns(name, "auto"):
        assert turn.errors == ()
    for text, allowed in {
        "It is 25.5.": True,
        f"{opening}get_balance": True,
        f"{opening}get_balances": False,
        f"Look:\n{opening}now": form.with_content or not form.marker,
    }.items():
        constraint = build(Constraint("tool_calls", "auto"), chat)
        assert accepts(constraint, chat, text) == allowed, text


@pytest.mark.parametrize("name", [name for name in FORMATS if of(name).call_format.marker])
@pytest.mark.parametrize("choice", ["auto", "none"])
def test_what_begins_a_call_cannot_be_spelt_with_ordinary_tokens(name, choice):
    chat = of(name)
    constraint = build(Constraint("tool_calls", choice), chat)
    if name == "mistral":
        spelt = [[chat.backend.token_to_id(f"<0x{ord(letter):02X}>")] for letter in chat.call_format.marker]
    else:
        spelt = [chat.backend.encode(letter, add_special_tokens=False).ids for letter in chat.call_format.marker]
    *front, last = [token for ids in spelt for token in ids]
    for token in front:
        constraint.push(token)
    logits = torch.zeros(chat.backend.get_vocab_size())
    constraint.mask(logits)
    assert (logits[last] == 0) == (choice == "auto" and chat is SHIPPED)  # there it is written with ordinary tokens


def accepts(constraint, chat, text) -> bool:
    """Whether the tokens of ``text`` may be generated one after the other."""
    for token in chat.backend.encode(text, add_special_tokens=False).ids:
        logits = torch.zeros(chat.backend.get_vocab_size())
        constraint.mask(logits)
        if logits[token] != 0:
            return False
        constraint.push(token)
    return True


def test_after_the_opening_of_a_call_the_rest_is_forced_token_by_token_as_training_writes_it():
    constraint = build(Constraint("tool_calls", "get_balance"))
    assert SHIPPED.decode(constraint.forced()) == '<tool_call>\n{"name": "get_balance", "arguments": {"account":'
    whole = '<tool_call>\n{"name": "get_balance", "arguments": {"account": "A-17"}}\n</tool_call>'
    free = build(Constraint("tool_calls", "auto"))
    ids = SHIPPED.backend.encode(whole, add_special_tokens=False).ids
    assert accepts(free, SHIPPED, whole)
    opened = build(Constraint("tool_calls", "required"))
    for token in ids[: len(SHIPPED.backend.encode('<tool_call>\n{"name": "get').ids)]:
        opened.push(token)
    forced = opened.forced()
    assert ids[len(ids) - len(ids) + len(SHIPPED.backend.encode('<tool_call>\n{"name": "get').ids) :][: len(forced)] == forced
    assert len(forced) > 5


@pytest.mark.parametrize(
    ("constraint", "is_right"),
    [
        (Constraint("regex", r"[A-Z]{2}-\d{1,3}( ok)?"), lambda text: re.fullmatch(r"[A-Z]{2}-\d{1,3}( ok)?", text)),
        (
            Constraint("lark", 'start: "sum " INT ("+" INT)*\nINT: /[0-9]{1,2}/'),
            lambda text: re.fullmatch(r"sum \d{1,2}(\+\d{1,2})*", text),
        ),
        (
            Constraint("json_schema", '{"type": "array", "items": {"type": "boolean"}}'),
            lambda text: {type(x) for x in json.loads(text)} <= {bool},
        ),
    ],
)
def test_an_answer_may_end_wherever_the_grammar_may_and_nowhere_else(constraint, is_right):
    [end] = SHIPPED.eos_token_ids
    for seed in SEEDS:
        matched = build(constraint)
        ids = walk(matched, SHIPPED, seed)
        replay = build(constraint)
        for place, token in enumerate(ids):
            logits = torch.zeros(SHIPPED.backend.get_vocab_size())
            replay.mask(logits)
            text = SHIPPED.decode(ids[:place])
            try:
                complete = bool(is_right(text))
            except ValueError:
                complete = False
            assert (logits[end] == 0) == complete, text
            if replay.is_finished:
                assert torch.isfinite(logits).nonzero().flatten().tolist() == [end]
            if token != end:
                replay.push(token)
        assert ids[-1] == end


@pytest.mark.parametrize("name", FORMATS)
def test_control_tokens_inside_strings_stay_text(name):
    chat = of(name)
    special = [token.content for token in chat.backend.get_added_tokens_decoder().values()]
    constraint = build(Constraint("json_schema", {"const": "".join(special)}), chat)
    ids = walk(constraint, chat, seed=2, limit=2000)
    assert set(ids[:-1]).isdisjoint(chat.backend.get_added_tokens_decoder())
    assert json.loads(chat.decode(ids[:-1], skip_special_tokens=False)) == "".join(special)


@pytest.fixture(scope="module")
def generator():
    return make_generator(make_contract(), seed=9, batch_size=4)


def request(constraint=None, tools=(), **sampling):
    settings = SamplingSettings(max_new_tokens=60, **sampling)
    return GenerationRequest((), tools, settings, prompt_ids=(5, 3, 1), constraint=constraint)


def test_every_row_of_a_batch_has_its_own_grammar_and_free_rows_are_not_touched(generator):
    constraints = [
        None,
        Constraint("regex", "[a-z]{4}"),
        Constraint("json_schema", {"const": {"a": [1, True]}}),
        None,
        Constraint("tool_calls", "now"),
        Constraint("lark", 'start: "yes" | "no"'),
    ]
    asked = [request(constraint, TOOLS, temperature=1.0, seed=seed) for seed, constraint in enumerate(constraints)]
    answers = generator.generate(asked)
    assert [answer.text for answer in answers] == [generator.generate([one])[0].text for one in asked]
    assert re.fullmatch("[a-z]{4}", answers[1].text)
    assert answers[2].text == '{"a": [1, true]}'
    assert answers[4].text == '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert answers[5].text in ("yes", "no")
    assert [answer.finish_reason for answer in answers[1:3]] == ["stop", "stop"]


def test_forced_tokens_save_forward_passes_and_log_probabilities_take_them_one_by_one(generator):
    constraint = Constraint("json_schema", {"const": {"account": "A-17", "limit": 25.5}})
    passes = []
    for logprobs in (False, True):
        with generator.open() as session:
            ticket = session.submit(request(constraint, logprobs=logprobs))
            while ticket.generation is None:
                session.advance()
            passes.append(session.statistics.num_passes)
            assert ticket.generation.text == '{"account": "A-17", "limit": 25.5}'
            assert len(ticket.generation.logprobs) == (ticket.generation.num_completion_tokens if logprobs else 0)
    assert passes[0] <= 3 < passes[1]


def test_a_grammar_is_compiled_once_for_all_rows_that_ask_for_it():
    from posttrain.generation.constraint import build as module

    engine = module._engine(SHIPPED, SHIPPED.backend.get_vocab_size())
    constraint = Constraint("json_schema", {"const": "compiled once"})
    first, second = build(constraint), build(Constraint("json_schema", {"const": "compiled once"}))
    hits = engine.compiled.cache_info().hits
    build(constraint)
    assert engine.compiled.cache_info().hits == hits + 1
    first.forced()
    assert first.is_finished
    assert not second.is_finished


def test_a_token_that_is_not_allowed_is_said_and_not_passed_over():
    constraint = build(Constraint("regex", "ab"))
    with pytest.raises(ConfigError, match="constrained generation stopped"):
        constraint.push(SHIPPED.backend.encode("x").ids[0])


NO_NAME = ({"type": "function", "function": {"name": 'a"b'}},)
ENUM_OF_A_LIST = ({"name": "f", "parameters": {"properties": {"x": {"type": "array", "enum": ["a"]}}, "required": ["x"]}},)


@pytest.mark.parametrize(
    ("constraint", "tools", "message"),
    [
        (Constraint("tool_calls", "required"), (), "the request has no tools"),
        (Constraint("tool_calls", "get_balanc"), TOOLS, "there is no tool 'get_balanc'"),
        (Constraint("tool_calls", "auto"), TOOLS + TOOLS[:1], "tool 3: the name 'get_balance' occurs twice"),
        (Constraint("tool_calls", "auto"), NO_NAME, "tool 0: 'a\"b' is no name a call can hold"),
        (Constraint("tool_calls", "auto"), ({"name": "f", "parameters": {"type": "array"}},), "tool 'f': its parameters have type 'array'"),
        (Constraint("tool_calls", "auto"), ({"name": "f", "parameters": {"type": "dict"}},), "tool 'f': $: type 'dict' is unknown"),
        (Constraint("tool_calls", "auto"), (NOW, *ENUM_OF_A_LIST), "tool 'f': Unsatisfiable schema"),
        (Constraint("tool_calls", ""), TOOLS, "its value is ''"),
        (Constraint("regex", "a("), (), "constraint regex: "),
        (Constraint("regex", "(?=a)b"), (), "look-ahead"),
        (Constraint("lark", "start: MISSING"), (), "constraint lark: "),
        (Constraint("lark", "begin: /a/"), (), "constraint lark: "),
        (Constraint("xml", "a"), (), "kinds are json_schema, regex, lark, tool_calls"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(constraint, tools, message):
    with pytest.raises(ConfigError) as error:
        build(constraint, tools=tools)
    assert message in str(error.value)
    assert "\n" not in error.value.message


def test_tool_calls_under_a_template_that_prints_none_and_a_model_that_is_too_narrow_are_refused():
    with pytest.raises(ConfigError, match="prints no tool calls"):
        build(Constraint("tool_calls", "auto"), contract("chatml"))
    with pytest.raises(ConfigError, match="the model has 100 output rows"):
        build_constraint(Constraint("regex", "a"), (), SHIPPED, 100)
