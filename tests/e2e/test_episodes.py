"""Episodes of a real model, small and trained here to use a tool: the loop, training on its ids, suites, reports, chat."""

import os

import numpy as np
import pytest
import torch
from tool_model import PAIRS, SIGNATURES, tasks, write_tool_model

from posttrain.episodes import (
    EpisodeRunner,
    EpisodeSettings,
    episode_to_demonstration,
    episode_to_generation,
    episode_to_sequence,
    run_episodes,
)
from posttrain.generation import LocalGenerator
from posttrain.models import ModelSettings, Policy, build_forest
from posttrain.records import SamplingSettings

pytestmark = pytest.mark.xdist_group("episodes")
SAMPLING = SamplingSettings(max_new_tokens=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return write_tool_model(tmp_path_factory.mktemp("tool") / "model")


@pytest.fixture(scope="module")
def generator(folder):
    return LocalGenerator.load(folder, dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def episodes(generator):
    return run_episodes(generator, tasks(), settings=EpisodeSettings(), sampling=SamplingSettings(max_new_tokens=60, logprobs=True))


@pytest.mark.parametrize("constrain", [False, True], ids=["free", "constrained"])
def test_the_model_calls_reads_and_answers(generator, constrain):
    found = run_episodes(generator, tasks(), settings=EpisodeSettings(constrain=constrain), sampling=SAMPLING)
    for (room, colour), episode in zip(PAIRS, found, strict=True):
        assert [(call.name, call.arguments, call.result) for call in episode.calls] == [("get_lamp", {"room": room}, colour)]
        assert (episode.finish_reason, episode.messages[-1].content) == ("answer", colour)
        assert episode.outcome == {"lamps": {room: colour}, "num_turns": 3}


def test_a_real_episodes_ids_are_those_of_the_whole_conversation(generator, episodes):
    for episode in episodes:
        whole = generator.contract.encode(episode.messages, tools=episode.tools)
        assert episode.token_ids.tolist() == whole[: len(episode.token_ids)].tolist()


def test_neighbours_change_nothing(generator, episodes):
    alone = [run_episodes(generator, [task], settings=EpisodeSettings(), sampling=SAMPLING)[0] for task in tasks()]
    for one, other in zip(episodes, alone, strict=True):
        np.testing.assert_array_equal(one.token_ids, other.token_ids)


def test_earlier_turns_are_not_computed_again(folder):
    generator = LocalGenerator.load(folder, dtype="float32", batch_size=1)
    with EpisodeRunner(generator, settings=EpisodeSettings(), sampling=SAMPLING) as runner:
        runner.submit(tasks()[0])
        done = []
        while runner.num_open:
            done += runner.advance()
        statistics = runner.session.statistics
    [(_, episode)] = done
    edges = np.flatnonzero(np.diff(episode.completion_mask.astype(int)))  # where prompt, call, result and answer meet
    prompt, second = int(edges[0]) + 1, int(edges[2]) + 1
    assert statistics.prompt_tokens == prompt + second
    # Of the second prompt only what stands behind the call is computed, and the call's last token, which was never read before.
    assert statistics.copied_tokens >= edges[1]
    assert statistics.computed_tokens <= prompt + (second - edges[1])


def test_a_model_trained_on_an_episode_sees_its_very_ids_and_probabilities(folder, episodes):
    policy = Policy.load(ModelSettings(path=str(folder), dtype="float32"), seed=0)
    sequences = [episode_to_sequence(episode, index=i) for i, episode in enumerate(episodes)]
    logprobs = policy.logprobs(build_forest(sequences, share=True, min_shared=8)).detach().numpy()
    np.testing.assert_allclose(logprobs, np.concatenate([episode.logprobs for episode in episodes]), atol=2e-4)


def test_a_demonstration_of_an_episode_supervises_the_same_tokens(generator, episodes):
    for episode in episodes:
        again, exact = generator.contract.supervise(episode_to_demonstration(episode)), episode_to_sequence(episode)
        np.testing.assert_array_equal(again.input_ids[: len(exact)], exact.input_ids)
        np.testing.assert_array_equal(again.completion_mask[: len(exact)], exact.completion_mask)
        assert not again.completion_mask[len(exact) :].any()


def test_an_episode_becomes_an_answer_with_its_transcript(episodes):
    answer = episode_to_generation(episodes[0], 1)
    assert (answer.text, answer.finish_reason) == ("red", "stop")
    assert [message.role for message in answer.transcript] == ["assistant", "tool", "assistant"]
    assert answer.token_ids == ()
    assert answer.seconds > 0
