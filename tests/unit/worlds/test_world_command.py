import json

import pytest
from typer.testing import CliRunner

from posttrain.cli.world import app
from posttrain.data import card_path
from posttrain.errors import ConfigError, DataError
from posttrain.worlds import worlds


def run(*arguments, text=None):
    return CliRunner().invoke(app, list(arguments), input=text, catch_exceptions=False)


def turns_of(task):
    """The expert's turns as the JSON that ``play --calls`` reads."""
    turns = []
    for message in task.demonstration:
        if message.tool_calls:
            turns.append([{"name": call.name, "arguments": dict(call.arguments)} for call in message.tool_calls])
        elif message.role == "assistant":
            turns.append(message.content)
    return turns


def test_tasks_are_written_with_their_card(tmp_path):
    out = tmp_path / "cases.jsonl"
    result = run("tasks", "finops", "--split", "test", "--count", "9", "--as", "cases", "--out", str(out), "--only", "lookup", "--json")
    assert json.loads(result.stdout)["rows"] == len(out.read_text().splitlines()) == 9
    assert all("family:lookup" in json.loads(line)["slices"] for line in out.read_text().splitlines())
    assert 'split: "test"' in card_path(out).read_text()


def test_a_task_is_shown_with_its_solution_and_what_is_wrong():
    task = worlds.get("finops").task("test", seed=1, number=4)
    row = json.loads(run("show", "finops", "--split", "test", "--seed", "1", "--task", "4", "--json").stdout)
    assert (row["id"], row["expected"]) == (task.id, task.expected)
    shown = run("show", "finops", "--split", "test", "--seed", "1", "--task", "4").stdout
    assert task.demonstration[-1].content in shown
    assert all(one["reason"] in shown for one in row["counterexamples"])


@pytest.mark.parametrize("number", range(4))
def test_playing_the_experts_turns_solves_the_task_and_doing_nothing_does_not(tmp_path, number):
    (task,) = worlds.get("finops").tasks("test", seed=number, count=1, only=["two_step"])
    where = ("--split", "test", "--seed", str(number), "--task", str(task.world["task"]))
    calls = tmp_path / "calls.json"
    calls.write_text(json.dumps(turns_of(task)))
    result = run("play", "finops", *where, "--calls", str(calls))
    assert (result.exit_code, "end state: as expected" in result.stdout) == (0, True)
    calls.write_text("[]")
    assert run("play", "finops", *where, "--calls", str(calls)).exit_code == 1


def test_calls_are_typed_until_an_answer_ends_it():
    (task,) = worlds.get("finops").tasks("test", seed=0, count=1, only=["parallel"])
    typed = "\n".join(turn if isinstance(turn, str) else json.dumps(turn) for turn in turns_of(task))
    result = run("play", "finops", "--split", "test", "--task", str(task.world["task"]), "--json", text=typed + "\n")
    assert (result.exit_code, json.loads(result.stdout.splitlines()[-1])["answer_missing"]) == (0, [])


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ("{", "not JSON"),
        ("[" * 20_000, "not JSON"),
        ("{}", "a dict, not a list"),
        ('[{"nam": 1}]', "is not a call"),
        ("[[5]]", "is not a call"),
    ],
)
def test_calls_that_cannot_be_read_are_named(tmp_path, calls, message):
    path = tmp_path / "calls.json"
    path.write_text(calls)
    with pytest.raises(DataError, match=message):
        run("play", "finops", "--calls", str(path))


def test_unknown_names_are_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'finops'"):
        run("show", "finop")
    with pytest.raises(DataError, match="did you mean 'test'"):
        run("show", "finops", "--split", "tst")
