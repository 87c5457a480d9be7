"""What a step of a run is reused for, and what makes it start afresh."""

import pytest

from posttrain.recipes import SilentDisplay, Steps


class Told(SilentDisplay):
    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)


@pytest.fixture
def told():
    return Told()


def train(folder):
    for name in ("model/weights.bin", "checkpoints/step-1.bin", "logs/log.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("trained")
    return {"path": str(folder / "model"), "lineage": "model:1"}


def run(out, told, *, versions=None, before=(), lineage="model:1"):
    """One run with the steps named in ``before``, then a training step and a measurement of what it made."""
    steps = Steps(out, told)
    for name in before:
        steps.do(name, name, {}, lambda folder: {})
    trained = steps.do("1-sft", "train", {"versions": versions or {"code": "a"}}, lambda folder: train(folder) | {"lineage": lineage})
    measured = steps.do("evaluate", "evaluate", {"model": trained.key}, lambda folder: {"lineage": "evaluation:1"})
    return trained, measured


def test_a_finished_step_is_reused_while_its_files_are_as_it_left_them(tmp_path, told):
    assert [step.state for step in run(tmp_path, told)] == ["run", "run"]
    (tmp_path / "01-1-sft/checkpoints/step-1.bin").unlink()
    (tmp_path / "01-1-sft/logs/log.jsonl").write_text("a viewer wrote here")
    assert [step.state for step in run(tmp_path, told)] == ["reused", "reused"]
    assert told.lines == []


@pytest.mark.parametrize(
    ("harm", "what"),
    [(lambda file: file.write_text("others"), "was changed after the step was done"), (lambda file: file.unlink(), "is missing")],
)
def test_a_step_whose_file_is_not_as_it_was_left_is_made_anew_and_the_file_named(tmp_path, told, harm, what):
    run(tmp_path, told)
    weights = tmp_path / "01-1-sft/model/weights.bin"
    harm(weights)
    assert [step.state for step in run(tmp_path, told)] == ["run", "reused"]
    assert told.lines == [f"made anew: {weights} {what}"]
    assert weights.read_text() == "trained"


def test_what_was_made_from_a_step_follows_it_when_it_comes_out_differently(tmp_path, told):
    run(tmp_path, told)
    (tmp_path / "01-1-sft/model/weights.bin").unlink()
    assert [step.state for step in run(tmp_path, told, lineage="model:2")] == ["run", "run"]
    assert told.lines[1] == "made anew: 1-sft came out differently than what this step was made from"
    assert [step.state for step in run(tmp_path, told, lineage="model:2")] == ["reused", "reused"]


def test_finished_steps_are_found_under_the_number_they_had(tmp_path, told):
    first = run(tmp_path, told)
    again = run(tmp_path, told, before=["data-second", "curate-second"])
    assert [step.state for step in again] == ["reused", "reused"]
    assert [step.folder for step in again] == [step.folder for step in first]


def test_an_interrupted_step_goes_on_under_the_number_it_had(tmp_path, told):
    run(tmp_path, told)
    (tmp_path / "01-1-sft/done.json").unlink()
    trained, _ = run(tmp_path, told, before=["data-second"])
    assert (trained.state, trained.folder.name) == ("resume", "01-1-sft")


def test_a_step_made_anew_names_what_changed(tmp_path, told):
    run(tmp_path, told, versions={"code": "a", "numpy": "2.4.0"})
    trained, _ = run(tmp_path, told, versions={"code": "b", "numpy": "2.4.1"}, before=["data-second"])
    assert trained.state == "run"
    assert told.lines[0] == "made anew, as these changed: posttrain's code, numpy 2.4.0 -> 2.4.1"
