"""The commands on a tiny model: `posttrain generate`, killed and resumed, and `posttrain chat` over a pipe."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from posttrain.cli.chat import app as chat_app
from posttrain.cli.generate import app as generate_app
from posttrain.errors import ConfigError, ModelError
from posttrain.models.tiny import write_tiny_model

TEXTS = [f"the ledger of account {i} shows {i * 37} paid and {i * 11} owed" for i in range(60)]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", TEXTS, seed=5, vocab_size=400, hidden=32, max_length=1024)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{i}", "prompt": f"account {i}"}) + "\n" for i in range(16)))
    return path


def run(app, *arguments, text=""):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text, catch_exceptions=False)


def texts(path):
    return {row["id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}


def test_generate_killed_half_way_goes_on_and_gives_the_same_answers(model, prompts, tmp_path):
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    arguments = ["--model", str(model), "--prompts", str(prompts), "--max-new-tokens", "60", "--temperature", "0.8", "--batch-size", "2"]
    command = [sys.executable, "-m", "posttrain", "generate", *arguments, "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = out.read_bytes().count(b"\n")
    assert 2 <= kept < 16
    told = json.loads(run(generate_app, *arguments, "--out", out, "--json").stdout)
    assert (told["answers"], told["answered_now"]) == (16, 16 - kept)
    assert f"{whole}: 16 answers (16 now)" in run(generate_app, *arguments, "--out", whole).stdout
    assert texts(out) == texts(whole)
    assert len(texts(out)) == 16


def test_generate_says_what_is_wrong_with_its_input(model, prompts, tmp_path):
    out = tmp_path / "o.jsonl"
    with pytest.raises(ModelError, match="is no model"):
        run(generate_app, "-m", tmp_path / "none", "-p", prompts, "-o", out)
    with pytest.raises(ConfigError, match=r"request 0 \('r0'\): sampling.temperature is -1.0"):
        run(generate_app, "-m", model, "-p", prompts, "-o", out, "--temperature", "-1")
    assert not out.exists() or out.read_text() == ""


def test_chat_answers_piped_questions_as_one_conversation(model):
    done = run(chat_app, "-m", model, "--system", "Be brief.", "--max-new-tokens", 4, "--json", text="account 7\n\n/help\nand owed?\n")
    messages = json.loads(done.stdout)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [messages[i]["content"] for i in (0, 1, 3)] == ["Be brief.", "account 7", "and owed?"]
    assert "/reset starts again" in done.stderr


def test_chat_shows_its_answers_and_nothing_else_on_stdout(model):
    arguments = ("-m", model, "--max-new-tokens", 6)
    answers = [
        turn["content"]
        for turn in json.loads(run(chat_app, *arguments, "--json", text="account 7\n").stdout)["messages"]
        if turn["role"] == "assistant"
    ]
    assert run(chat_app, *arguments, text="account 7\n").stdout == answers[0] + "\n"


def test_chat_reset_forgets_and_quit_leaves(model):
    done = run(chat_app, "-m", model, "--max-new-tokens", 4, "--json", text="account 7\n/reset\nand owed?\n/quit\nnever asked\n")
    assert [message["content"] for message in json.loads(done.stdout)["messages"] if message["role"] == "user"] == ["and owed?"]
