import json
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.tools import AuditLog

TOOLS = '''
from posttrain.tools import tool


@tool
def get_balance(account: str) -> dict:
    """Balance of an account.

    Args:
        account: four digits
    """
    print("looking")
    return {"account": account, "balance": 100}


@tool(action=True, roles=("treasurer",))
def request_transfer(to: str, amount: float, log: str) -> str:
    """Ask for a transfer."""
    with open(log, "a") as stream:
        stream.write(f"{to} {amount}\\n")
    return "requested"
'''


def posttrain(*arguments):
    command = [str(Path(sys.executable).with_name("posttrain")), "tools", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tools.py"
    path.write_text(TOOLS)
    return path


def test_show_and_check_find_a_tool_that_was_changed_silently(file, tmp_path):
    shown = posttrain("show", file)
    assert shown.returncode == 0
    assert "    account: string - four digits" in shown.stdout.splitlines()
    assert shown.stdout.splitlines()[3].startswith("request_transfer  action  sha256:")
    record = tmp_path / "recorded.json"
    record.write_text(posttrain("show", file, "--json").stdout)
    same = posttrain("check", file, "--against", record)
    assert (same.returncode, same.stdout.startswith("2 tools, version sha256:")) == (0, True)
    file.write_text(TOOLS.replace('roles=("treasurer",)', 'roles=("treasurer", "clerk")'))
    changed = posttrain("check", file, "--against", record, "--json")
    assert changed.returncode == 1
    told = json.loads(changed.stdout)
    assert told["ok"] is False
    assert told["changes"][1] == '  roles: ["treasurer"] -> ["clerk", "treasurer"]'


def test_call_answers_as_a_model_would_read_it_and_the_record_is_verified(file, tmp_path):
    audit, log = tmp_path / "calls.jsonl", tmp_path / "transfers"
    arguments = json.dumps({"to": "x", "amount": 5, "log": str(log)})
    options = ("--tenant", "bank_A", "--audit", audit, "--episode", "e1")
    forbidden = posttrain("call", file, "request_transfer", arguments, "--role", "clerk", *options)
    assert (forbidden.returncode, forbidden.stdout.startswith("[forbidden] ")) == (1, True)
    dry = posttrain("call", file, "request_transfer", arguments, "--role", "treasurer", "--dry-run", *options)
    assert (dry.returncode, dry.stdout.startswith("[dry_run] Dry run: would call request_transfer")) == (0, True)
    assert not log.exists()
    first, second = (posttrain("call", file, "request_transfer", arguments, "--role", "treasurer", *options, "--json") for _ in range(2))
    assert [json.loads(done.stdout)["status"] for done in (first, second)] == ["ok", "repeated"]
    assert log.read_text() == "x 5.0\n"
    read = posttrain("call", file, "get_balance", '{"account": "1000"}', "--json")
    assert (json.loads(read.stdout)["content"], read.stderr) == ('{"account": "1000", "balance": 100}', "looking\n")

    head = AuditLog(audit).head
    verified = posttrain("audit", "verify", audit, "--head", head)
    assert (verified.returncode, verified.stdout) == (0, f"5 lines, as it was written; head {head}\n")
    shown = posttrain("audit", "show", audit, "--tool", "request_transfer")
    assert [line.split("}")[-1].strip() for line in shown.stdout.splitlines()] == [
        "forbidden",
        "dry_run",
        "intent",
        "ok (line 3 ended)",
        "repeated",
    ]
    audit.write_text(audit.read_text().replace('"clerk"', '"ceo"'))
    tampered = posttrain("audit", "verify", audit, "--json")
    assert tampered.returncode == 1
    assert json.loads(tampered.stdout)["problems"][0] == "line 1 was changed"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "none.py"), "none.py: no such file"),
        (("call", "FILE", "get_balance", "{account}"), "the arguments are not JSON"),
        (("call", "FILE", "get_balance", "[" * 20_000), "the arguments are not JSON"),
        (("show", "mcp:python 'server.py"), "not a command: No closing quotation"),
        (("audit", "verify", "none.jsonl"), "no such audit log"),
    ],
)
def test_mistakes_get_one_message_and_exit_code_2(file, arguments, said):
    done = posttrain(*(file if argument == "FILE" else argument for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_tools_of_an_mcp_server_are_called_by_command(tmp_path):
    pytest.importorskip("mcp", reason="needs the extra mcp")
    server = Path(__file__).parents[1] / "unit" / "tools" / "mcp_server.py"
    done = posttrain("call", f"mcp:{sys.executable} {server} stdio {tmp_path}", "add", '{"a": 2, "b": 3}')
    assert (done.returncode, done.stdout, done.stderr) == (0, "[ok] 5\n", "")
