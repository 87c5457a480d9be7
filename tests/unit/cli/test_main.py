import json
import subprocess
import sys

import pytest

from posttrain.cli.main import COMMANDS
from posttrain.models import write_tiny_model


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "posttrain", *arguments], capture_output=True, text=True, timeout=120)


def test_help_lists_every_command_and_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "posttrain", "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy", "pydantic"}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_an_example_and_starts_without_torch(name):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "posttrain", name, "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "posttrain " + name in done.stdout
    assert "xample" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers"}


def test_an_unknown_command_suggests_the_nearest_and_exits_2():
    done = run("rnu")
    assert done.returncode == 2
    assert "did you mean 'run'?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", ["a file", "below a file", "a store that is none"])
def test_a_place_that_cannot_be_written_is_one_message_before_any_training(tmp_path, place):
    file = tmp_path / "file"
    file.write_text("mine")
    write_tiny_model(tmp_path / "tiny", ["hello there"], seed=0)
    (tmp_path / "d.jsonl").write_text('{"prompt": "hello", "completion": "there"}\n' * 4)
    (tmp_path / "d.jsonl.card.yaml").write_text("source: s\nlicence: MIT\nconsent: made data\nprovenance: p\n")
    out, store = {"a file": (file, "l.db"), "below a file": (file / "out", "l.db"), "a store that is none": (tmp_path / "out", file)}[place]
    done = run("sft", "-m", str(tmp_path / "tiny"), "-d", str(tmp_path / "d.jsonl"), "-o", str(out), "--store", str(tmp_path / store))
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error:") == 1
    assert done.returncode in (2, 3)
    assert file.read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_an_error_under_json_is_one_object_on_stdout():
    done = run("run", "no-such-recipe.yaml", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert "no-such-recipe.yaml: no such file" in done.stderr
