"""A place where a command cannot write is one message before any work, in every command that takes one."""

import pytest
from typer.testing import CliRunner

from posttrain.cli.main import app
from posttrain.errors import ConfigError

FOLDERS = [
    *(("run", "r.yaml", "--out"), ("sft", "-m", "m", "-d", "d", "--out"), ("preference", "-m", "m", "-d", "d", "--out")),
    *(("ppo", "-m", "m", "-d", "d", "--out"), ("reward", "train", "-m", "m", "-d", "d", "--out"), ("eval", "-s", "s", "-m", "m", "--out")),
    *(("sweep", "s.yaml", "--out"), ("models", "merge", "m", "a", "--out"), ("index", "build", "d", "--out"), ("init",)),
    *(("drill", "--keep"), ("eval", "-s", "s", "-m", "m", "-o", "new", "--cache")),
]
FILES = [
    *(("generate", "-m", "m", "-p", "p", "--out"), ("preferences", "pairs", "f", "--out"), ("contract", "freeze", "m", "--output")),
    *(("gate", "-c", "c", "-b", "b", "-g", "g", "--report"), ("gate", "-c", "c", "-b", "b", "-g", "g", "--junit")),
    *(("preferences", "report", "f", "--html"), ("reward", "score", "m", "-d", "d", "--out"), ("world", "tasks", "finops", "--out")),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run in, with a file and a folder where something is to be written, and a recipe that is whole."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "taken").mkdir()
    return tmp_path


def refusal(arguments):
    error = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(error, ConfigError), (arguments, error)
    return error.message


@pytest.mark.parametrize("arguments", FOLDERS, ids=lambda arguments: " ".join(arguments))
def test_a_file_where_a_folder_goes_is_refused(place, arguments):
    if arguments[0] == "run":
        CliRunner().invoke(app, ["init", ".", "--name", "r"], catch_exceptions=False)
        arguments = ("run", "recipes/r.yaml", "--out")
    assert refusal([*arguments, "notes.txt"]) == "notes.txt is a file, and a folder is to be written there"
    assert refusal([*arguments, "notes.txt/below"]) == "notes.txt/below cannot be written: notes.txt is a file, not a folder"
    assert (place / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("arguments", FILES, ids=lambda arguments: " ".join(arguments))
def test_a_folder_where_a_file_goes_is_refused(place, arguments):
    assert refusal([*arguments, "taken"]) == "taken is a folder, and a file is to be written there"
    assert refusal([*arguments, "notes.txt/below"]) == "notes.txt/below cannot be written: notes.txt is a file, not a folder"


def test_a_run_without_out_beside_a_file_called_runs_is_refused(place):
    CliRunner().invoke(app, ["init", ".", "--name", "r"], catch_exceptions=False)
    (place / "runs").write_text("mine")
    assert refusal(["run", "recipes/r.yaml", "--dry-run"]) == "runs/r cannot be written: runs is a file, not a folder"
