"""The commands on a tiny model: `posttrain generate`, killed and resumed, and `posttrain chat` over a pipe."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from posttrain.models.tiny import write_tiny_model

TEXTS = [f"the ledger of account {i} shows {i * 37} paid and {i * 11} owed" for i in range(60)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", TEXTS, seed=5, vocab_size=400, hidden=32, max_length=1024)


def command(*arguments):
    return [sys.executable, "-m", "posttrain", *map(str, arguments)]


def run(*arguments, code=0, text=""):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command(*arguments), input=text, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{i}", "prompt": f"account {i}"}) + "\n" for i in range(40)))
    return path


def test_generate_killed_half_way_goes_on_and_gives_the_same_answers(model, prompts, tmp_path):
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    arguments = [
        "--model",
        model,
        "--prompts",
        prompts,
        "--max-new-tokens",
        60,
        "--temperature",
        0.8,
        "--batch-size",
        2,
        "--dtype",
        "float32",
    ]
    with subprocess.Popen(
        command("generate", *arguments, "--out", out), stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") >= 3):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    kept = out.read_bytes().count(b"\n")
    assert 3 <= kept < 40
    told = json.loads(run("generate", *arguments, "--out", out, "--json").stdout)
    assert (told["answers"], told["answered_now"]) == (40, 40 - kept)
    run("generate", *arguments, "--out", whole)

    def texts(path):
        return {row["id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}

    assert texts(out) == texts(whole)
    assert len(texts(out)) == 40


def test_generate_says_what_is_wrong_with_its_input(model, prompts, tmp_path):
    no_model = run("generate", "-m", tmp_path / "none", "-p", prompts, "-o", tmp_path / "o.jsonl", code=2)
    assert "is no model" in no_model.stderr
    assert "Traceback" not in no_model.stderr
    hot = run("generate", "-m", model, "-p", prompts, "-o", tmp_path / "o.jsonl", "--temperature", "-1", code=2)
    assert "sampling.temperature is -1.0" in hot.stderr
    assert not (tmp_path / "o.jsonl").exists() or (tmp_path / "o.jsonl").read_text() == ""


def test_chat_answers_piped_questions_as_one_conversation(model):
    done = run("chat", "-m", model, "--system", "Be brief.", "--max-new-tokens", 4, "--json", text="account 7\n\n/help\nand owed?\n")
    messages = json.loads(done.stdout)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [message["content"] for message in messages][0::2][:1] + [messages[1]["content"], messages[3]["content"]] == [
        "Be brief.",
        "account 7",
        "and owed?",
    ]
    assert "/reset starts again" in done.stderr


def test_chat_reset_forgets_and_quit_leaves(model):
    done = run("chat", "-m", model, "--max-new-tokens", 4, "--json", text="account 7\n/reset\nand owed?\n/quit\nnever asked\n")
    assert [message["content"] for message in json.loads(done.stdout)["messages"] if message["role"] == "user"] == ["and owed?"]
