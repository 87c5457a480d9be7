"""Masks over ten families: equal to transformers' own on marked templates, and true to what is generated, whatever the content."""

import re
from dataclasses import replace

import numpy as np
import pytest
from families import FAMILIES, MASKABLE, TOOL, WITH_TOOLS, as_dicts, call, contract, result, tokenizer
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from posttrain.chat import ChatContract
from posttrain.errors import ContractError
from posttrain.records import Demonstration, Message, ToolCall

QUESTION, ANSWER = Message("user", "What is 12 * 7?"), Message("assistant", "The answer is 84.")
SINGLE = Demonstration((QUESTION, ANSWER))
TURNS = Demonstration((QUESTION, ANSWER, Message("user", "And the revenue in 2019?"), Message("assistant", '{"answer": "1,496.5"}\n')))
TRAJECTORY = Demonstration(
    (
        QUESTION,
        ANSWER,
        Message("user", "Balance?"),
        call(account="A-17"),
        result("SECRET 25.5"),
        call(account="B-2", limit=3),
        result("SECRET two"),
        Message("assistant", "It is 25.5."),
    ),
    tools=(TOOL,),
)


def marked_template(name: str) -> str:
    return re.sub(r"strftime_now\([^)]*\)", "'26 Jul 2024'", FAMILIES[name].marked_template)


def as_transformers_wants(name: str, row: Demonstration) -> tuple[list[dict], list[dict] | None]:
    messages = as_dicts(row.messages, json_arguments=name == "deepseek")
    for message in messages:
        if name == "deepseek" and "tool_calls" in message:
            message["content"] = None
    return messages, list(row.tools) or None


def reference_spans(name: str, row: Demonstration) -> tuple[str, list[tuple[int, int]]]:
    """Text and generation spans as transformers tracks them on the template that marks them itself."""
    messages, tools = as_transformers_wants(name, row)
    tok = tokenizer(name)
    texts, spans = render_jinja_template(
        [messages], tools=tools, chat_template=marked_template(name), return_assistant_tokens_mask=True, **tok.special_tokens_map
    )
    return texts[0], [tuple(span) for span in spans[0]]


def our_spans(name: str, row: Demonstration) -> tuple[str, list[tuple[int, int]]]:
    turns = [i for i, message in enumerate(row.messages) if message.role == "assistant"]
    return contract(name)._spans.find(row.messages, row.tools, turns)


def supervised_texts(contract: ChatContract, row: Demonstration, mask: str = "assistant") -> list[str]:
    """Decoded runs of supervised tokens."""
    sequence = contract.supervise(row, mask=mask)
    runs, run = [], []
    for token, on in [*zip(sequence.input_ids, sequence.completion_mask, strict=True), (0, False)]:
        if on:
            run.append(int(token))
        elif run:
            runs.append(contract.decode(run, skip_special_tokens=False))
            run = []
    return runs


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize("row", [SINGLE, TURNS, TRAJECTORY], ids=["single", "turns", "trajectory"])
def test_spans_equal_the_generation_markers_of_the_same_template(name, row):
    if row.tools and not FAMILIES[name].tools:
        pytest.skip("no tools in this family")
    assert our_spans(name, row) == reference_spans(name, row)


@pytest.mark.parametrize("name", MASKABLE)
def test_token_mask_equals_transformers_assistant_tokens_mask(name):
    row = TRAJECTORY if FAMILIES[name].tools else TURNS
    messages, tools = as_transformers_wants(name, row)
    if name == "deepseek":  # transformers drops keys whose value is None, so the same test is put another way
        template = marked_template(name).replace("message['content'] is none", "message['tool_calls']")
    else:
        template = marked_template(name)
    out = tokenizer(name).apply_chat_template(
        messages, tools=tools, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    sequence = contract(name).supervise(row)
    assert sequence.input_ids.tolist() == out["input_ids"]
    assert sequence.completion_mask.astype(int).tolist() == out["assistant_masks"]


@pytest.mark.parametrize("name", MASKABLE)
def test_every_supervised_turn_ends_with_a_token_generation_stops_at(name):
    sequence = contract(name).supervise(TURNS)
    last_of_run = np.flatnonzero(sequence.completion_mask & ~np.append(sequence.completion_mask[1:], False))
    assert len(last_of_run) == 2
    assert set(sequence.input_ids[last_of_run].tolist()) <= set(contract(name).eos_token_ids)
    assert contract(name).eos_token_ids[0] == tokenizer(name).convert_tokens_to_ids(FAMILIES[name].turn_end)


@pytest.mark.parametrize("name", MASKABLE)
def test_mask_kinds_choose_the_turns_they_name(name):
    family = FAMILIES[name]
    row = TRAJECTORY if family.tools else TURNS
    every, completion, last = (contract(name).supervise(row, mask=kind) for kind in ("assistant", "completion", "last"))
    runs = [len(supervised_texts(contract(name), row, kind)) for kind in ("assistant", "completion", "last")]
    assert runs == ([4, 3, 1] if family.tools else [2, 1, 1])
    assert (every.completion_mask >= completion.completion_mask).all()
    assert (completion.completion_mask >= last.completion_mask).all()


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tool_arguments_and_final_answer_are_supervised_and_tool_results_never(name):
    runs = supervised_texts(contract(name), TRAJECTORY)
    assert len(runs) == 4
    assert "A-17" in runs[1]
    assert '"limit": 3' in runs[2]
    assert "It is 25.5." in runs[3]
    assert not any("SECRET" in run or "What is" in run or "Balance of an account" in run for run in runs)


@pytest.mark.parametrize("name", MASKABLE)
def test_turns_of_weight_zero_are_not_supervised(name):
    question, answer, *rest = TURNS.messages
    row = Demonstration((question, replace(answer, untrained=True), *rest), metadata={"untrained_turns": 5})
    assert supervised_texts(contract(name), row) == supervised_texts(contract(name), TURNS)[1:]


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_where_the_data_sets_prompt_and_completion_apart_exactly_the_completion_is_supervised(name):
    row, every = replace(TRAJECTORY, num_prompt_messages=1), supervised_texts(contract(name), TRAJECTORY)
    assert supervised_texts(contract(name), row) == supervised_texts(contract(name), row, "completion") == every
    later = replace(TRAJECTORY, num_prompt_messages=3)
    assert supervised_texts(contract(name), later) == supervised_texts(contract(name), later, "completion") == every[1:]


@pytest.mark.parametrize("name", [*MASKABLE, "llama3_gpt2"])
def test_the_generation_prompt_is_a_prefix_of_the_training_ids_and_not_supervised(name):
    for content in ("84", "\n84", "  84", "\n\n\n84", "\t", "🙂"):
        prompt = contract(name).encode([QUESTION], add_generation_prompt=True)
        sequence = contract(name).supervise(Demonstration((QUESTION, Message("assistant", content))))
        assert sequence.input_ids[: len(prompt)].tolist() == prompt.tolist()
        assert not sequence.completion_mask[: len(prompt)].any()
        assert sequence.completion_mask[len(prompt)]


def test_qwen3_supervises_the_reasoning_that_is_printed_and_not_the_reasoning_that_is_dropped():
    first, second = Message("assistant", "84", reasoning="12 * 7 = 84"), Message("assistant", "85", reasoning="84 + 1")
    runs = supervised_texts(contract("qwen3"), Demonstration((QUESTION, first, Message("user", "Plus 1?"), second)))
    assert runs == ["84<|im_end|>", "<think>\n84 + 1\n</think>\n\n85<|im_end|>"]


def test_qwen3_handles_reasoning_written_into_the_content():
    first = Message("assistant", "<think>\n12 * 7 = 84\n</think>\n\n84")
    row = Demonstration((QUESTION, first, Message("user", "Plus 1?"), Message("assistant", "85")))
    assert supervised_texts(contract("qwen3"), row) == ["84<|im_end|>", "<think>\n\n</think>\n\n85<|im_end|>"]
    assert our_spans("qwen3", row) == reference_spans("qwen3", row)


def test_mistral_moves_the_tools_and_earlier_turns_are_still_found():
    text, spans = our_spans("mistral", TRAJECTORY)
    assert text.index("[AVAILABLE_TOOLS]") >= spans[0][1]
    assert text[slice(*spans[0])] == " The answer is 84.</s>"


def test_phi_closes_the_text_with_a_token_that_is_never_generated_and_it_is_not_supervised():
    sequence = contract("phi3").supervise(TURNS)
    assert sequence.input_ids[-1] == tokenizer("phi3").eos_token_id
    assert not sequence.completion_mask[-1]


@pytest.mark.parametrize("mask", ["assistant", "last"])
def test_a_template_whose_answers_lack_its_generation_prompt_is_refused(mask):
    with pytest.raises(ContractError, match=r"row 3: turn 1 cannot be masked exactly.*<think>"):
        contract("deepseek_r1").supervise(SINGLE, mask=mask, index=3)


def refused(template: str, row: Demonstration = TURNS) -> str:
    with pytest.raises(ContractError) as error:
        ChatContract(tokenizer("chatml"), template).supervise(row, index=7)
    return str(error.value)


def test_a_template_that_rewrites_earlier_answers_is_refused():
    template = FAMILIES["chatml"].template.replace(
        "message['content'] + '<|im_end|>'",
        "(message['content'] if loop.last else message['content'] | upper | replace('A', 'b')) + '<|im_end|>'",
    )
    assert "row 7" in refused(template)


def test_a_template_that_drops_earlier_answers_is_refused():
    template = FAMILIES["chatml"].template.replace(
        "message['content'] + '<|im_end|>'", "(message['content'] if loop.last else '') + '<|im_end|>'"
    )
    assert "row 7: turn 1" in refused(template)


def test_a_template_without_an_end_of_turn_token_is_refused():
    assert "never stops" in refused("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")


def test_tool_calls_under_a_template_that_drops_them_are_refused():
    with pytest.raises(ContractError, match="does not print tool calls"):
        contract("smollm2").supervise(TRAJECTORY)


def test_what_the_template_refuses_is_reported_with_its_reason():
    with pytest.raises(ContractError, match="System role not supported"):
        contract("gemma").supervise(Demonstration((Message("system", "x"), QUESTION, ANSWER)))


def test_encode_completion_masks_the_completion_and_keeps_the_prompt_as_prefix():
    prompt = (QUESTION, ANSWER, Message("user", "And now?"))
    sequence = contract("smollm2").encode_completion(prompt, (Message("assistant", "85"),))
    ids = contract("smollm2").encode(prompt, add_generation_prompt=True)
    assert sequence.input_ids[: len(ids)].tolist() == ids.tolist()
    assert contract("smollm2").decode(sequence.input_ids[sequence.completion_mask], skip_special_tokens=False) == "85<|im_end|>"
    with pytest.raises(ContractError, match="begins with an assistant message"):
        contract("smollm2").encode_completion(prompt, (Message("user", "85"),))


def test_a_batch_gives_what_single_rows_give_and_numbers_them():
    rows = [SINGLE, TURNS, Demonstration((QUESTION, Message("assistant", "\n <|im_end|> x")))] * 100
    for i, sequence in enumerate(contract("smollm2").supervise_many(rows)):
        alone = contract("smollm2").supervise(rows[i])
        assert sequence.index == i
        assert sequence.input_ids.tolist() == alone.input_ids.tolist()
        assert sequence.completion_mask.tolist() == alone.completion_mask.tolist()


@pytest.mark.parametrize("name", MASKABLE)
@pytest.mark.parametrize("text", ["a \ufdd0b\ufdd1 c", "\ufdd1a", "a\ufdd0", "\n\ufdd0b\ufdd1"])
def test_the_noncharacters_of_the_marks_are_text_where_nothing_is_marked(name, text):
    row = Demonstration((Message("user", text), Message("assistant", text), Message("user", "more"), ANSWER))
    ids = contract(name).supervise(row).input_ids.tolist()
    begun = contract(name).encode(row.messages[:1], add_generation_prompt=True).tolist()
    assert ids[: len(begun)] == begun
    if not text.startswith("\n"):  # there the answer is encoded apart from the generation prompt
        assert ids == contract(name).encode(row.messages).tolist()
    reply = contract(name).encode_completion(row.messages[:1], [ANSWER]).input_ids.tolist()
    assert reply[: len(begun)] == begun


@pytest.mark.parametrize("name", [name for name in MASKABLE if not FAMILIES[name].swallows])
def test_control_tokens_typed_by_a_user_stay_text_as_transformers_sanitises_them(name):
    family = FAMILIES[name]
    row = (Message("user", f"a{family.turn_end}\n b {family.special[0]}{family.special[1]} c"),)
    ids = contract(name).encode(row, add_generation_prompt=True).tolist()
    template = re.sub(r"strftime_now\([^)]*\)", "'26 Jul 2024'", family.template)
    theirs = tokenizer(name).apply_chat_template(
        as_dicts(row), chat_template=template, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
    )
    assert ids == theirs


@pytest.mark.parametrize("name", MASKABLE)
def test_control_tokens_in_messages_never_add_control_tokens(name):
    family = FAMILIES[name]
    control = set(tokenizer(name).convert_tokens_to_ids(list(family.special)))
    nasty = "x" + "".join(family.special) + "y"
    clean = contract(name).supervise(SINGLE)
    dirty = contract(name).supervise(Demonstration((Message("user", nasty), Message("assistant", nasty))))
    assert [i for i in dirty.input_ids.tolist() if i in control] == [i for i in clean.input_ids.tolist() if i in control]
    assert set(contract(name).control_text((Message("user", nasty),))) == set(family.special)


TEXT = st.text(st.one_of(st.characters(codec="utf-8", exclude_categories=["Cs", "Co"]), st.sampled_from(" \n\t\u00a0🙂<|>_é")), max_size=24)


@pytest.mark.parametrize("name", MASKABLE)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(TEXT, min_size=4, max_size=4))
def test_whatever_the_content_spans_are_the_marked_ones_and_ids_begin_with_the_generation_prompt(name, texts):
    messages = tuple(Message(role, text) for role, text in zip(("user", "assistant", "user", "assistant"), texts, strict=True))
    row = Demonstration(messages)
    assume(not any("\ufdd0" <= char <= "\ufdef" for text in texts for char in text))
    try:
        assert our_spans(name, row) == reference_spans(name, row)
    except ContractError as error:
        # An empty earlier turn leaves nothing to find it by in a template that rewrites turns.
        assert (name, texts[1].strip()) == ("qwen3", ""), error  # noqa: PT017
        return
    sequence = contract(name).supervise(row)
    prompt = contract(name).encode(messages[:3], add_generation_prompt=True)
    assert sequence.num_supervised >= 2
    last = contract(name).supervise(row, mask="last")
    first = int(np.argmax(last.completion_mask))
    assert last.input_ids[:first].tolist() == prompt.tolist()
    if not FAMILIES[name].metaspace:
        assert contract(name).decode(sequence.input_ids, skip_special_tokens=False) == contract(name).render(messages)


@settings(max_examples=25, deadline=None)
@given(
    arguments=st.dictionaries(
        st.sampled_from("abc"), st.recursive(TEXT | st.integers() | st.booleans(), lambda x: st.lists(x, max_size=2)), max_size=3
    )
)
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_whatever_the_arguments_tool_calls_are_masked_as_marked(name, arguments):
    row = Demonstration(
        (QUESTION, Message("assistant", "", (ToolCall("get_balance", arguments, "call00001"),)), result("r"), ANSWER), (TOOL,)
    )
    assert our_spans(name, row) == reference_spans(name, row)
