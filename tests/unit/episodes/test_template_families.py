"""The loop under the templates of other model families: a call, a call nobody can read, an answer."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from scripted_model import TOOLS, Ledger, Scripted

from posttrain.chat import ChatContract
from posttrain.episodes import EpisodeSettings, EpisodeTask, run_episodes
from posttrain.records import Demonstration, Message, SamplingSettings, ToolCall

sys.path.append(str(Path(__file__).parents[1] / "chat"))
from families import FAMILIES, contract

SIGNATURES = tuple(item.signature for item in TOOLS)
PROMPT = (Message("user", "What is the balance of A?"),)
CALL = Message("assistant", "", (ToolCall("get_balance", {"account": "A"}, "abcdefghi"),))


def written(contract: ChatContract, turn: Message) -> str:
    """What a model of this family writes for a turn, end token left out."""
    sequence = contract.supervise(Demonstration((*PROMPT, turn), SIGNATURES))
    ids = sequence.input_ids[sequence.completion_mask]
    return contract.decode(ids[:-1], skip_special_tokens=False)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.tools])
def test_calls_and_unreadable_calls_are_answered_under_every_template_with_tools(name):
    family = contract(name)
    call, answer = written(family, CALL), written(family, Message("assistant", "120 EUR"))
    broken = call.replace('"account"', 'account"')
    assert broken != call
    task = EpisodeTask("t", PROMPT, SIGNATURES, lambda: Ledger(TOOLS))
    generator = Scripted({"t": [broken, call, answer]}, family)
    [episode] = run_episodes(generator, [task], settings=EpisodeSettings(max_tokens=9999), sampling=SamplingSettings(max_new_tokens=500))
    assert (episode.finish_reason, episode.messages[-1].content) == ("answer", "120 EUR"), episode.outcome
    assert [(record.name, record.status) for record in episode.calls] == [("", "error"), ("get_balance", "ok")]
    # Each prompt is all that was read and written before, and more.
    prompts = [request.prompt_ids for request in generator.asked]
    for before, after in pairwise(prompts):
        assert after[: len(before)] == before
    assert episode.token_ids[: len(prompts[-1])].tolist() == list(prompts[-1])
