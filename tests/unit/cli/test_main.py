import json
import subprocess
import sys

import pytest

from posttrain.cli.main import COMMANDS


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


def test_an_error_under_json_is_one_object_on_stdout():
    done = run("run", "no-such-recipe.yaml", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert "no-such-recipe.yaml: no such file" in done.stderr
