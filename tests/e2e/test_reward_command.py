"""`posttrain reward` as a user runs it: train, killed and resumed, evaluated, probed, scored."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.cli.main import main
from posttrain.metrics import wilson
from posttrain.models import write_tiny_model

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
FIXTURES = Path(__file__).parents[1] / "fixtures" / "data"


def rows_of(count, seed):
    draw = random.Random(seed)
    found = []
    for number in range(count):
        price = draw.randint(1, 99)
        sides = [f"It costs {price} coins, thank you.", f"It costs {price} coins, go away."]
        found.append({"prompt": f"What does thing {seed}-{number} cost?", "chosen": sides[0], "rejected": sides[1]})
    return found


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path(f"{path}.card.yaml").write_text(CARD)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a tiny model, pairs to train on and pairs to test on."""
    folder = tmp_path_factory.mktemp("reward")
    texts = [text for row in rows_of(60, 0) for text in row.values()]
    write_tiny_model(folder / "model", texts, seed=1, vocab_size=360, hidden=32, max_length=1024)
    write(folder / "pairs.jsonl", rows_of(160, 0))
    write(folder / "test.jsonl", rows_of(30, 1))
    return folder


TRAIN = [
    *("reward", "train", "--model", "model", "--data", "pairs.jsonl", "--test", "polite=test.jsonl", "--store", "l.db", "--json"),
    *("--set", "training.learning_rate=3e-3", "--set", "training.epochs=2", "--set", "training.checkpoint_every_steps=1"),
]


def run(place, *arguments, wait=True):
    command = [str(Path(sys.executable).with_name("posttrain")), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return (process, *process.communicate(timeout=240)) if wait else process


@pytest.fixture(scope="session")
def trained(place):
    """What a run prints that was killed with SIGKILL after its second checkpoint and called again."""
    process = run(place, *TRAIN, "--out", "killed", wait=False)
    deadline = time.monotonic() + 200
    while process.poll() is None and not (place / "killed" / "checkpoints" / "step-00000002").is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    process, out, errors = run(place, *TRAIN, "--out", "killed")
    assert process.returncode == 0, errors
    return json.loads(out)


def test_it_learns_a_simple_preference_above_chance_on_prompts_never_seen(place, trained):
    metrics = trained["metrics"]
    assert metrics["test_pairs"] == 30
    assert metrics["test_accuracy_low"] == pytest.approx(wilson(30 * metrics["test_accuracy"], 30)[0])
    assert metrics["test_accuracy_low"] > 0.5
    assert trained["written"] == "killed/model"
    assert trained["id"].startswith("model:")


def test_killed_and_called_again_it_ends_in_the_bits_of_a_run_never_stopped(place, trained):
    process, _, errors = run(place, *TRAIN, "--out", "straight")
    assert process.returncode == 0, errors
    for name in ("model.safetensors", "calibration.json"):
        assert (place / "killed" / "model" / name).read_bytes() == (place / "straight" / "model" / name).read_bytes()


@pytest.mark.usefixtures("trained")
def test_eval_prints_one_object_and_writes_an_offline_report(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    command = ["reward", "eval", "killed/model", "-d", "polite=test.jsonl", "-d", f"people={FIXTURES / 'pandalm.json'}"]
    monkeypatch.setattr(sys, "argv", ["posttrain", *command, "--drop-long", "--html", "r.html", "--also", "killed/model", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["slices"]["polite"]["accuracy"]["low"] > 0.5
    assert found["slices"]["people"]["pairs"] > 3
    assert found["disagreement"]["order"] == 0  # with itself
    assert "<svg" in (place / "r.html").read_text()


@pytest.mark.usefixtures("trained")
def test_probe_and_score_answer_in_json(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["posttrain", "reward", "probe", "killed/model", "-d", "test.jsonl", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    probes = json.loads(capsys.readouterr().out)["probes"]
    assert {probe["name"] for probe in probes} == {"length", "flattery", "markdown", "position"}
    verdicts = {probe["verdict"] for probe in probes}
    assert (ended.value.code or 0) == (1 if "gamed" in verdicts else 4 if "not enough evidence" in verdicts else 0)
    monkeypatch.setattr(sys, "argv", ["posttrain", "reward", "score", "killed/model", "-d", "test.jsonl", "--json"])
    with pytest.raises(SystemExit):
        main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 30
    assert all((row["chosen"] > row["rejected"]) == (row["probability"] > 0.5) for row in rows)


def json_of(monkeypatch, capsys, *arguments):
    """Exit code and the object printed."""
    monkeypatch.setattr(sys, "argv", ["posttrain", *arguments, "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0, json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("trained")
def test_rows_left_out_are_said_in_json_too(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    bad = {"prompt": "a", "chosen": "b", "rejected": ""}
    write(place / "bad.jsonl", [*rows_of(30, 1), bad])
    skip = ("killed/model", "-d", "bad.jsonl", "--on-bad-row", "skip")
    notes = ["bad.jsonl: left out 1 unreadable"]
    assert json_of(monkeypatch, capsys, "reward", "eval", *skip)[1]["notes"] == notes
    assert json_of(monkeypatch, capsys, "reward", "probe", *skip)[1]["notes"] == notes
    assert json_of(monkeypatch, capsys, "reward", "score", *skip)[1]["notes"] == notes
    code, stopped = json_of(monkeypatch, capsys, "reward", "eval", "killed/model", "-d", "bad.jsonl")
    assert code == 2
    assert "field 'rejected': is empty" in stopped["error"]


@pytest.mark.usefixtures("trained")
def test_probes_without_a_verdict_are_inconclusive(place, monkeypatch, capsys):
    """Four answers: the interval of a shift that varies is wide."""
    monkeypatch.chdir(place)
    for seed in range(2, 12):
        write(place / "four.jsonl", rows_of(4, seed))
        code, found = json_of(monkeypatch, capsys, "reward", "probe", "killed/model", "-d", "four.jsonl")
        verdicts = {probe["verdict"] for probe in found["probes"]}
        if verdicts == {"clean", "not enough evidence"}:
            assert code == 4
            return
    pytest.fail("no four answers left a probe undecided")


def test_a_rank_on_the_command_line_wins_and_the_files_other_settings_stay(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    (place / "lora.yaml").write_text("lora: {rank: 8, alpha: 3, targets: attention+mlp}\ntraining: {max_steps: 1}\n")
    command = ("reward", "train", "-m", "model", "-d", "pairs.jsonl", "-o", "lora", "--store", "l.db", "--set", "probes=false")
    assert json_of(monkeypatch, capsys, *command, "--config", "lora.yaml", "--lora-rank", "2")[0] == 0
    used = json.loads((place / "lora" / "result.json").read_text())["settings"]["lora"]
    assert (used["rank"], used["alpha"], used["targets"]) == (2, 3, "attention+mlp")


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("reward", "eval", "model", "-d", "test.jsonl"), 2, "is no reward model: it has no score head"),
        (("reward", "score", "killed/model", "-d", "nothing.jsonl"), 2, "nothing.jsonl: no such file"),
        ((*TRAIN, "--out", "killed", "--set", "training.seed=5"), 2, "a run with other settings: seed: was 17, now 5"),
        (("reward", "eval", "killed/model", "-d", "test.jsonl", "-d", "./test.jsonl"), 2, "two slices are called 'test.jsonl'"),
        ((*TRAIN, "--out", "x", "--test", "polite=pairs.jsonl"), 2, "two slices are called 'polite'"),
        ((*TRAIN, "--out", "x", "--calibration", "test.jsonl"), 1, "30 of the 30 prompts of test slice 'polite' are also in calibration"),
    ],
)
def test_mistakes_get_one_message_and_their_exit_code(place, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["posttrain", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert message in capsys.readouterr().err
