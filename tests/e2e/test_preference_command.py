"""`posttrain preference` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli.main import main
from posttrain.models import write_tiny_model

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
PAIRS = [{"prompt": f"Number {n}?", "chosen": f"It is {n}.", "rejected": "Who knows, not me."} for n in range(12)]


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a tiny model, twelve pairs and the same answers as labels."""
    folder = tmp_path_factory.mktemp("preference")
    write_tiny_model(folder / "model", [text for row in PAIRS for text in row.values()], seed=1, vocab_size=300, hidden=32)
    labels = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"} for row in PAIRS for side in ("chosen", "rejected")
    ]
    for name, rows in {"pairs": PAIRS, "fewer": PAIRS[:6], "labels": labels, "one-sided": [{"prompt": "a", "chosen": "b"}]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.jsonl.card.yaml").write_text(CARD)
    return folder


COMMAND = ("preference", "--model", "model", "--store", "l.db")
SMALL = ("--set", "training.sequences_per_step=4", "--set", "watch.samples=2", "--set", "watch.max_new_tokens=8")
DPO = ("--data", "pairs.jsonl", "--out", "out", "--lora-rank", "4", "--set", "objective.beta=0.2", "--set", "reference_cache=ref", *SMALL)


@pytest.fixture(scope="session")
def trained(place):
    """What a DPO run with LoRA in a process of its own prints."""
    command = [str(Path(sys.executable).with_name("posttrain")), *COMMAND, *DPO, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=240, check=False)


def run(place, monkeypatch, *arguments):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["posttrain", *COMMAND, *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_dpo_prints_one_json_object_and_writes_adapter_result_and_log(place, trained):
    assert trained.returncode == 0, trained.stderr
    answer = json.loads(trained.stdout)
    assert answer["written"] == "out/adapter"
    assert answer["id"].startswith("adapter:")
    assert answer["metrics"]["steps"] == 3  # 12 pairs / 4 a step
    result = json.loads((place / "out" / "result.json").read_text())
    assert result["settings"]["objective"] == {"name": "dpo", "beta": 0.2, "label_smoothing": 0.0}
    assert {"chosen", "rejected", "sampled", "gap"} <= result["start"].keys()
    steps = [json.loads(line) for line in (place / "out" / "log.jsonl").read_text().splitlines()]
    last = next(row["metrics"] for row in steps if row.get("step") == 3)
    assert {"rewards/margin", "watch/kl", "watch/refusals", "logps/chosen_change"} <= last.keys()
    assert (place / "ref" / "answers" / "logprobs.f32").is_file()


@pytest.mark.usefixtures("trained")
def test_another_objective_uses_the_same_reference_cache(place, monkeypatch, capsys):
    before = (place / "ref" / "answers" / "reference.json").stat().st_mtime_ns
    code = run(place, monkeypatch, "-d", "pairs.jsonl", "-o", "ipo", "--objective", "ipo", "--set", "reference_cache=ref", *SMALL)
    assert code == 0
    assert "loss" in capsys.readouterr().out
    assert (place / "ref" / "answers" / "reference.json").stat().st_mtime_ns == before


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*DPO, "--set", "objective.beta=0.3"), "objective: was {'name': 'dpo', 'beta': 0.2"),
        (("-d", "labels.jsonl", "-o", "a"), "single labelled answers, and pairs are needed here"),
        (("-d", "pairs.jsonl", "-o", "b", "--objective", "kto"), "unpair: true"),
        (("-d", "one-sided.jsonl", "-o", "c"), "'preference' lacks only 'rejected'"),
        (("-d", "pairs.jsonl", "-o", "d", "--set", "max_tokens=20"), "12 of 12 rows longer than 20 tokens"),
        (("-d", "pairs.jsonl", "-o", "e", "--objective", "simpoo"), "did you mean 'simpo'?"),
        (
            ("-d", "fewer.jsonl", "-o", "f", "--set", "reference_cache=ref"),
            "ref/answers holds the reference log-probabilities of another run: other data",
        ),
    ],
)
def test_a_mistake_prints_one_message_and_exits_2(place, monkeypatch, capsys, arguments, message):
    assert run(place, monkeypatch, *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_rank_on_the_command_line_wins_and_the_files_other_settings_stay(place, monkeypatch):
    (place / "lora.yaml").write_text("lora: {rank: 8, alpha: 3, targets: attention+mlp}\ntraining: {max_steps: 1}\n")
    given = ("--data", "pairs.jsonl", "--out", "lora", "--config", "lora.yaml", "--lora-rank", "2", "--set", "watch.samples=0")
    assert not run(place, monkeypatch, *given)
    used = json.loads((place / "lora" / "result.json").read_text())["settings"]["lora"]
    assert (used["rank"], used["alpha"], used["targets"]) == (2, 3, "attention+mlp")
