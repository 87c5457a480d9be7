import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys

import pytest

from posttrain.errors import DataError, InfrastructureError
from posttrain.records import ToolCall
from posttrain.tools import AuditLog, Caller, Toolbox, audit_lines, read_audit, tool, verify_audit

CALLER = Caller("treasurer", "bank_A", "ada")


def desk(sent, log, episode="e1", **settings):
    @tool(action=True, cost=0.5)
    def transfer(to: str, amount: float) -> str:
        """Move money."""
        sent.append((to, amount))
        if to == "nowhere":
            raise RuntimeError("lost")
        return f"sent {amount:g} to {to}"

    @tool
    def balance(account: str) -> str:
        """Balance."""
        return f"{account}: 100"

    return Toolbox([transfer, balance], caller=CALLER, audit=log, episode=episode, **settings)


def ask(box, name, **arguments):
    return box.call(ToolCall(name, arguments))


@pytest.fixture
def written(tmp_path):
    """A log of a read, an action with its intent and end, a refused call and another read: five lines."""
    path = tmp_path / "calls.jsonl"
    box = desk([], AuditLog(path))
    ask(box, "balance", account="1000")
    ask(box, "transfer", to="x", amount=5)
    ask(box, "transfer", to="x")
    ask(box, "balance", account="2000")
    return path


def test_every_call_is_a_line_with_all_that_matters(written):
    read, intent, done, refused, _ = read_audit(written)
    assert read["caller"] == {"role": "treasurer", "tenant": "bank_A", "subject": "ada"}
    assert (read["line"], read["event"], read["tool"], read["arguments"], read["status"]) == (
        1,
        "call",
        "balance",
        {"account": "1000"},
        "ok",
    )
    assert read["version"].startswith("sha256:")
    assert read["time"].endswith("Z")
    assert len(read["result_sha256"]) == 64
    assert (intent["event"], done["event"], done["intent"]) == ("intent", "done", 2)
    assert (done["status"], done["cost"], done["is_error"]) == ("ok", 0.5, False)
    assert (refused["status"], refused["cost"]) == ("invalid_arguments", 0.0)
    report = verify_audit(written)
    assert (report.num_lines, report.problems, report.notes) == (5, (), ())


def test_the_intent_is_on_disk_before_the_action_begins(tmp_path):
    path = tmp_path / "calls.jsonl"
    seen = []

    @tool(action=True)
    def act() -> str:
        """Act."""
        seen.extend(json.loads(line)["event"] for line in path.read_text().splitlines())
        return "done"

    Toolbox([act], caller=CALLER, audit=AuditLog(path)).call(ToolCall("act", {}))
    assert seen == ["intent"]


def test_only_the_lines_around_an_action_wait_for_the_disk(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr("posttrain.tools.audit.os.fsync", lambda file: events.append("on disk"))

    @tool(action=True)
    def act() -> str:
        """Act."""
        events.append("done")
        return "done"

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    box = Toolbox([act, look], caller=CALLER, audit=AuditLog(tmp_path / "calls.jsonl"))
    box.call_many([ToolCall("look", {}), ToolCall("act", {}), ToolCall("look", {})])
    assert events == ["on disk", "done", "on disk"]


def tampered(path, change):
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")
    return verify_audit(path).problems


def edit(lines):
    lines[2] = lines[2].replace('"cost": 0.5', '"cost": 0.0')


def edit_and_rehash(lines):
    from posttrain.tools.audit import _hash

    body = json.loads(lines[1])
    body["arguments"] = {"to": "x", "amount": 1}
    del body["hash"]
    lines[1] = json.dumps(body | {"hash": _hash(body)})


def with_field(name, value):
    def change(lines):
        lines[2] = json.dumps(json.loads(lines[2]) | {name: value})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit, "line 3 was changed"),
        (with_field("intent", "two"), "line 3 was changed"),
        (with_field("cost", float("nan")), "line 3 was changed"),
        (edit_and_rehash, "before line 3 a line was removed, added or moved"),
        (lambda lines: lines.pop(1), "before line 2 a line was removed, added or moved"),
        (lambda lines: lines.pop(0), "before line 1 a line was removed, added or moved"),
        (lambda lines: lines.insert(3, lines[0]), "before line 4 a line was removed, added or moved"),
        (lambda lines: lines.insert(1, "{}"), "line 2 is not a record"),
        (lambda lines: lines.__setitem__(1, "garbage"), "line 2 is not a record"),
        (lambda lines: lines.reverse(), "before line 1 a line was removed, added or moved"),
    ],
)
def test_any_change_breaks_the_chain_and_the_first_place_is_named(written, change, said):
    assert tampered(written, change)[0] == said


def test_a_tail_cut_off_shows_only_against_a_head_kept_elsewhere(written):
    head = AuditLog(written).head
    assert verify_audit(written, head).problems == ()
    assert tampered(written, lambda lines: lines.pop()) == ()
    (problem,) = verify_audit(written, head).problems
    assert f"no line has the hash {head[:16]}" in problem


def test_a_log_goes_on_after_it_was_closed_and_several_logs_may_share_it(written):
    first, second = AuditLog(written), AuditLog(written)
    for log in (first, second, first):
        log.append({"event": "call"})
    assert first.num_lines == 8
    assert verify_audit(written, first.head).problems == ()


def append_many(path, count):
    log = AuditLog(path)
    for number in range(count):
        log.append({"event": "call", "number": number, "process": os.getpid()})


def test_processes_that_write_at_once_keep_one_chain(tmp_path):
    path = tmp_path / "calls.jsonl"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=append_many, args=(path, 40)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    report = verify_audit(path)
    assert (report.num_lines, report.problems) == (80, ())


def test_a_torn_last_line_is_kept_noted_and_written_past(written):
    whole = written.read_bytes()
    written.write_bytes(whole[:-30])
    assert verify_audit(written).notes == ("line 5, the last, was torn by a crash",)
    log = AuditLog(written)
    log.append({"event": "call"})
    assert written.read_bytes().startswith(whole[:-30])
    report = verify_audit(written, log.head)
    assert (report.num_lines, report.problems, report.notes) == (7, (), ("line 5 was torn by a crash",))


def test_a_torn_line_taken_away_leaves_a_gap_in_the_numbers(written):
    written.write_bytes(written.read_bytes()[:-30])
    AuditLog(written)
    assert tampered(written, lambda lines: lines.pop(4)) == ("before line 5 a line was removed, added or moved",)


def test_garbage_is_no_torn_line_unless_the_log_itself_noted_it(written):
    written.write_bytes(written.read_bytes()[:-30])
    AuditLog(written)
    assert verify_audit(written).problems == ()
    data = written.read_bytes().replace(b'"balance", "version"', b'"balence", "version"')
    written.write_bytes(data)
    assert verify_audit(written).problems


CRASH = """
import os, sys
from posttrain.records import ToolCall
from posttrain.tools import AuditLog, Caller, Toolbox, tool

@tool(action=True)
def transfer(to: str, amount: float) -> str:
    "Move money."
    with open(sys.argv[2], "a") as sent:
        sent.write(f"{to}\\n")
    if to == "crash":
        os.kill(os.getpid(), 9)
    return f"sent to {to}"

box = Toolbox([transfer], caller=Caller("treasurer", "bank_A"), audit=AuditLog(sys.argv[1]), episode="e1")
for to in ("x", "crash"):
    print([box.call(ToolCall("transfer", {"to": to, "amount": 1})).status])
"""


def test_after_a_crash_no_action_of_the_episode_is_done_again(tmp_path):
    log, sent = tmp_path / "calls.jsonl", tmp_path / "sent"
    script = tmp_path / "crash.py"
    script.write_text(CRASH)
    first, second = (
        subprocess.run([sys.executable, str(script), str(log), str(sent)], capture_output=True, text=True, timeout=60) for _ in range(2)
    )
    assert (first.returncode, first.stdout) == (-signal.SIGKILL, "['ok']\n")
    assert (second.returncode, second.stdout) == (0, "['repeated']\n['repeated']\n")
    assert sent.read_text() == "x\ncrash\n"
    (note,) = verify_audit(log).notes
    assert note == "line 3: transfer was begun and its end is not recorded: it may or may not have been done"


def test_what_the_log_remembers_of_an_episode_is_what_was_answered(tmp_path):
    sent, path = [], tmp_path / "calls.jsonl"
    before = desk(sent, AuditLog(path))
    first = ask(before, "transfer", to="x", amount=5)
    broken = ask(before, "transfer", to="nowhere", amount=5)
    after = desk(sent, AuditLog(path))
    again, lost = ask(after, "transfer", to="x", amount=5.0), ask(after, "transfer", to="nowhere", amount=5)
    assert (again.status, again.content, again.is_error) == ("repeated", first.content, False)
    assert (lost.status, lost.is_error) == ("repeated", True)
    assert broken.content in lost.content
    assert ask(desk(sent, AuditLog(path), episode="e2"), "transfer", to="x", amount=5).status == "ok"
    assert sent == [("x", 5.0), ("nowhere", 5.0), ("x", 5.0)]


def test_an_episode_of_the_same_name_of_another_tenant_learns_nothing(tmp_path):
    sent, path = [], tmp_path / "calls.jsonl"
    ask(desk(sent, AuditLog(path)), "transfer", to="x", amount=5)

    @tool(action=True)
    def transfer(to: str, amount: float) -> str:
        """Move money."""
        return "theirs"

    other = Toolbox([transfer], caller=Caller("treasurer", "retail_B"), audit=AuditLog(path), episode="e1")
    assert ask(other, "transfer", to="x", amount=5).content == "theirs"


def test_a_full_disk_is_an_error_for_the_caller_and_the_action_is_not_done(tmp_path):
    sent, path = [], tmp_path / "calls.jsonl"
    box = desk(sent, AuditLog(path))
    ask(box, "transfer", to="x", amount=1)
    whole = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, before[1]))
        with pytest.raises(InfrastructureError, match="cannot be written"):
            ask(box, "transfer", to="y", amount=1)
        assert path.read_bytes() == whole
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert sent == [("x", 1.0)]
    assert ask(box, "transfer", to="y", amount=1).status == "ok"
    assert verify_audit(path).problems == ()


def test_no_space_left_is_said_in_these_words(tmp_path, monkeypatch):
    def full(file, raw):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = AuditLog(tmp_path / "calls.jsonl")
    monkeypatch.setattr("posttrain.tools.audit.os.write", full)
    with pytest.raises(InfrastructureError, match="cannot be written: no space left"):
        log.append({"event": "call"})


def test_an_end_that_cannot_be_written_says_that_the_action_was_done(tmp_path):
    class Failing(AuditLog):
        def _put(self, raw):
            if b'"done"' in raw:
                raise InfrastructureError("no space left")
            super()._put(raw)

    sent, path = [], tmp_path / "calls.jsonl"
    box = desk(sent, Failing(path))
    with pytest.raises(InfrastructureError, match="transfer was carried out, but its end could not be recorded: no space left"):
        ask(box, "transfer", to="x", amount=1)
    assert ask(box, "transfer", to="x", amount=1).status == "repeated"
    assert len(sent) == 1
    assert len(verify_audit(path).notes) == 1


def test_passwords_are_not_recorded_and_very_long_arguments_by_length_only(tmp_path):
    from pydantic import SecretStr

    @tool
    def login(user: str, password: SecretStr) -> str:
        """Log in."""
        return f"{user} with {len(password.get_secret_value())} characters"

    path = tmp_path / "calls.jsonl"
    box = Toolbox([login], caller=CALLER, audit=AuditLog(path))
    assert ask(box, "login", user="ada", password="hunter22").content == "ada with 8 characters"
    ask(box, "login", user="a" * 100_000, password="hunter22")
    assert "hunter22" not in path.read_text()
    first, second = read_audit(path)
    assert first["arguments"] == {"user": "ada", "password": "(hidden)"}
    assert second["arguments"]["omitted_characters"] > 100_000


def test_calls_that_cannot_be_read_are_recorded_too(tmp_path):
    path = tmp_path / "calls.jsonl"
    box = desk([], AuditLog(path))
    box.call(ToolCall("half \ud800", {"a": "\ud800"}))
    box.call(ToolCall("balance", {1, 2}))
    assert [line["status"] for line in read_audit(path)] == ["unknown_tool", "invalid_arguments"]
    assert verify_audit(path).problems == ()


@pytest.mark.parametrize("name", ["caller", "key", "digest"])
def test_an_episode_whose_record_was_damaged_is_not_gone_on_with(tmp_path, name):
    path = tmp_path / "calls.jsonl"
    ask(desk([], AuditLog(path)), "transfer", to="x", amount=1)
    path.write_text("".join(json.dumps({key: value for key, value in line.items() if key != name}) + "\n" for line in read_audit(path)))
    with pytest.raises(DataError, match="episode 'e1' was changed or damaged"):
        desk([], AuditLog(path))


def test_words_of_a_model_can_neither_add_a_line_nor_command_the_terminal(tmp_path):
    box = desk([], AuditLog(tmp_path / "calls.jsonl"))
    box.call(ToolCall("x\n    9  2026-01-01T00:00:00.000Z  bank_A/cfo  transfer {}  ok\x1b[2J", {"a": "\x9b2J\u2028\u202e\ud800"}))
    (line,) = audit_lines(read_audit(tmp_path / "calls.jsonl"))
    assert len(line.splitlines()) == 1
    assert "x\\n    9" in line
    assert not set("\x1b\x9b\u202e\ud800") & set(line)


def test_a_missing_log_and_a_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="no such audit log"):
        verify_audit(tmp_path / "none")
    with pytest.raises(InfrastructureError, match="cannot open the audit log"):
        AuditLog(tmp_path)
