"""Episodes of a real model, small and trained here to use a tool: the loop, training on its ids, suites, reports, chat."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tool_suite
import torch
from tool_model import HOUSES, PAIRS, SIGNATURES, tasks, write_tool_model
from tool_server import ToolServer
from tool_suite import SUITE, write_suite
from typer.testing import CliRunner

from posttrain.cli.chat import app as chat_app
from posttrain.cli.eval import app as eval_app
from posttrain.episodes import (
    EpisodeRunner,
    EpisodeSettings,
    episode_to_demonstration,
    episode_to_generation,
    episode_to_sequence,
    run_episodes,
)
from posttrain.errors import ConfigError, ContractError
from posttrain.evaluation import EvaluationResult, evaluate, load_suite, read_suite
from posttrain.generation import LocalGenerator
from posttrain.models import ModelSettings, Policy, build_forest
from posttrain.records import SamplingSettings

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


@pytest.fixture(scope="module")
def evaluated(generator, tmp_path_factory):
    """The suite of six lamps answered once, answers kept in ``cache``."""
    root = tmp_path_factory.mktemp("suite")
    suite = load_suite(write_suite(root))
    return root, evaluate(suite, generator, out_dir=root / "out", cache_dir=root / "cache", concurrency=4)


class Unasked:
    """A generator that must not be asked."""

    def __init__(self, generator):
        self.identity, self.batch_size = generator.identity, generator.batch_size


def test_a_suite_with_episodes_runs_its_cases_in_their_worlds(evaluated):
    _, result = evaluated
    scores = {name: entry["overall"]["value"] for name, entry in result.summary["scores"].items()}
    assert (scores["right"], scores["calls"], scores["calls_valid"]) == (1, 1, 1)
    sample = result.samples["hall-green-0", 0]
    assert [message["role"] for message in sample.transcript] == ["assistant", "tool", "assistant"]
    assert sample.calls[0]["result"] == sample.text == "green"
    assert sample.outcome == {"lamps": {"hall": "green"}, "num_turns": 3}
    calls = result.summary["tool_calls"]
    assert (calls["num_samples"], calls["mean"], calls["failed_share"]) == (6, 1, 0)
    assert result.summary["latency"][0]["num_measured"] == 6
    # The latency of a case is that of the whole episode: longer than what its tool took.
    assert all(sample.seconds > sample.calls[0]["seconds"] for sample in result.samples.values())


def test_cached_episodes_come_back_whole_and_are_not_run_again(evaluated, generator):
    root, first = evaluated
    again = evaluate(load_suite(root / "suite.yaml"), Unasked(generator), out_dir=root / "again", cache_dir=root / "cache")
    assert again.summary["scores"] == first.summary["scores"]
    assert again.summary["tool_calls"] == first.summary["tool_calls"]
    for key, sample in again.samples.items():
        before = first.samples[key]
        assert (sample.transcript, sample.calls, sample.outcome) == (before.transcript, before.calls, before.outcome)
        assert sample.seconds is None


@pytest.mark.parametrize("what", ["settings", "world", "tool"])
def test_the_cache_is_not_used_under_other_limits_or_another_world(evaluated, generator, monkeypatch, what):
    root, _ = evaluated
    if what == "world":
        monkeypatch.setattr(HOUSES, "version", "2")
    if what == "tool":
        open_house = HOUSES.open
        monkeypatch.setattr(HOUSES, "open", lambda world: open_house(world, declared_version="2"))
    text = SUITE.replace("max_steps: 3", "max_steps: 4") if what == "settings" else SUITE
    suite = load_suite(write_suite(root / what, text=text))
    with pytest.raises(AttributeError):  # it is asked
        evaluate(suite, Unasked(generator), out_dir=root / what / "out", cache_dir=root / "cache")


def test_results_of_another_version_of_the_world_or_a_tool_are_left_alone(evaluated, generator, monkeypatch):
    root, _ = evaluated
    with monkeypatch.context() as changed:
        changed.setattr(HOUSES, "version", "2")
        with pytest.raises(ConfigError, match=r"results of another version of houses \("):
            evaluate(load_suite(root / "suite.yaml"), generator, out_dir=root / "out")
    open_house = HOUSES.open
    monkeypatch.setattr(HOUSES, "open", lambda world: open_house(world, declared_version="2"))
    with pytest.raises(ConfigError, match=r"results of another version of houses \(get_lamp\)"):
        evaluate(load_suite(root / "suite.yaml"), generator, out_dir=root / "out")


def test_an_evaluation_killed_between_episodes_goes_on_and_gives_the_same(folder, tmp_path):
    suite = write_suite(tmp_path, repeat=6)
    out, results = tmp_path / "out", tmp_path / "out" / "results.jsonl"
    command = [sys.executable, Path(tool_suite.__file__), folder, suite, out]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        while process.poll() is None and not (results.exists() and results.read_bytes().count(b"\n") >= 3):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = results.read_bytes().count(b"\n")
    assert 3 <= kept < 36
    done = []
    generator = LocalGenerator.load(folder, dtype="float32", batch_size=2)
    result = evaluate(load_suite(suite), generator, out_dir=out, on_progress=lambda p: done.append(p.num_reused))
    assert done[-1] == kept
    assert len(result.samples) == 36
    for (case, _), sample in result.samples.items():
        room, colour, _ = case.split("-")
        assert (sample.text, sample.calls[0]["arguments"], sample.outcome["lamps"]) == (colour, {"room": room}, {room: colour})


def test_cases_without_a_world_are_recorded_without_tools_answered_and_broken_ones_unscored(generator, tmp_path):
    ask = {"messages": [{"role": "user", "content": "colour of loft?"}], "expected": {"calls": [{"get_lamp": {"room": ["loft"]}}]}}
    extra = [
        {"id": "recorded", "tools": list(SIGNATURES), **ask},
        {"id": "fire", "tools": list(SIGNATURES), "metadata": {"world": {"name": "houses", "lamps": {}, "fire": True}}, **ask},
        {"id": "plain", "messages": ask["messages"]},
    ]
    suite = load_suite(write_suite(tmp_path, extra=extra))
    result = evaluate(suite, generator, out_dir=tmp_path / "out", cache_dir=tmp_path / "cache")
    recorded, fire, plain = (result.samples[name, 0] for name in ("recorded", "fire", "plain"))
    assert [(call["name"], call["result"]) for call in recorded.calls] == [("get_lamp", "")]
    assert recorded.scores["calls"].value == 1
    assert (fire.finish_reason, fire.scores["calls"].status) == ("error", "unscored")
    assert "the house is on fire" in fire.scores["calls"].reason
    assert (plain.transcript, plain.calls) == ((), ())
    assert result.summary["tool_calls"]["num_samples"] == 8
    assert result.summary["scores"]["calls"]["overall"]["num_unscored"] == 1
    again = evaluate(suite, generator, out_dir=tmp_path / "again", cache_dir=tmp_path / "cache")
    assert [key for key, sample in again.samples.items() if sample.seconds is not None] == [("fire", 0)]


def test_limits_are_part_of_a_suites_hash_and_a_suite_without_episodes_keeps_its_own(tmp_path):
    plain = SUITE.replace("episode: {max_steps: 3, max_tokens: 400}\n", "")
    texts = [plain, plain + "episode: {}\n", SUITE, SUITE.replace("400}", "400, constrain: true}")]
    suites = [read_suite(write_suite(tmp_path / str(number), text=text)) for number, text in enumerate(texts)]
    assert len({suite.hash for suite in suites}) == 4
    assert "episode" not in suites[0].config.settings


@pytest.mark.parametrize(
    ("world", "text", "told"),
    [
        ({"name": "howses"}, SUITE, "unknown world 'howses'"),
        ("houses", SUITE, "case 'wrong': metadata.world is 'houses'"),
        ({"name": "houses"}, SUITE.replace("max_steps: 3", "max_steps: 0"), "episode.max_steps"),
    ],
    ids=["unknown", "no mapping", "no step"],
)
def test_a_wrong_world_or_limit_is_told_before_anything_runs(generator, tmp_path, world, text, told):
    row = {"id": "wrong", "messages": [{"role": "user", "content": "?"}], "tools": list(SIGNATURES), "metadata": {"world": world}}
    with pytest.raises(ConfigError, match=told):
        evaluate(load_suite(write_suite(tmp_path, extra=[row], text=text)), Unasked(generator), out_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


TOOLS = """
from pathlib import Path
from posttrain.tools import tool

@tool(action=ACTION)
def get_lamp(room: str) -> str:
    "Colour of a lamp."
    Path(__file__).with_name("asked.txt").write_text(room)
    return {"hall": "red", "bath": "green", "loft": "red"}[room]
"""


def talk(folder, root, *options, action=False, text):
    (root / "tools.py").write_text(TOOLS.replace("ACTION", str(action)))
    arguments = ["-m", folder, "--tools", root / "tools.py", "--dtype", "float32", *options]
    return CliRunner().invoke(chat_app, [str(argument) for argument in arguments], input=text, catch_exceptions=False)


def test_chat_shows_text_calls_and_results_as_they_come(folder, tmp_path):
    done = talk(folder, tmp_path, text="colour of hall?\n/reset\nhello\n/reset\ncolour of bath?\n")
    assert done.stdout == '\n[get_lamp(room="hall")]\nok: red\nred\nhello\n\n[get_lamp(room="bath")]\nok: green\ngreen\n'


def test_chat_gives_the_whole_conversation_as_json(folder, tmp_path):
    messages = json.loads(talk(folder, tmp_path, "--json", "--constrain", text="colour of loft?\nhello\n").stdout)["messages"]
    assert [message["role"] for message in messages][:5] == ["user", "assistant", "tool", "assistant", "user"]
    assert messages[1]["tool_calls"][0]["arguments"] == {"room": "loft"}
    assert [message["content"] for message in messages[2:5]] == ["red", "red", "hello"]


@pytest.mark.parametrize(
    ("options", "answer", "is_done"),
    [((), "n\n", False), ((), "", False), ((), "y\n", True), (("--yes",), "", True)],
    ids=["no", "end", "y", "--yes"],
)
def test_an_action_runs_only_when_a_person_or_the_command_said_so(folder, tmp_path, options, answer, is_done):
    done = talk(folder, tmp_path, *options, action=True, text=f"colour of hall?\n{answer}")
    assert (tmp_path / "asked.txt").exists() == is_done
    assert ("[y/N]" in done.stderr) == (not options)
    assert ("ok: red" if is_done else "forbidden: get_lamp was not called: the user refused it") in done.stdout


def test_tools_need_a_template_that_prints_calls(generator, folder):
    from posttrain.chat import ChatContract
    from posttrain.models.tiny import CHATML

    plain = LocalGenerator(generator.model, ChatContract(generator.contract.tokenizer, CHATML))
    with pytest.raises(ContractError, match="prints no tool calls"):
        run_episodes(plain, tasks(), settings=EpisodeSettings(), sampling=SAMPLING)


def test_the_eval_command_runs_episodes_on_a_local_model_and_on_an_endpoint(folder, generator, tmp_path):
    suite = write_suite(tmp_path)
    options = ["--suite", str(suite), "--json"]
    local = CliRunner().invoke(eval_app, [*options, "--model", str(folder), "--out", str(tmp_path / "local")], catch_exceptions=False)
    with ToolServer(generator) as server:
        asked = ["--model", "lamps", "--endpoint", server.url, "--out", str(tmp_path / "endpoint"), "--batch-size", "3"]
        remote = CliRunner().invoke(eval_app, [*options, *asked], catch_exceptions=False)
    for done in (local, remote):
        summary = json.loads(done.stdout)
        assert [summary["scores"][name]["overall"]["value"] for name in ("right", "calls")] == [1, 1]
        assert summary["tool_calls"]["mean"] == 1
    here, there = (EvaluationResult.load(tmp_path / name) for name in ("local", "endpoint"))
    for key, sample in here.samples.items():
        other = there.samples[key]
        assert (other.text, other.outcome) == (sample.text, sample.outcome)
        assert (other.num_prompt_tokens, other.num_completion_tokens) == (sample.num_prompt_tokens, sample.num_completion_tokens)
