"""The loop's control flow. Only the model is a script: template, toolbox and environments are real."""

import threading

import numpy as np
import pytest
from scripted_model import TOOLS, Ledger, Scripted, call_text, recorded_call

from posttrain.episodes import EpisodeRunner, EpisodeSettings, EpisodeTask, run_episodes, turn_seed
from posttrain.errors import DataError, InfrastructureError
from posttrain.records import Constraint, Generation, Message, SamplingSettings, ToolResult
from posttrain.tools import Budget, tool

SAMPLING = SamplingSettings(max_new_tokens=200)
ASK_A, ASK_B = call_text("get_balance", account="A"), call_text("get_balance", account="B")


def roles(episode):
    return [message.role for message in episode.messages]


def run(script, contract, tasks, **options):
    settings = EpisodeSettings(**options.pop("settings", {}))
    return run_episodes(Scripted(script, contract), tasks, settings=settings, sampling=SAMPLING, **options)


def test_call_result_answer_is_one_episode(play, ledger):
    episode = play(ASK_A, "The balance is 120 EUR.")
    assert roles(episode) == ["user", "assistant", "tool", "assistant"]
    assert (episode.finish_reason, episode.num_steps) == ("answer", 2)
    assert episode.messages[2].content == "120 EUR"
    [call] = episode.calls
    assert (call.name, call.arguments, call.status, call.result, call.step) == ("get_balance", {"account": "A"}, "ok", "120 EUR", 0)
    assert episode.outcome == {"num_calls": 1, "roles": ["assistant", "tool", "assistant"]}
    assert (ledger.opened, ledger.closed) == (1, 1)


def test_ids_of_canonical_turns_are_those_of_the_whole_conversation(play, contract):
    episode = play(f"{ASK_A}\n{ASK_B}", call_text("read_note", account="C"), "Done: 120 EUR.")
    whole = contract.encode(episode.messages, tools=episode.tools).tolist()
    ids = episode.token_ids.tolist()
    assert whole[: len(ids)] == ids
    assert contract.decode(whole[len(ids) :], skip_special_tokens=False) == "\n"  # what the template writes behind the last turn
    written = contract.decode(episode.token_ids[episode.completion_mask], skip_special_tokens=False)
    assert written == f"{ASK_A}\n{ASK_B}<|im_end|>{call_text('read_note', account='C')}<|im_end|>Done: 120 EUR.<|im_end|>"
    assert episode.num_prompt_tokens + episode.num_completion_tokens == len(ids)
    assert episode.num_completion_tokens == episode.completion_mask.sum()


def test_ids_no_encoder_would_give_are_kept_and_never_made_again(contract, ask):
    backend = contract.tokenizer
    spelled = [backend.encode(letter, add_special_tokens=False)[0] for letter in ASK_A]  # one token a letter
    assert contract.decode(spelled) == ASK_A
    assert spelled != backend.encode(ASK_A, add_special_tokens=False)
    generator = Scripted({"t": [spelled, "120"]}, contract)
    [episode] = run_episodes(generator, [ask()], settings=EpisodeSettings(), sampling=SAMPLING)
    first, second = generator.asked
    after = [*first.prompt_ids, *spelled, contract.eos_token_ids[0]]
    assert list(second.prompt_ids[: len(after)]) == after
    assert episode.token_ids[: len(after)].tolist() == after
    assert episode.calls[0].result == "120 EUR"
    tail = contract.continuation(episode.messages[:3], tools=episode.tools)
    assert list(second.prompt_ids[len(after) :]) == tail.tolist()


def test_parallel_calls_go_to_the_environment_together(play):
    seen = []

    class Watched(Ledger):
        def call_many(self, calls):
            seen.append([call.arguments["account"] for call in calls])
            return super().call_many(calls)

    task = EpisodeTask("t", (Message("user", "A and B?"),), tuple(item.signature for item in TOOLS), lambda: Watched(TOOLS))
    episode = play(f"{ASK_A}\n{ASK_B}", "195", task=task)
    assert seen == [["A", "B"]]
    assert [message.content for message in episode.messages[2:4]] == ["120 EUR", "75 EUR"]
    assert len({call.id for call in episode.calls}) == 2
    assert all(len(call.id) == 9 and call.id.isalnum() for call in episode.calls)


def test_one_call_a_turn_where_several_are_not_allowed(play):
    episode = play(f"{ASK_A}\n{ASK_B}", "120", parallel_calls=False)
    assert [(call.status, call.is_error) for call in episode.calls] == [("ok", False), ("error", True)]
    assert "one call a turn" in episode.messages[3].content
    assert episode.outcome["num_calls"] == 1


@pytest.mark.parametrize(
    ("turn", "status", "told"),
    [
        ('<tool_call>\n{"name": "get_balance", "arguments": {"account": }\n</tool_call>', "error", "JSON"),
        (call_text("get_balanse", account="A"), "unknown_tool", "get_balance"),
        (call_text("get_balance", account=7), "invalid_arguments", "account"),
        (call_text("get_balance", account="A", on="today"), "invalid_arguments", "on"),
        (call_text("get_balance", account="Z"), "error", "get_balance"),  # the function raises KeyError
    ],
    ids=["not JSON", "unknown tool", "wrong type", "unknown argument", "raises"],
)
def test_a_bad_call_is_answered_with_an_error_and_the_model_may_try_again(play, turn, status, told):
    episode = play(turn, ASK_A, "120 EUR")
    assert [(call.status, call.is_error) for call in episode.calls] == [(status, True), ("ok", False)]
    assert told in episode.messages[2].content
    assert (episode.finish_reason, episode.messages[-1].content) == ("answer", "120 EUR")


def test_an_unreadable_call_stays_in_the_transcript_and_is_counted(play, contract):
    broken = '<tool_call>\n{"name": "get_balance", "arguments"\n</tool_call>'
    episode = play(broken, "I give up.")
    assert episode.messages[1] == Message("assistant", broken)
    assert (episode.calls[0].name, episode.calls[0].step) == ("", 0)
    assert roles(episode) == ["user", "assistant", "user", "assistant"]  # a tool's turn may only follow a call
    assert contract.encode(episode.messages, tools=episode.tools)[: len(episode.token_ids)].tolist() == episode.token_ids.tolist()


def test_a_readable_call_beside_an_unreadable_one_is_run(play):
    episode = play(ASK_A + '\n<tool_call>\n{"name": 3}\n</tool_call>', "120")
    assert [(call.name, call.is_error) for call in episode.calls] == [("get_balance", False), ("", True)]
    assert roles(episode) == ["user", "assistant", "tool", "assistant"]
    assert episode.messages[2].content.startswith("120 EUR\n")


def test_an_endless_loop_of_one_call_ends_at_the_step_limit(play):
    episode = play(*[ASK_A] * 9, max_steps=3)
    assert (episode.finish_reason, episode.num_steps) == ("max_steps", 3)
    assert [call.status for call in episode.calls] == ["ok", "ok", "over_budget"]
    assert episode.outcome["num_calls"] == 2  # the last one was not run
    assert episode.messages[-1].role == "assistant"


def test_the_token_limit_counts_what_is_read_and_ends_the_episode(play, contract):
    free = play(*[ASK_A] * 6, "120")
    turn = (len(free.token_ids) - len(contract.encode(free.messages[:1], tools=free.tools, add_generation_prompt=True))) // 7
    episode = play(*[ASK_A] * 6, "120", max_tokens=3 * turn)
    assert episode.finish_reason == "max_tokens"
    prompt = len(contract.encode(free.messages[:1], tools=free.tools, add_generation_prompt=True))
    assert 0 < len(episode.token_ids) - prompt <= 3 * turn
    assert 0 < episode.num_steps < 6


def test_the_context_of_the_model_is_a_limit_too(contract, ask):
    prompt = len(contract.encode(ask().messages, tools=ask().tools, add_generation_prompt=True))
    generator = Scripted({"t": [ASK_A] * 9}, contract, context_length=prompt + 100)
    [episode] = run_episodes(generator, [ask()], settings=EpisodeSettings(max_tokens=9999, max_steps=50), sampling=SAMPLING)
    assert episode.finish_reason == "max_tokens"
    assert len(episode.token_ids) <= prompt + 100
    assert all(len(request.prompt_ids) + request.sampling.max_new_tokens <= prompt + 100 for request in generator.asked)


def test_a_turn_cut_at_its_own_length_ends_the_episode_and_runs_nothing(play):
    episode = play(ASK_A, sampling=SamplingSettings(max_new_tokens=5))
    assert (episode.finish_reason, episode.calls) == ("length", ())
    assert episode.num_completion_tokens == 5


def test_a_spent_budget_ends_the_episode_when_the_model_does_not_stop(play, ask):
    task = ask(environment=lambda: Ledger(TOOLS, budget=Budget(max_calls=1)))
    episode = play(*[ASK_A] * 5, task=task)
    assert [call.status for call in episode.calls] == ["ok", "over_budget", "over_budget"]
    assert episode.finish_reason == "budget"
    heeds = play(ASK_A, ASK_B, "120, and B is not known", task=task)
    assert heeds.finish_reason == "answer"


def test_a_spent_budget_ends_it_too_where_only_the_first_call_of_a_turn_is_run(play, ask):
    task = ask(environment=lambda: Ledger(TOOLS, budget=Budget(max_calls=0)))
    episode = play(*[f"{ASK_A}\n{ASK_B}"] * 5, task=task, parallel_calls=False)
    assert (episode.finish_reason, episode.num_steps) == ("budget", 2)


def test_calls_are_recorded_where_nobody_executes_them(play, ask):
    episode = play(f"{ASK_A}\n{ASK_B}", "never asked", task=ask(environment=None))
    assert (episode.finish_reason, episode.num_steps) == ("recorded", 1)
    assert [(call.arguments["account"], call.status, call.result) for call in episode.calls] == [("A", "ok", ""), ("B", "ok", "")]


def boom(*_):
    raise RuntimeError("disk on fire")


class Broken(Ledger):
    """Breaks in one place."""

    def __init__(self, where):
        super().__init__(TOOLS)
        if where == "count":
            self.call_many = lambda calls: [ToolResult("a"), ToolResult("b")]
        elif where != "open":
            setattr(self, where, boom)
        else:
            boom()


@pytest.mark.parametrize("where", ["open", "call_many", "count", "outcome", "close"])
def test_an_environment_that_breaks_ends_its_own_episode_only(contract, ask, where):
    tasks = [ask("a"), ask("b", environment=lambda: Broken(where)), ask("c")]
    script = {name: [ASK_A, "120"] for name in "abc"}
    a, b, c = run(script, contract, tasks)
    assert [a.finish_reason, b.finish_reason, c.finish_reason] == ["answer", "error", "answer"]
    assert ("2 results for 1 calls" if where == "count" else "disk on fire") in b.outcome["error"]


def test_what_the_generator_cannot_do_is_raised_and_environments_are_closed(contract, ask, ledger):
    script = {"a": [ASK_A, "120"], "b": [ASK_A, InfrastructureError("the server is gone")], "c": [ASK_A, "120"]}
    done = []
    with pytest.raises(InfrastructureError, match="gone"):
        run(script, contract, [ask(name) for name in "abc"], on_done=lambda index, episode: done.append(index))
    assert ledger.opened == ledger.closed > 0


def test_a_first_prompt_that_is_refused_is_the_callers_matter_a_later_one_the_episodes(contract, ask):
    with pytest.raises(DataError, match="too long"):
        run({"a": [DataError("too long")]}, contract, [ask("a")])
    a, b = run({"a": [ASK_A, DataError("too long")], "b": ["hello"]}, contract, [ask("a"), ask("b")])
    assert (a.finish_reason, a.outcome["error"], b.finish_reason) == ("error", "too long", "answer")


def test_a_tool_runs_while_other_episodes_go_on(contract, ask):
    gate = threading.Event()

    @tool
    def get_balance(account: str) -> str:
        """Waits for the other episode to end.

        Args:
            account: its letter
        """
        return "120 EUR" if gate.wait(20) else "nobody came"

    tasks = [ask("slow", environment=lambda: Ledger([get_balance])), ask("quick")]
    order = []

    def on_done(index, episode):
        order.append(episode.id)
        gate.set()

    slow, _ = run({"slow": [ASK_A, "120"], "quick": [call_text("read_note", account="C"), "hello"]}, contract, tasks, on_done=on_done)
    assert order == ["quick", "slow"]
    assert slow.calls[0].result == "120 EUR"


def test_no_more_episodes_are_open_than_allowed(contract, ask, ledger):
    script = {f"t{i}": [ASK_A, "120"] for i in range(12)}
    episodes = run(script, contract, [ask(f"t{i}") for i in range(12)], concurrency=3)
    assert [episode.id for episode in episodes] == list(script)
    assert (ledger.opened, ledger.closed) == (12, 12)
    assert ledger.most <= 3


def finish(runner):
    episodes = []
    while runner.num_open:
        episodes += [episode for _, episode in runner.advance()]
    return {episode.id: episode for episode in episodes}


def test_cancelling_ends_one_episode_wherever_it_is(contract, ask, ledger):
    started, gate = threading.Event(), threading.Event()

    @tool
    def get_balance(account: str) -> str:
        """Waits.

        Args:
            account: its letter
        """
        started.set()
        gate.wait(20)
        return "120 EUR"

    generator = Scripted({"a": ["never"], "b": [ASK_A, "never"], "c": [ASK_A, "120"]}, contract)
    with EpisodeRunner(generator, settings=EpisodeSettings(), sampling=SAMPLING) as runner:
        in_tool = runner.submit(ask("b", environment=lambda: Ledger([get_balance])))
        while not started.is_set():
            runner.advance()
        waiting = runner.submit(ask("a"))
        runner.submit(ask("c"))
        runner.cancel(waiting)
        elsewhere = threading.Thread(target=runner.cancel, args=[in_tool])
        elsewhere.start()
        elsewhere.join()
        first = {episode.id: episode for _, episode in runner.advance()}
        gate.set()
        episodes = first | finish(runner)
        runner.cancel(waiting)
        assert runner.advance() == []
    assert {name: episode.finish_reason for name, episode in episodes.items()} == {"a": "cancelled", "b": "cancelled", "c": "answer"}
    assert (episodes["a"].num_steps, episodes["b"].num_steps) == (0, 1)
    assert ledger.opened == ledger.closed
    assert generator.sessions[0].is_closed


def test_control_tokens_in_a_result_are_text(play, contract):
    episode = play(call_text("read_note", account="A"), "ok")
    assert "<|im_start|>system" in episode.calls[0].result
    starts = (episode.token_ids == contract.tokenizer.convert_tokens_to_ids("<|im_start|>")).sum()
    assert starts == 5  # system with the tools, user, assistant, result, assistant: none from the result


def test_halves_of_surrogate_pairs_do_not_reach_the_record(play):
    turn = '<tool_call>\n{"name": "read_note", "arguments": {"account": "\\ud83d"}}\n</tool_call>'
    episode = play(turn, "ok")
    assert episode.calls[0].arguments == {"account": "?"}
    "".join(message.content for message in episode.messages).encode("utf-8")


@pytest.mark.parametrize("call", ['{"name": "\\ud83d", "arguments": 3}', '{"name": "get_balance", "arguments": {}, "\\ud83d": 3}'])
def test_a_sentence_about_half_a_surrogate_pair_can_be_read_by_the_model(play, call):
    episode = play(f"<tool_call>\n{call}\n</tool_call>", "ok")
    assert (episode.finish_reason, episode.calls[0].status) == ("answer", "error")
    assert "'?'" in episode.messages[2].content


@pytest.mark.parametrize("reason", ["length", "stop"])
@pytest.mark.parametrize("with_tools", [True, False])
def test_an_endpoint_may_cut_a_character_in_two(ask, reason, with_tools):
    task = ask() if with_tools else EpisodeTask("t", (Message("user", "hello"),))
    generator = Scripted({"t": [Generation("a \ud83d", reason, 5, 5, 0.0)]})
    [episode] = run_episodes(generator, [task], settings=EpisodeSettings(), sampling=SAMPLING)
    assert episode.messages[-1].content == "a ?"


def test_constrained_episodes_may_call_until_the_last_turn(contract, ask):
    generator = Scripted({"t": [ASK_A, ASK_B, "195"]}, contract)
    run_episodes(generator, [ask()], settings=EpisodeSettings(constrain=True, max_steps=3), sampling=SAMPLING)
    assert [request.constraint for request in generator.asked] == [Constraint("tool_calls", value) for value in ("auto", "auto", "none")]


def test_each_turn_draws_other_numbers_and_repeats_with_the_seed(contract, ask):
    generator = Scripted({"t": [ASK_A, ASK_B, "195"]}, contract)
    run_episodes(generator, [ask(seed=7)], settings=EpisodeSettings(), sampling=SAMPLING)
    seeds = [request.sampling.seed for request in generator.asked]
    assert seeds == [7, turn_seed(7, 1), turn_seed(7, 2)]
    assert len({*seeds, turn_seed(8, 0), turn_seed(8, 1)}) == 5


def test_logprobs_are_one_a_generated_token(play):
    episode = play(ASK_A, "120", sampling=SamplingSettings(max_new_tokens=200, logprobs=True))
    assert episode.logprobs.dtype == np.float32
    assert len(episode.logprobs) == episode.completion_mask.sum()
    assert play(ASK_A, "120").logprobs.size == 0


def test_an_answer_is_cut_before_a_stop_string_and_its_ids_are_not(play, contract):
    ids = tuple(contract.tokenizer.encode("The balance is 120. STOP", add_special_tokens=False))
    stopped = Generation("The balance is 120. ", "stop", 5, len(ids), 0.0, ids)
    episode = play(stopped, sampling=SamplingSettings(max_new_tokens=200, stop=("STOP",)))
    assert (episode.finish_reason, episode.messages[-1].content) == ("answer", "The balance is 120. ")
    assert tuple(episode.token_ids[episode.completion_mask].tolist()) == ids


def test_a_turn_without_tools_is_an_answer_whatever_it_looks_like(contract):
    task = EpisodeTask("t", (Message("user", "write a call"),))
    [episode] = run({"t": [ASK_A]}, contract, [task])
    assert (episode.finish_reason, episode.messages[-1].content) == ("answer", ASK_A)


def test_an_endpoint_gives_calls_and_no_ids(ask):
    called = Generation("", "stop", 50, 9, 0.1, calls=(recorded_call("get_balance", account="A"),))
    answer = Generation("It is 120 EUR.", "stop", 80, 6, 0.1)
    generator = Scripted({"t": [called, answer]})
    [episode] = run_episodes(generator, [ask()], settings=EpisodeSettings(), sampling=SAMPLING)
    assert roles(episode) == ["user", "assistant", "tool", "assistant"]
    assert generator.asked[1].messages == episode.messages[:3]
    assert generator.asked[1].prompt_ids == ()
    assert episode.messages[1].tool_calls[0].id == episode.messages[2].tool_call_id
    assert episode.token_ids.size == episode.completion_mask.size == 0
    # Read: the 50 of the prompt and 21 of the result; written: 9 and 6.
    assert (episode.num_prompt_tokens, episode.num_completion_tokens) == (71, 15)
