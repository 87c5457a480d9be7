"""`posttrain sft` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.cli.main import main
from posttrain.models import write_tiny_model

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder with a tiny model and twelve rows of data."""
    folder = tmp_path_factory.mktemp("sft")
    rows = [(f"Number {n}?", f"It is {n}.") for n in range(12)]
    write_tiny_model(folder / "model", [text for row in rows for text in row], seed=1, vocab_size=300, hidden=32)
    lines = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "rows.jsonl.card.yaml").write_text(CARD)
    return folder


COMMAND = ("sft", "--data", "rows.jsonl", "--store", "l.db")
LORA = ("--model", "model", "--out", "out", "--lora-rank", "4", "--set", "training.epochs=2", "--set", "training.sequences_per_step=4")


@pytest.fixture(scope="session")
def trained(place):
    """What a LoRA run in a process of its own prints."""
    command = [str(Path(sys.executable).with_name("posttrain")), *COMMAND, *LORA, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_lora_prints_one_json_object_and_writes_an_adapter_and_a_log(place, trained):
    assert trained.returncode == 0, trained.stderr
    answer = json.loads(trained.stdout)
    assert answer["written"] == "out/adapter"
    assert answer["id"].startswith("adapter:")
    assert answer["metrics"]["steps"] == 6  # 12 rows * 2 epochs / 4 a step
    assert (place / "out" / "adapter" / "adapter_model.safetensors").is_file()
    steps = [json.loads(line) for line in (place / "out" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "step" in row] == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("trained")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*LORA, "--set", "training.seed=5"), "a run with other settings: seed: was 17, now 5"),
        (("--model", "nowhere", "--out", "none"), "'nowhere' is no model"),
        (("--model", "model", "--out", "none", "--set", "training.epoch=2"), "did you mean 'epochs'?"),
    ],
)
def test_a_mistake_prints_one_message_and_exits_2(place, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["posttrain", *COMMAND, *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
