import os
import threading
import time
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel, SecretStr

from posttrain.records import ToolCall
from posttrain.tools import AuditLog, Caller, Tool, Toolbox, ToolError, ToolUnavailable, load_tools, tool

CALLER = Caller("treasurer", "bank_A")
NOTHING = {"type": "object", "properties": {}}
SAMPLE = Path(__file__).with_name("sample_tools.py")


def run(function, arguments=None, secrets=(), **settings):
    made = Tool("probe", "Probe.", NOTHING, function, **settings)
    return Toolbox([made], caller=CALLER, secrets=secrets).call(ToolCall("probe", arguments or {}))


def raising(error):
    def function():
        raise error

    return function


@dataclass
class Point:
    x: int


class Model(BaseModel):
    day: date


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        (5, "5"),
        (None, "null"),
        ({"a": [1, "ü"]}, '{"a": [1, "ü"]}'),
        (Model(day=date(2025, 1, 2)), '{"day": "2025-01-02"}'),
        ([Point(1)], '[{"x": 1}]'),
        (Decimal("1.50"), '"1.50"'),
        (date(2025, 1, 2), '"2025-01-02"'),
        ("half \ud800 a character", "half ? a character"),
    ],
)
def test_what_has_a_json_form_is_returned_in_it(value, text):
    result = run(lambda: value)
    assert (result.status, result.content) == ("ok", text)


def loop():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [object(), lambda: 1, float("nan"), {"a": float("inf")}, (n for n in range(3)), loop(), threading.Lock()])
def test_what_has_none_is_not_json(value):
    result = run(lambda: value)
    assert (result.status, result.is_error) == ("not_json", True)
    assert result.content.startswith("probe returned a ")


@pytest.mark.parametrize("value", ["x" * 10_000_000, {"rows": ["x" * 100] * 100_000}], ids=["text", "json"])
def test_ten_megabytes_are_cut_with_a_word_on_what_is_missing(value):
    result = run(lambda: value, max_result_chars=500)
    assert (result.status, result.is_error) == ("too_large", False)
    assert len(result.content) < 600
    assert result.content.endswith("characters are shown; ask for less]")


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("bad day"), "probe failed: ValueError: bad day"),
        (KeyError("x"), "probe failed: KeyError: 'x'"),
        (SystemExit(3), "probe failed: SystemExit: 3"),
        (KeyboardInterrupt(), "probe failed: KeyboardInterrupt"),
        (MemoryError(), "probe failed: MemoryError"),
        (RecursionError("deep"), "probe failed: RecursionError: deep"),
        (Unprintable(), "probe failed: Unprintable: (its text cannot be read: ValueError)"),
        (ToolError("the account is closed"), "probe: the account is closed"),
    ],
)
def test_whatever_a_tool_raises_becomes_text(error, said):
    result = run(raising(error))
    assert (result.status, result.is_error, result.content) == ("error", True, said)


def test_an_error_of_a_megabyte_is_cut():
    assert len(run(raising(ValueError("x" * 1_000_000))).content) <= 1000


SECRETS = [
    "password=hunter22",
    "api_key: 'abcdef123456'",
    "Authorization: Bearer abcdef.123456",
    "postgres://admin:hunter22@db/ledger",
    "sk-proj-abcdefghijklmnop",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----",
    "my-own-secret",
    "from-the-environment",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_never_reach_the_text_of_an_error(text, monkeypatch):
    monkeypatch.setenv("LEDGER_TOKEN", "from-the-environment")
    result = run(raising(RuntimeError(f"cannot connect: {text} (retry)")), secrets=("my-own-secret",))
    for part in ("hunter22", "abcdef", "AKIA", "eyJ", "abc\n", "my-own-secret", "from-the-environment"):
        assert part not in result.content
    assert result.content.startswith("probe failed: RuntimeError: cannot connect: ")
    assert "(hidden)" in result.content


def test_an_error_made_to_keep_the_search_for_secrets_busy_does_not():
    started = time.monotonic()
    run(raising(ValueError("a_" * 500_000 + "token")))
    assert time.monotonic() - started < 5


def test_a_password_that_a_hint_refuses_is_not_repeated():
    def login(password: Annotated[SecretStr, AfterValidator(refuse)]) -> str:
        """Log in."""
        return "in"

    result = Toolbox([tool(login)], caller=CALLER).call(ToolCall("login", {"password": "hunter22"}))
    assert result.content == "login was not called: password is (hidden); is too weak."


def refuse(value):
    raise ValueError("is too weak")


def test_ordinary_words_are_not_taken_for_secrets():
    text = "the token budget of account 1000 is 500; basic checks passed; key figures: none"
    assert run(raising(ValueError(text))).content.endswith(text)


def test_a_tool_that_hangs_returns_at_its_deadline_and_harms_nothing_else():
    release = threading.Event()
    hanging = Tool("hang", "Hangs.", NOTHING, lambda: release.wait(60), timeout_seconds=0.1)
    box = Toolbox([hanging, Tool("fine", "Works.", NOTHING, lambda: "ok")], caller=CALLER)
    started = time.monotonic()
    results = [box.call(ToolCall("hang", {})) for _ in range(5)]
    assert time.monotonic() - started < 5
    assert [result.status for result in results] == ["timeout"] * 4 + ["unavailable"]
    assert results[0].content == "hang did not answer within 0.1 seconds."
    assert "4 earlier calls of it have not come back" in results[4].content
    assert box.call(ToolCall("fine", {})).content == "ok"
    release.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "tool-hang"]:
        thread.join(10)
    hanging_again = box.call(ToolCall("hang", {}))
    assert hanging_again.content == "true"


def test_an_action_that_passes_its_deadline_is_not_begun_twice():
    begun = []

    def act():
        begun.append(1)
        time.sleep(0.3)

    box = Toolbox([Tool("act", "Acts.", NOTHING, act, action=True, timeout_seconds=0.05)], caller=CALLER)
    first, second = box.call(ToolCall("act", {})), box.call(ToolCall("act", {}))
    assert (first.status, second.status, len(begun)) == ("timeout", "repeated", 1)
    assert "Whether it was done is not known." in first.content


def test_a_read_is_tried_again_with_growing_pauses_and_an_action_never():
    times = []

    def flaky():
        times.append(time.monotonic())
        if len(times) < 3:
            raise ConnectionError("reset")
        return "ok"

    assert run(flaky, retries=3).content == "ok"
    assert times[1] - times[0] >= 0.1
    assert times[2] - times[1] >= 0.2
    times.clear()
    assert run(flaky, action=True).status == "error"
    assert len(times) == 1


def test_what_a_tool_declines_is_not_tried_again_and_what_was_unavailable_is():
    tried = []

    def function(error):
        def inner():
            tried.append(1)
            raise error

        return inner

    assert run(function(ToolError("closed")), retries=2).status == "error"
    assert len(tried) == 1
    result = run(function(ToolUnavailable("down")), retries=3)
    assert (result.status, len(tried)) == ("unavailable", 5)
    assert result.content == "probe is unavailable: down (tried 4 times)"


def test_retries_end_at_the_deadline():
    tried = []

    def broken():
        tried.append(1)
        raise OSError("down")

    started = time.monotonic()
    assert run(broken, retries=1000, timeout_seconds=0.5).status == "error"
    assert time.monotonic() - started < 3
    assert 1 < len(tried) < 5


@pytest.fixture(scope="module")
def isolated():
    return Toolbox([item for item in load_tools(SAMPLE) if item.isolate], caller=CALLER)


def test_an_isolated_call_runs_in_another_process_with_the_caller(isolated):
    result = isolated.call(ToolCall("who", {}))
    assert result.content.startswith("treasurer of bank_A in ")
    assert int(result.content.rsplit(" ", 1)[1]) != os.getpid()


def test_a_crash_ends_the_isolated_process_only(isolated):
    result = isolated.call(ToolCall("crash", {"code": 7}))
    assert (result.status, result.content) == ("error", "crash failed: its process ended with exit code 7 before it answered")
    assert isolated.call(ToolCall("decline", {})).content == "decline: the period is closed"


def test_an_isolated_call_that_hangs_is_killed_with_what_it_started(isolated, tmp_path):
    pids = tmp_path / "pids"
    assert isolated.call(ToolCall("hang_with_child", {"pids": str(pids)})).status == "timeout"
    for pid in pids.read_text().split():
        for _ in range(200):
            if not is_alive(int(pid)):
                break
            time.sleep(0.02)
        assert not is_alive(int(pid))


def is_alive(pid):
    """Whether a process exists and is no zombie waiting for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_isolated_tool_made_from_a_plain_function_converts_its_arguments_too():
    made = tool(day_after, isolate=True, timeout_seconds=30)
    assert Toolbox([made], caller=CALLER).call(ToolCall("day_after", {"day": "2025-02-28"})).content == '"2025-03-01"'


def day_after(day: date) -> date:
    """The next day."""
    return date.fromordinal(day.toordinal() + 1)


@pytest.mark.parametrize("levels", [200, 500, 900, 5000])
def test_arguments_nested_without_end_are_the_models_fault(levels, tmp_path):
    value = "x"
    for _ in range(levels):
        value = [value]
    made = Tool("probe", "Probe.", {"type": "object", "properties": {"a": {"type": "string"}}}, lambda a: a)
    box = Toolbox([made], caller=CALLER, audit=AuditLog(tmp_path / "audit.jsonl"))
    assert box.call(ToolCall("probe", {"a": value})).status == "invalid_arguments"
