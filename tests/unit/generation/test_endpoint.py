"""Against a real server on loopback: the same answers as the local generator, retries, errors, nothing finished lost."""

import importlib.util
from pathlib import Path

import httpx
import pytest

from posttrain.errors import ConfigError, DataError, InfrastructureError
from posttrain.generation import EndpointGenerator, LocalGenerator, endpoint
from posttrain.generation.wire import request_body, response_to_generation
from posttrain.records import GenerationRequest, Message, SamplingSettings

_spec = importlib.util.spec_from_file_location("generation_test_server", Path(__file__).with_name("server.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
TestServer = _module.TestServer


@pytest.fixture(scope="module")
def server(tiny_folder):
    with TestServer(LocalGenerator.load(tiny_folder, dtype="float32")) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(server, monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0.01)
    server.faults, server.requests, server.delay_seconds, server.most_together = [], [], 0.0, 0


def ask(text, id="", **sampling):
    return GenerationRequest(
        (Message("system", "Be brief."), Message("user", text)), sampling=SamplingSettings(**{"max_new_tokens": 6, **sampling}), id=id
    )


def test_answers_equal_those_of_the_model_behind_the_server(server):
    requests = [
        ask("greedy", "a", logprobs=True),
        ask("sampled", "b", temperature=0.8, top_p=0.9, top_k=50, seed=5),
        ask("stopped", "c", max_new_tokens=12, temperature=1.0, stop=("e", "a")),
    ]
    local = server.generator.generate(requests)
    for mine, theirs in zip(EndpointGenerator(server.url, "tiny").generate(requests), local, strict=True):
        for name in ("id", "text", "finish_reason", "num_prompt_tokens", "num_completion_tokens"):
            assert getattr(mine, name) == getattr(theirs, name)
        assert mine.logprobs == pytest.approx(theirs.logprobs, rel=1e-5)
        assert mine.seconds > 0


def test_the_official_client_gets_the_same_answer_from_the_server(server):
    from openai import OpenAI

    request = ask("who are you", temperature=0.7, seed=9)
    with OpenAI(base_url=server.url, api_key="none") as client:
        theirs = client.chat.completions.create(
            model="tiny",
            messages=[{"role": m.role, "content": m.content} for m in request.messages],
            max_tokens=6,
            temperature=0.7,
            top_p=1.0,
            seed=9,
        )
    [mine] = EndpointGenerator(server.url, "tiny").generate([request])
    assert theirs.choices[0].message.content == mine.text
    assert theirs.usage.completion_tokens == mine.num_completion_tokens


def test_busy_and_broken_servers_are_asked_again(server):
    server.faults = [(429, {"retry-after": "0.05"}), (503, {}), (500, {})]
    [answer] = EndpointGenerator(server.url, "tiny", concurrency=1).generate([ask("hi")])
    assert answer.num_completion_tokens > 0
    assert len(server.requests) == 4


def test_a_silent_server_is_asked_again_after_the_timeout(server):
    server.faults = [3.0]
    [answer] = EndpointGenerator(server.url, "tiny", timeout_seconds=1.0).generate([ask("hi")])
    assert answer.seconds < 1.0
    assert len(server.requests) == 2


def test_several_requests_are_under_way_together_and_no_more_than_allowed(server):
    server.delay_seconds = 0.1
    EndpointGenerator(server.url, "tiny", concurrency=3).generate([ask(f"{i}") for i in range(7)])
    assert server.most_together == 3


def test_a_lasting_failure_names_the_request_and_loses_no_finished_answer(server):
    server.faults = []
    done = []

    def fail_after(index, answer):
        done.append(index)
        if len(done) == 2:
            server.faults = [(503, {})] * 100

    generator = EndpointGenerator(server.url, "tiny", concurrency=1, max_attempts=3)
    with pytest.raises(InfrastructureError, match=r"request 2 \('r2'\) failed 3 times; the last time: status 503.*fault 503"):
        generator.generate([ask(f"{i}", f"r{i}") for i in range(4)], on_done=fail_after)
    assert done == [0, 1]
    assert len(server.requests) == 2 + 3


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [(401, ConfigError, "access refused"), (404, ConfigError, "not found"), (400, DataError, r"request 0 \('x'\) was refused, status 400")],
)
def test_what_asking_again_cannot_mend_is_said_at_once(server, status, error, message):
    server.faults = [(status, {})]
    with pytest.raises(error, match=message):
        EndpointGenerator(server.url, "tiny").generate([ask("hi", "x")])
    assert len(server.requests) == 1


def test_an_answer_that_is_no_completion_is_an_infrastructure_error(server):
    server.faults = ["world"]
    with pytest.raises(InfrastructureError, match="no chat completion"):
        EndpointGenerator(server.url, "tiny").generate([ask("hi")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"x": ' + "[" * 500 + "]" * 500 + "}", "nested more than 100 deep"),
        ('{"x": ' + "[" * 100_000, "not JSON: maximum recursion depth"),
        ('{"x": NaN}', "not JSON: NaN is no JSON value"),
    ],
    ids=["deep", "deeper", "NaN"],
)
def test_arguments_that_no_record_can_hold_are_answered_with_an_error(arguments, said):
    message = {"content": "", "tool_calls": [{"id": "1", "function": {"name": "pay", "arguments": arguments}}]}
    response = httpx.Response(200, json={"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    [call] = response_to_generation(response, ask("hi"), 0.0, "here").calls
    assert (call.name, call.arguments, call.is_error) == ("", {}, True)
    assert said in call.result


def test_nobody_listening_is_an_infrastructure_error():
    with pytest.raises(InfrastructureError, match="ConnectError"):
        EndpointGenerator("http://127.0.0.1:9/v1", "tiny", max_attempts=2).generate([ask("hi")])


def test_reasoning_is_sent_and_tells_two_requests_apart():
    bodies = [
        request_body(GenerationRequest((Message("user", "q"), Message("assistant", "a", reasoning=thought))), "m")
        for thought in (None, "one way", "another way")
    ]
    assert [body["messages"][1].get("reasoning_content") for body in bodies] == [None, "one way", "another way"]


def test_the_key_and_extra_fields_are_sent(server):
    EndpointGenerator(server.url, "tiny", api_key="secret", extra_body={"top_k": 3}).generate([ask("hi")])
    assert server.requests[0]["authorization"] == "Bearer secret"
    assert server.requests[0]["top_k"] == 3


def test_the_key_is_no_part_of_the_identity(server):
    assert "secret" not in str(EndpointGenerator(server.url, "tiny", api_key="secret").identity)


@pytest.mark.parametrize(("arguments", "message"), [({"base_url": "localhost"}, "is no URL"), ({"concurrency": 0}, "concurrency is 0")])
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EndpointGenerator(**{"base_url": "http://localhost/v1", "model": "m", **arguments})


def test_a_session_takes_requests_as_they_come_and_says_the_same(server):
    requests = [ask(f"account {i}", f"r{i}") for i in range(5)]
    seen = []
    with EndpointGenerator(server.url, "tiny", concurrency=2).open() as session:
        tickets = [session.submit(requests[0], on_text=seen.append)]
        done = session.advance(10.0)
        tickets += [session.submit(request) for request in requests[1:]]
        while session.num_open:
            done += session.advance()
    assert done[0] is tickets[0]
    assert seen == [tickets[0].generation.text]
    assert [ticket.generation.text for ticket in tickets] == [answer.text for answer in server.generator.generate(requests)]
    assert server.most_together == session.statistics.peak_rows == 2
    assert session.statistics.num_done == 5
    assert session.statistics.generated_tokens == sum(ticket.generation.num_completion_tokens for ticket in tickets)


def test_a_session_keeps_going_after_a_failure_and_says_whose_it_was(server):
    server.faults = [(400, {})]
    with EndpointGenerator(server.url, "tiny", concurrency=1).open() as session:
        bad, good = session.submit(ask("a", "bad")), session.submit(ask("b", "good"))
        while session.num_open:
            session.advance()
    assert isinstance(bad.error, DataError)
    assert "'bad' was refused" in str(bad.error)
    assert good.generation is not None


def test_a_callback_that_raises_loses_no_answer(server):
    def broken(text):
        raise ValueError("who listens here is gone")

    with EndpointGenerator(server.url, "tiny").open() as session:
        tickets = [session.submit(ask(text), on_text=broken) for text in "ab"]
        done, num_raised = [], 0
        while session.num_open:
            try:
                done += session.advance(10.0)
            except ValueError:
                num_raised += 1
            assert num_raised <= 2
    assert {ticket.generation is not None for ticket in done} == {True}
    assert set(done) == set(tickets)
    assert num_raised == 2


def test_cancelled_requests_come_back_cancelled_sent_or_not(server):
    server.faults = [5.0]
    with EndpointGenerator(server.url, "tiny", concurrency=1).open() as session:
        sent, waiting, kept = [session.submit(ask(text)) for text in "abc"]
        while not server.requests:
            session.advance(0.01)
        for ticket in (waiting, sent):
            session.cancel(ticket)
        done = []
        while session.num_open:
            done += session.advance()
    assert sent.cancelled
    assert waiting.cancelled
    assert kept.generation is not None
    assert len(done) == 3
    assert len(server.requests) == 2
    with pytest.raises(InfrastructureError, match="closed"):
        session.submit(ask("d"))


def test_what_an_endpoint_cannot_be_sent_is_refused(server):
    from posttrain.records import Constraint

    generator = EndpointGenerator(server.url, "tiny")
    with pytest.raises(ConfigError, match=r"request 0: prompt_ids cannot be sent"):
        generator.generate([GenerationRequest((), prompt_ids=(1, 2))])
    with pytest.raises(ConfigError, match="a constraint of kind 'lark' cannot be sent"):
        generator.generate([GenerationRequest((Message("user", "a"),), constraint=Constraint("lark", 'start: "a"'))])
    generator.generate([GenerationRequest((Message("user", "a"),), constraint=Constraint("json_schema", {"type": "object"}))])
    assert server.requests[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}
