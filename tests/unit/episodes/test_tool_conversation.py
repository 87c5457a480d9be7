"""A conversation with tools: exact tokens across questions, actions asked for, what is shown."""

import io

import pytest
from scripted_model import CLERK, TOOLS, Scripted, call_text

from posttrain.episodes import EpisodeSettings, ToolConversation
from posttrain.episodes import call_text as shown_call
from posttrain.episodes.conversation import BeforeCalls, ask_person
from posttrain.errors import DataError
from posttrain.generation.conversation import message_rows, talk
from posttrain.records import Generation, SamplingSettings, ToolCall
from posttrain.tools import Toolbox, tool

ASK_A = call_text("get_balance", account="A")


@pytest.fixture
def converse(contract):
    def start(*turns, tools=TOOLS, approve=None, **settings):
        generator = Scripted({"": turns}, contract)
        sampling = SamplingSettings(max_new_tokens=200)
        box = lambda: Toolbox(tools, caller=CLERK)  # noqa: E731
        return generator, ToolConversation(
            generator, sampling, box, settings=EpisodeSettings(**settings), approve=approve, system="Be brief."
        )

    return start


def test_the_second_question_continues_the_exact_tokens_of_the_first(converse, contract):
    spelled = [contract.tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "120 EUR"]
    generator, conversation = converse(ASK_A, spelled, "Nothing else.")
    shown = []
    assert conversation.ask("A?", shown.append) == "120 EUR"
    assert conversation.ask("And else?", shown.append) == "Nothing else."
    second, third = generator.asked[1].prompt_ids, generator.asked[2].prompt_ids
    so_far = [*second, *spelled, contract.eos_token_ids[0]]
    assert list(third[: len(so_far)]) == so_far
    assert (
        contract.decode(third[len(so_far) :], skip_special_tokens=False)
        == "\n<|im_start|>user\nAnd else?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert [message.role for message in conversation.messages] == ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]


def test_after_a_stop_string_the_next_question_begins_behind_an_end_token(converse, contract):
    ids = tuple(contract.tokenizer.encode("120 EUR", add_special_tokens=False))
    generator, conversation = converse(Generation("120 EUR", "stop", 5, len(ids), 0.0, ids), "Nothing else.")
    conversation.ask("A?", lambda text: None)
    conversation.ask("And else?", lambda text: None)
    asked = contract.decode(generator.asked[1].prompt_ids, skip_special_tokens=False)
    assert "120 EUR<|im_end|>\n<|im_start|>user\nAnd else?<|im_end|>" in asked


def test_text_calls_and_results_are_shown_in_their_order(converse):
    _, conversation = converse(f"I look.\n{ASK_A}", "120 EUR")
    out = io.StringIO()
    talk(conversation, io.StringIO("A?\n"), out, prompt=None)
    assert out.getvalue() == 'I look.\n\n[get_balance(account="A")]\nok: 120 EUR\n120 EUR\n'


def test_an_unfinished_answer_says_why_and_the_next_question_is_rendered_anew(converse):
    generator, conversation = converse(*[ASK_A] * 2, "hello", max_steps=2)
    shown = []
    conversation.ask("A?", shown.append)
    assert "did not come to an answer" in shown[-1]
    assert conversation.ask("hello", shown.append) == "hello"
    assert generator.asked[2].messages[-1].content == "hello"


def test_an_action_asked_for_in_two_questions_is_done_twice(converse):
    done = []

    @tool(action=True)
    def pay(cents: int) -> str:
        """Pay."""
        done.append(cents)
        return "paid"

    turns = [call_text("pay", cents=5), call_text("pay", cents=5), "Paid.", call_text("pay", cents=5), "Paid again."]
    _, conversation = converse(*turns, tools=[pay])
    conversation.ask("pay", lambda _: None)
    assert done == [5]  # within one question an action repeats its result
    conversation.ask("again", lambda _: None)
    assert done == [5, 5]


def test_broken_tools_are_told_and_change_nothing(converse, monkeypatch):
    _, conversation = converse(ASK_A, "hello")
    monkeypatch.setattr(Toolbox, "call_many", lambda *_: 1 / 0)
    before = conversation.messages
    with pytest.raises(DataError, match="ZeroDivisionError"):
        conversation.ask("A?", lambda _: None)
    assert conversation.messages == before


@pytest.mark.parametrize("pieces", [["I look. <tool", "_call>{..."], ["I look. ", "<", "tool_call", ">", "{"], ["I look. <tool_call>{}"]])
def test_text_is_shown_up_to_the_first_call_however_it_is_cut(pieces):
    shown = []
    filter = BeforeCalls("<tool_call>", shown.append)
    for piece in pieces:
        filter.push(piece)
    filter.end_turn()
    assert "".join(shown) == "I look. "
    filter.push("a < b, <tool")
    filter.end_turn()
    assert "".join(shown) == "I look. a < b, <tool"


@pytest.mark.parametrize(
    ("line", "is_yes"), [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("yes please\n", False)]
)
def test_only_a_yes_is_a_yes(line, is_yes):
    out = io.StringIO()
    assert ask_person(io.StringIO(line), out)(ToolCall("pay", {"cents": 5})) == is_yes
    assert out.getvalue() == "\nrun pay(cents=5)? [y/N] "


def test_a_call_is_written_as_one_writes_a_call():
    assert shown_call("move", {"to": "1200", "cents": 5, "why": None}) == 'move(to="1200", cents=5, why=null)'


def test_messages_as_json_hold_what_they_have_and_nothing_else(converse):
    _, conversation = converse(ASK_A, "120 EUR")
    conversation.ask("A?", lambda _: None)
    rows = message_rows(conversation.messages)
    assert rows[1] == {"role": "user", "content": "A?"}
    assert set(rows[2]) == {"role", "content", "tool_calls"}
    assert set(rows[3]) == {"role", "content", "tool_call_id", "name"}
