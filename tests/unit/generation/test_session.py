"""Requests come and go between passes: the same tokens as alone, shared beginnings computed once, nobody starves, memory is bounded."""

import dataclasses
import errno
import json
import threading

import numpy as np
import pytest
import torch

from posttrain.errors import ConfigError, DataError, InfrastructureError
from posttrain.generation import LocalGenerator, samples
from posttrain.records import Constraint, GenerationRequest, Message, SamplingSettings

RNG = np.random.default_rng(0)
IDS = [tuple(RNG.integers(10, 390, n).tolist()) for n in (9, 40, 5, 23, 70, 12, 31, 18)]


def ask(prompt_ids, id="", constraint=None, **sampling):
    return GenerationRequest(
        (), sampling=SamplingSettings(**{"max_new_tokens": 12, **sampling}), id=id, prompt_ids=tuple(prompt_ids), constraint=constraint
    )


def mixed():
    """Greedy and sampled requests of different lengths."""
    return [ask(ids, f"r{i}", max_new_tokens=6 + 2 * i, temperature=0.9 * (i % 2), seed=i) for i, ids in enumerate(IDS)]


def drain(session):
    done = []
    while session.num_open:
        done += session.advance()
    return done


def tokens(generation):
    return generation.token_ids


@pytest.fixture
def never_ends(tiny_generator):
    """No end token stops an answer: lengths are exact."""
    tiny_generator._engine.batch._ends = frozenset()
    return tiny_generator


@pytest.fixture
def alone(tiny_folder):
    """Each request's tokens when it runs by itself; ``ends``: whether an end token stops it."""
    model = LocalGenerator.load(tiny_folder, dtype="float32", batch_size=1)

    def run(request, ends):
        generator = LocalGenerator(model.model, model.contract)
        if not ends:
            generator._engine.batch._ends = frozenset()
        return tokens(generator.generate([request])[0])

    return lambda requests, ends=True: [run(request, ends) for request in requests]


def test_tokens_are_the_same_alone_together_late_and_in_any_order(tiny_generator, alone):
    requests = mixed()
    want = alone(requests)
    assert [tokens(answer) for answer in tiny_generator.generate(requests)] == want
    for order in (range(8), reversed(range(8)), (3, 0, 7, 1, 6, 2, 5, 4)):
        tiny_generator.forget()
        with tiny_generator.open(interleaved_tokens=16) as session:
            tickets = {}
            for late, index in enumerate(order):
                tickets[index] = session.submit(requests[index])
                for _ in range(late % 3):
                    session.advance()
            drain(session)
        assert [tokens(tickets[index].generation) for index in range(8)] == want


def test_an_answer_says_the_same_whichever_way_it_is_asked(tiny_generator):
    request = GenerationRequest((Message("user", "the ledger of account 7"),), sampling=SamplingSettings(max_new_tokens=9), id="x")
    ids = tuple(tiny_generator.contract.encode(request.messages, add_generation_prompt=True).tolist())
    first, second = tiny_generator.generate([request, dataclasses.replace(request, messages=(), prompt_ids=ids)])
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)


def test_samples_share_one_prefill(never_ends):
    prompt = IDS[4]
    requests = samples(ask(prompt, temperature=1.0, seed=2**64 - 2), 6)
    assert [request.sampling.seed for request in requests] == [2**64 - 2, 2**64 - 1, 0, 1, 2, 3]
    with never_ends.open() as session:
        tickets = [session.submit(request) for request in requests]
        drain(session)
    assert len({tokens(ticket.generation) for ticket in tickets}) > 1
    beginning = len(prompt) - 1
    assert session.statistics.computed_tokens == beginning + 6, "all but the last token once, the last by each sample"
    assert session.statistics.copied_tokens == 5 * beginning
    assert session.statistics.prompt_tokens == 6 * len(prompt)
    assert session.statistics.generated_tokens == 6 * 12


def test_the_next_turn_goes_on_where_the_last_one_ended(never_ends):
    """Four conversations take turns over four rows; each turn computes its new tokens only."""
    with never_ends.open() as session:
        turns = {i: list(IDS[i]) for i in range(4)}
        for _ in range(3):
            before = dataclasses.replace(session.statistics)
            tickets = {i: session.submit(ask(turn, max_new_tokens=5)) for i, turn in turns.items()}
            drain(session)
            computed = session.statistics.computed_tokens - before.computed_tokens
            copied = session.statistics.copied_tokens - before.copied_tokens
            assert computed + copied == sum(map(len, turns.values()))
            if before.num_done:
                assert computed == 4 * (1 + 3), "the token that ended the answer, and three new ones"
            for i, ticket in tickets.items():
                turns[i] += [*tokens(ticket.generation), 11, 12, 13]


def test_a_beginning_computed_for_somebody_else_is_copied(tiny_generator, alone):
    tools = IDS[4]
    first, second = ask((*tools, 20, 21, 22)), ask((*tools, 30, 31))
    with tiny_generator.open() as session:
        session.submit(first)
        drain(session)
        late = session.submit(second)
        drain(session)
    assert session.statistics.copied_tokens == len(tools)
    assert [tokens(late.generation)] == alone([second])


def test_a_beginning_still_being_computed_is_waited_for_and_not_computed_twice(never_ends, alone):
    long = IDS[4]
    requests = [ask((*long, i)) for i in range(3)]
    with never_ends.open(interleaved_tokens=16) as session:
        session.submit(ask(IDS[0], max_new_tokens=30))
        session.advance()
        tickets = [session.submit(request) for request in requests]
        drain(session)
    assert session.statistics.computed_tokens == len(IDS[0]) + len(long) + 3
    assert session.statistics.copied_tokens == 2 * len(long)
    assert [tokens(ticket.generation) for ticket in tickets] == alone(requests, ends=False)


def test_more_requests_than_rows_wait_their_turn(never_ends):
    with never_ends.open() as session:
        tickets = [session.submit(ask(ids, max_new_tokens=4)) for ids in IDS]
        rows = [session._rows[ticket] for ticket in tickets]
        drain(session)
    started = [row.started for row in rows]
    assert started == sorted(started)
    assert session.statistics.peak_rows == 4
    assert session.statistics.longest_wait_seconds > 0
    assert session.statistics.num_done == 8


def test_a_long_prompt_does_not_hold_up_those_that_run(never_ends):
    pieces = []
    with never_ends.open(interleaved_tokens=16) as session:
        running = session._rows[session.submit(ask(IDS[0], max_new_tokens=60))]
        session.advance()
        long = session._rows[session.submit(ask(IDS[4]))]
        while not long.generated:
            before = len(running.generated)
            session.advance()
            pieces.append(long.extent.computed)
            assert len(running.generated) == before + 1
    assert pieces == [16, 32, 48, 64, 70]


def test_a_long_request_is_not_overtaken_for_ever(tiny_folder):
    """It needs the whole cache, and short ones keep coming: those behind it wait until it had its turn."""
    bytes_per_token = 2 * 2 * 2 * 8 * 4
    generator = LocalGenerator.load(tiny_folder, dtype="float32", batch_size=4, cache_gib=128 * bytes_per_token / 2**30)
    generator._engine.batch._ends = frozenset()
    with generator.open() as session:
        session.submit(ask(IDS[0], max_new_tokens=10))
        session.advance()
        long = session.submit(ask(IDS[4], max_new_tokens=50))
        late = [session.submit(ask(ids, max_new_tokens=5)) for ids in IDS[:3]]
        done = drain(session)
    assert done.index(long) < min(done.index(ticket) for ticket in late)


def test_what_can_never_fit_is_refused_at_once(tiny_folder):
    bytes_per_token = 2 * 2 * 2 * 8 * 4
    generator = LocalGenerator.load(tiny_folder, dtype="float32", cache_gib=64 * bytes_per_token / 2**30)
    with generator.open() as session:
        with pytest.raises(ConfigError, match=r"the request: 40 tokens and 30 new ones do not fit into the cache, 64 tokens"):
            session.submit(ask(IDS[1], max_new_tokens=30))
        with pytest.raises(DataError, match="the request: the prompt has 200 tokens; the context is 160"):
            session.submit(ask([7] * 200))
        assert session.num_open == 0


def test_a_full_queue_refuses_and_takes_again(tiny_generator):
    with tiny_generator.open(max_waiting=2) as session:
        for ids in IDS[:2]:
            session.submit(ask(ids))
        with pytest.raises(InfrastructureError, match="2 requests are waiting already"):
            session.submit(ask(IDS[2]))
        session.advance()
        session.submit(ask(IDS[2]))
        assert len(drain(session)) == 3


def test_cancelled_requests_leave_at_once_and_change_nobody(never_ends, alone):
    requests = [ask(ids, max_new_tokens=20) for ids in IDS]
    with never_ends.open() as session:
        tickets = [session.submit(request) for request in requests]
        for _ in range(4):
            session.advance()
        session.cancel(tickets[1])
        session.cancel(tickets[6])
        done = session.advance()
        assert set(done) == {tickets[1], tickets[6]}
        assert all(ticket.cancelled and ticket.generation is None for ticket in done)
        session.cancel(tickets[1])
        drain(session)
    want = alone(requests, ends=False)
    for i in (0, 2, 3, 4, 5, 7):
        assert tokens(tickets[i].generation) == want[i]
    assert session.statistics.num_cancelled == 2


def test_one_that_waits_for_a_beginning_goes_on_when_its_owner_is_cancelled(never_ends, alone):
    requests = [ask((*IDS[4], i)) for i in range(2)]
    with never_ends.open(interleaved_tokens=16) as session:
        session.submit(ask(IDS[0], max_new_tokens=30))
        session.advance()
        owner, other = [session.submit(request) for request in requests]
        session.advance()
        session.cancel(owner)
        drain(session)
    assert owner.cancelled
    assert [tokens(other.generation)] == alone(requests[1:], ends=False)


def test_leaving_a_session_cancels_the_rest_and_gives_the_model_back(tiny_generator):
    own = tiny_generator.model.config._attn_implementation
    with tiny_generator.open() as session:
        session.submit(ask(IDS[0]))
        waiting = session.submit(ask(IDS[1]))
        assert tiny_generator.model.config._attn_implementation != own
    assert waiting.cancelled
    assert tiny_generator.model.config._attn_implementation == own
    with pytest.raises(InfrastructureError, match="closed"):
        session.submit(ask(IDS[0]))
    assert len(tiny_generator.generate([ask(IDS[0])])) == 1


def test_callbacks_get_the_text_as_it_grows_and_may_submit(never_ends):
    seen, more = [], []

    def on_text(piece):
        seen.append(piece)
        if len(seen) == 2:
            more.append(session.submit(ask(IDS[2], max_new_tokens=3)))

    with never_ends.open() as session:
        ticket = session.submit(ask(IDS[0], max_new_tokens=20), on_text=on_text)
        session.advance()
        assert seen, "the first piece comes with the first token"
        done = drain(session)
    assert "".join(seen) == ticket.generation.text
    assert done == [more[0], ticket]


def test_two_sessions_share_a_model(tiny_generator, alone):
    requests = mixed()
    with tiny_generator.open() as first, tiny_generator.open() as second:
        tickets = [(first if i % 2 else second).submit(request) for i, request in enumerate(requests)]
        done = drain(first)
        assert first.num_open == 0
        done += drain(second)
    assert set(done) == set(tickets)
    assert [tokens(ticket.generation) for ticket in tickets] == alone(requests)


def test_each_session_speaks_for_itself(never_ends):
    def broken(piece):
        raise ValueError("who listens here is gone")

    heard = []
    with never_ends.open() as first, never_ends.open() as second:
        first.submit(ask(IDS[0], max_new_tokens=4), on_text=broken)
        ticket = second.submit(ask(IDS[1], max_new_tokens=4), on_text=heard.append)
        assert drain(second) == [ticket]
        assert "".join(heard) == ticket.generation.text
        with pytest.raises(ValueError, match="who listens here"):
            first.advance()


def test_other_threads_submit_and_cancel_while_one_advances(tiny_generator, alone):
    requests = mixed()
    tickets = {}
    with tiny_generator.open() as session:

        def send(number):
            for i in range(number, 8, 2):
                tickets[i] = session.submit(requests[i])
                extra = session.submit(ask(IDS[1], max_new_tokens=30))
                session.cancel(extra)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) or session.num_open:
            session.advance(0.01)
    assert [tokens(tickets[i].generation) for i in range(8)] == alone(requests)
    assert session.statistics.num_done + session.statistics.num_cancelled == 16


def test_a_request_cancelled_while_another_leaves_comes_back_too(never_ends, monkeypatch):
    batch = never_ends._engine.batch
    own = batch._give_up_place
    with never_ends.open() as session:
        short, long = session.submit(ask(IDS[0], max_new_tokens=2)), session.submit(ask(IDS[1], max_new_tokens=40))

        def give_up_and_cancel(row):
            session.cancel(long)
            own(row)

        monkeypatch.setattr(batch, "_give_up_place", give_up_and_cancel)
        done = [ticket for _ in range(10) for ticket in session.advance(0.0)]
        assert done == [short, long]
        assert long.cancelled
        assert session.num_open == 0


def test_when_memory_runs_out_requests_wait_and_say_the_same(tiny_generator, alone):
    requests = mixed()
    refused = []

    def limited(module, args):
        if args[0].numel() > 30:
            refused.append(args[0].numel())
            raise torch.OutOfMemoryError("no room")

    hook = tiny_generator.model.get_input_embeddings().register_forward_pre_hook(limited)
    answers = tiny_generator.generate(requests)
    hook.remove()
    assert refused
    assert [tokens(answer) for answer in answers] == alone(requests)


def test_a_request_that_does_not_fit_into_memory_by_itself_is_the_only_one_to_fail(tiny_generator):
    def limited(module, args):
        if 389 in args[0]:
            raise torch.OutOfMemoryError("no room")

    hook = tiny_generator.model.get_input_embeddings().register_forward_pre_hook(limited)
    with tiny_generator.open() as session:
        good, bad = session.submit(ask(IDS[0])), session.submit(ask((*IDS[1], 389, 5)))
        drain(session)
    hook.remove()
    assert good.generation is not None
    assert isinstance(bad.error, InfrastructureError)
    assert "memory ran out" in str(bad.error)


def test_new_weights_in_the_middle_drop_what_was_computed_and_nothing_else(never_ends, alone):
    request = ask(IDS[1], max_new_tokens=10)
    with never_ends.open() as session:
        ticket = session.submit(request)
        for _ in range(4):
            session.advance()
        never_ends.forget()
        drain(session)
    assert [tokens(ticket.generation)] == alone([request], ends=False)


def test_forgetting_from_another_thread_waits_for_the_pass_under_way(never_ends, alone, monkeypatch):
    batch, threads, waited = never_ends._engine.batch, [], []
    own = batch._forward

    def forward(*arguments):
        if not threads:
            threads.append(threading.Thread(target=never_ends.forget))
            threads[0].start()
            threads[0].join(0.1)
            waited.append(threads[0].is_alive())
        return own(*arguments)

    monkeypatch.setattr(batch, "_forward", forward)
    requests = [ask(ids) for ids in IDS[:3]]
    answers = never_ends.generate(requests)
    threads[0].join()
    assert waited == [True]
    assert [tokens(answer) for answer in answers] == alone(requests, ends=False)


def test_a_failure_ends_everything_and_leaves_a_usable_generator(tiny_generator):
    def fail(module, args):
        raise ValueError("broken")

    hook = tiny_generator.model.get_input_embeddings().register_forward_pre_hook(fail)
    with tiny_generator.open() as session:
        tickets = [session.submit(ask(ids)) for ids in IDS]
        with pytest.raises(ValueError, match="broken"):
            session.advance()
        hook.remove()
        done = session.advance()
        assert set(done) == set(tickets)
        assert all(isinstance(ticket.error, ValueError) for ticket in tickets)
        again = session.submit(ask(IDS[0]))
        drain(session)
    assert again.generation is not None


class Script:
    """Allows ``free`` tokens of any even id, then forces ``fixed``, then is finished."""

    def __init__(self, free, fixed):
        self.free, self.fixed, self.pushed = free, list(fixed), []

    @property
    def is_finished(self):
        return len(self.pushed) == self.free + len(self.fixed)

    def mask(self, logits):
        at = len(self.pushed)
        if at < self.free:
            logits[1::2] = float("-inf")
        else:
            allowed = self.fixed[at - self.free] if not self.is_finished else 1
            kept = logits[allowed].clone()
            logits[:] = float("-inf")
            logits[allowed] = kept

    def push(self, token):
        self.pushed.append(token)

    def forced(self):
        if len(self.pushed) != self.free:
            return []
        self.pushed += self.fixed
        return list(self.fixed)


FIXED = (50, 61, 72, 83, 94)


@pytest.fixture
def scripted(tiny_generator, monkeypatch):
    """Requests whose id is "script" run under a Script; the end token is id 1."""
    tiny_generator._engine.batch._ends, tiny_generator._engine.batch._end_ids = frozenset({1}), (1,)
    monkeypatch.setattr(tiny_generator, "_constraint", lambda request: Script(3, FIXED) if request.id == "script" else None)
    return tiny_generator


def test_forced_tokens_come_at_once_and_cost_one_pass(scripted):
    with scripted.open() as session:
        ticket = session.submit(ask(IDS[0], "script", max_new_tokens=30))
        drain(session)
    answer = ticket.generation
    assert answer.token_ids[3:] == (*FIXED, 1)
    assert all(token % 2 == 0 for token in answer.token_ids[:3])
    assert answer.finish_reason == "stop"
    assert session.statistics.forced_tokens == len(FIXED) + 1
    assert session.statistics.num_passes == 3, "one for the prompt and each of the two free tokens after the first"


def test_forced_tokens_in_the_middle_are_read_before_the_next_is_chosen(scripted, monkeypatch, alone):
    """Free tokens after forced ones are those of a prompt that ends with them; a neighbour is not touched."""

    class Opening(Script):
        is_finished = False

        def mask(self, logits):
            if len(self.pushed) < self.free:
                super().mask(logits)

    monkeypatch.setattr(scripted, "_constraint", lambda request: Opening(2, FIXED) if request.id == "script" else None)
    with scripted.open() as session:
        ticket, neighbour = session.submit(ask(IDS[1], "script", max_new_tokens=13)), session.submit(ask(IDS[3], max_new_tokens=13))
        drain(session)
    ids = tokens(ticket.generation)
    assert ids[2:7] == FIXED
    [want] = alone([ask((*IDS[1], *ids[:7]), max_new_tokens=6)])
    assert ids[7:] == want
    assert [tokens(neighbour.generation)] == alone([ask(IDS[3], max_new_tokens=13)])


def test_a_limit_cuts_forced_tokens_too(scripted):
    [answer] = scripted.generate([ask(IDS[0], "script", max_new_tokens=5)])
    assert answer.token_ids[3:] == FIXED[:2]
    assert answer.finish_reason == "length"


def test_logprobs_under_a_constraint_are_the_models_own_and_one_each(scripted):
    [quick] = scripted.generate([ask(IDS[0], "script", max_new_tokens=30)])
    [answer] = scripted.generate([ask(IDS[0], "script", max_new_tokens=30, logprobs=True)])
    assert answer.token_ids == quick.token_ids
    ids = torch.tensor([[*IDS[0], *answer.token_ids]])
    with torch.inference_mode():
        logits = scripted.model(ids).logits[0, len(IDS[0]) - 1 : -1]
    want = torch.log_softmax(logits, -1).gather(-1, torch.tensor(answer.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.logprobs), want, rtol=1e-4, atol=1e-4)


def test_a_constraint_that_fails_ends_its_own_request_only(scripted, monkeypatch):
    class Broken(Script):
        def push(self, token):
            raise ConfigError("the grammar is too large")

    monkeypatch.setattr(scripted, "_constraint", lambda request: Broken(3, FIXED) if request.id == "script" else None)
    with scripted.open() as session:
        bad, good = session.submit(ask(IDS[0], "script")), session.submit(ask(IDS[1]))
        drain(session)
    assert "too large" in str(bad.error)
    assert good.generation is not None
    with pytest.raises(ConfigError, match="too large"):
        scripted.generate([ask(IDS[0], "script")])


def test_a_schema_holds_beside_free_requests(tiny_generator):
    """The real grammar engine on a random model: valid JSON, unless cut by the length limit."""
    schema = {"type": "object", "properties": {"paid": {"type": "boolean"}}, "required": ["paid"], "additionalProperties": False}
    constrained = ask(IDS[0], constraint=Constraint("json_schema", schema), max_new_tokens=60)
    free = ask(IDS[1], max_new_tokens=10)
    with tiny_generator.open() as session:
        tickets = [session.submit(request) for request in (constrained, free)]
        drain(session)
    answer = tickets[0].generation
    assert answer.finish_reason == "stop"
    assert isinstance(json.loads(answer.text)["paid"], bool)
    assert session.statistics.forced_tokens > 0
    assert tokens(tickets[1].generation) == tokens(tiny_generator.generate([free])[0])


def test_a_cache_that_cannot_be_had_is_made_smaller(tiny_generator, alone, monkeypatch):
    from posttrain.generation import cache

    real, sizes = cache.mmap, []

    def scarce(file, size, **options):
        sizes.append(size)
        if size > 100_000:
            raise OSError(errno.ENOMEM, "no room")
        return real(file, size, **options)

    monkeypatch.setattr(cache, "mmap", scarce)
    requests = mixed()
    answers = tiny_generator.generate(requests)
    monkeypatch.undo()
    assert max(sizes) > 100_000
    assert [tokens(answer) for answer in answers] == alone(requests)
