"""The experts of the financial-operations world, played through the loop: nothing is lost between a model and a real environment."""

from functools import partial

import pytest
from scripted_model import Scripted, call_text

from posttrain.episodes import EpisodeSettings, EpisodeTask, run_episodes
from posttrain.records import SamplingSettings
from posttrain.worlds import open_world, worlds


def turns(task):
    """What the expert says and calls, as a model would write it."""
    return [
        "\n".join([*([turn.content] if turn.content else []), *(call_text(call.name, **call.arguments) for call in turn.tool_calls)])
        for turn in task.demonstration
        if turn.role == "assistant"
    ]


@pytest.fixture(scope="module")
def played(contract):
    found = worlds.get("finops").tasks("train", seed=3, count=24)
    asked = [EpisodeTask(task.id, task.messages, task.tools, partial(open_world, task.world)) for task in found]
    generator = Scripted({task.id: turns(task) for task in found}, contract, batch_size=8)
    settings, sampling = EpisodeSettings(max_steps=12, max_tokens=100_000), SamplingSettings(max_new_tokens=5000)
    return list(zip(found, run_episodes(generator, asked, settings=settings, sampling=sampling), strict=True))


def test_every_expert_comes_to_an_answer_in_the_right_state(played):
    assert [episode.finish_reason for _, episode in played] == ["answer"] * 24
    assert all(episode.outcome["end_state_ok"] for _, episode in played)
    assert sum(len(episode.calls) for _, episode in played) > 12


def test_the_world_says_in_an_episode_what_it_said_to_the_expert(played):
    for task, episode in played:
        shown = [(turn.role, turn.content) for turn in episode.messages[len(task.messages) :]]
        assert shown == [(turn.role, turn.content) for turn in task.demonstration]


def test_the_ids_are_those_of_the_whole_conversation(played, contract):
    for _, episode in played:
        whole = contract.encode(episode.messages, tools=episode.tools)
        assert whole[: len(episode.token_ids)].tolist() == episode.token_ids.tolist()
