"""`posttrain init` and `posttrain run`, as a user types them, on a tiny model trained from scratch."""

import filecmp
import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from command import posttrain

ROOT = Path(__file__).parents[2]
QUICK = ("--set", "stages.0.sft.training.epochs=1", "--set", "stages.0.sft.training.checkpoint_every_steps=5")


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    done = posttrain("init", ".", "--name", "tiny", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def finished(project) -> dict:
    done = posttrain("run", "recipes/tiny.yaml", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_shipped_tiny_recipe_is_what_init_writes(project):
    names = ("recipes/tiny.yaml", "policies/tiny.yaml", "suites/tiny.yaml", "suites/tiny-gate.yaml", "suites/tiny.jsonl")
    for name in (*names, "recipes/data/tiny.jsonl", "recipes/data/tiny.jsonl.card.yaml"):
        assert filecmp.cmp(ROOT / name, project / name, shallow=False), name


def test_the_tiny_recipe_goes_from_nothing_to_a_shipped_model(project, finished):
    assert finished["verdict"] == "ship"
    assert [step["name"].split("-")[0] for step in finished["steps"]] == ["start", "data", "curate", "evaluate", "1", "evaluate", "gate"]
    assert all(step["state"] == "run" for step in finished["steps"])
    before, after = (
        json.loads((project / step["outputs"]["results"] / "summary.json").read_text())["scores"]["exact_match"]["overall"]
        for step in finished["steps"]
        if step["name"].startswith("evaluate")
    )
    assert before["high"] < 0.1, "a random model books nothing right"
    assert after["low"] > 0.8, "the trained one books held-out entries"
    page = (project / finished["report"]).read_text()
    assert "ship" in page
    assert "Training: 1-sft" in page
    assert "Contamination" in page


def test_a_second_run_reuses_every_step_and_gives_the_same_verdict(project, finished):
    done = posttrain("run", "recipes/tiny.yaml", "--json", cwd=project)
    again = json.loads(done.stdout)
    assert {step["state"] for step in again["steps"]} == {"reused"}
    assert again["verdict"] == finished["verdict"]


def test_the_model_is_traced_to_data_policy_suite_and_code(project, finished):
    trained = next(step for step in finished["steps"] if step["name"] == "1-sft")
    done = posttrain("lineage", "show", trained["outputs"]["lineage"], "--store", "runs/lineage.db", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    kinds = done.stdout
    assert all(f'"{kind}"' in kinds for kind in ("data", "policy", "suite", "code", "environment", "config", "model"))


def test_the_gate_command_carries_the_verdict_in_its_exit_code(project, finished):
    start, trained = (step["outputs"]["results"] for step in finished["steps"] if step["name"].startswith("evaluate"))
    arguments = ("gate", "--gate", "suites/tiny-gate.yaml")
    shipped = posttrain(*arguments, "--candidate", trained, "--baseline", start, cwd=project)
    assert shipped.returncode == 0, shipped.stdout + shipped.stderr
    worse = posttrain(*arguments, "--candidate", start, "--baseline", trained, cwd=project)
    assert worse.returncode == 1, worse.stdout + worse.stderr


def test_other_training_settings_reuse_what_they_do_not_touch(project, finished):
    done = posttrain("run", "recipes/tiny.yaml", "--dry-run", "--json", *QUICK, cwd=project)
    states = {step["name"]: step["state"] for step in json.loads(done.stdout)["steps"]}
    assert states["start-model"] == states["curate-sft"] == states["evaluate-start-tiny"] == "reused"
    assert states["1-sft"] == states["gate"] == "run"


def test_a_results_file_edited_behind_a_finished_run_is_made_anew_and_named(project, finished, tmp_path):
    shutil.copytree(project, tmp_path / "copy")
    results = next(tmp_path.glob("copy/runs/tiny/*-evaluate-sft-tiny/results/results.jsonl"))
    text = results.read_text()
    results.write_text(text.replace('"value": 1.0', '"value": 0.0'))
    done = posttrain("run", "recipes/tiny.yaml", "--json", cwd=tmp_path / "copy")
    states = {step["name"]: step["state"] for step in json.loads(done.stdout)["steps"]}
    assert [name for name, state in states.items() if state != "reused"] == ["evaluate-sft-tiny", "gate"]
    assert "results.jsonl was changed after the step was done" in done.stderr
    assert '"value": 1.0' in results.read_text()


def test_a_stage_put_behind_the_others_leaves_them_as_they_are(project, finished, tmp_path):
    shutil.copytree(project, tmp_path / "copy")
    stage = "\n  - sft: {data: recipes/data/tiny.jsonl, training: {learning_rate: 1e-4}}\n    name: second\n"
    with open(tmp_path / "copy/recipes/tiny.yaml", "a") as recipe:
        recipe.write(stage)
    done = posttrain("run", "recipes/tiny.yaml", "--dry-run", "--json", cwd=tmp_path / "copy")
    states = {step["name"]: step["state"] for step in json.loads(done.stdout)["steps"]}
    new = ["data-second", "curate-second", "2-second", "evaluate-second-tiny", "gate"]
    assert [name for name, state in states.items() if state == "run"] == new


def test_a_rerun_with_other_settings_is_no_damage_and_going_back_is_the_latest(project, finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(project, folder)
    verdict = finished["steps"][-1]["outputs"]["lineage"]
    other = posttrain("run", "recipes/tiny.yaml", *QUICK, "--set", "stages.0.sft.training.max_steps=1", cwd=folder)
    assert other.returncode == 0, other.stderr
    verified = posttrain("lineage", "verify", cwd=folder)
    assert verified.returncode == 0, verified.stdout
    assert "records whose files a later run replaced or removed" in verified.stdout
    assert verdict not in posttrain("lineage", "show", "latest:verdict", cwd=folder).stdout
    posttrain("run", "recipes/tiny.yaml", cwd=folder)
    assert posttrain("lineage", "verify", cwd=folder).returncode == 0
    shown = posttrain("lineage", "show", "latest:verdict", cwd=folder).stdout
    assert "verdict ship" in shown.splitlines()[0]
    next(folder.glob("runs/tiny/*-1-sft/model/model.safetensors")).write_bytes(b"others")
    assert posttrain("lineage", "verify", cwd=folder).returncode == 1


def test_killed_at_random_points_it_ends_in_the_same_bits(project, tmp_path):
    begin = time.monotonic()
    straight = posttrain("run", "recipes/tiny.yaml", *QUICK, "--out", str(tmp_path / "straight"), "--json", cwd=project)
    assert straight.returncode == 0, straight.stderr
    seconds, draw = time.monotonic() - begin, random.Random(3)
    killed = 0
    while True:
        try:  # subprocess.run kills with SIGKILL when the time is over
            done = posttrain(
                *("run", "recipes/tiny.yaml", *QUICK, "--out", str(tmp_path / "killed"), "--json"),
                cwd=project,
                timeout=seconds * draw.uniform(0.3, 0.6) if killed < 3 else 300,
            )
            break
        except subprocess.TimeoutExpired:
            killed += 1
    assert killed >= 1, "the run was too quick to be killed once"
    assert done.returncode == 0, done.stderr
    weights = "05-1-sft/model/model.safetensors"
    assert (tmp_path / "straight" / weights).read_bytes() == (tmp_path / "killed" / weights).read_bytes()
    assert json.loads(done.stdout)["verdict"] == json.loads(straight.stdout)["verdict"]


def _edited(project: Path, folder: Path, file: str, old: str, new: str) -> Path:
    for name in ("recipes", "suites", "policies"):
        shutil.copytree(project / name, folder / name)
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize(
    ("file", "old", "new", "code", "message"),
    [
        ("recipes/tiny.yaml", "learning_rate", "learnin_rate", 2, "did you mean 'learning_rate'?"),
        ("recipes/tiny.yaml", "seed: 17", "sede: 17", 2, "unknown key 'sede': did you mean 'seed'?"),
        ("recipes/tiny.yaml", "epochs: 5", "epochs: -1", 2, "greater than 0"),
        ("recipes/tiny.yaml", "target: exact_match", "target: exact_macth", 2, "did you mean 'exact_match'?"),
        ("recipes/tiny.yaml", "- sft:", "- stf:", 2, "did you mean 'sft'?"),
        ("recipes/tiny.yaml", "suites: [suites/tiny.yaml]", "suites: []", 2, "evals come first"),
        ("recipes/tiny.yaml", "policies/tiny.yaml", "policies/none.yaml", 2, "no such file"),
        ("recipes/data/tiny.jsonl.card.yaml", "consent: made data", "consent: unknown  #", 1, "consent"),
        ("suites/tiny.yaml", "max_new_tokens: 16", "max_new_tokens: 17", 2, "changed since it was frozen"),
        ("recipes/data/tiny.jsonl", '{"id"', '{"id', 2, "tiny.jsonl:1"),
    ],
)
def test_a_mistake_gets_one_message_and_its_exit_code(project, tmp_path, file, old, new, code, message):
    folder = _edited(project, tmp_path, file, old, new)
    done = posttrain("run", "recipes/tiny.yaml", cwd=folder)
    assert message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code


def test_a_model_path_that_is_no_model_is_named(project, tmp_path):
    (tmp_path / "empty").mkdir()
    folder = _edited(project, tmp_path, "recipes/tiny.yaml", "model: {tiny:", "model: ../empty  # {tiny:")
    done = posttrain("run", "recipes/tiny.yaml", cwd=folder)
    assert done.returncode == 2, done.stderr
    assert "empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_suite_case_in_the_training_data_stops_the_run_before_training(project, tmp_path):
    folder = _edited(project, tmp_path, "recipes/tiny.yaml", "seed: 17", "seed: 17")
    case = json.loads((folder / "suites/tiny.jsonl").read_text().splitlines()[0])
    leak = {"messages": [*case["messages"], {"role": "assistant", "content": json.dumps(case["expected"])}]}
    with open(folder / "recipes/data/tiny.jsonl", "a") as stream:
        stream.write(json.dumps(leak) + "\n")
    done = posttrain("run", "recipes/tiny.yaml", cwd=folder)
    assert done.returncode == 1, done.stderr
    assert case["id"] in done.stderr
    assert not list((folder / "runs/tiny").glob("*-1-sft"))


def test_a_policy_text_changed_without_a_version_is_refused(project, tmp_path):
    folder = _edited(project, tmp_path, "recipes/tiny.yaml", "seed: 17", "seed: 17")
    first = posttrain("run", "recipes/tiny.yaml", *QUICK, "--set", "stages.0.sft.training.max_steps=1", cwd=folder)
    assert first.returncode == 0, first.stderr
    policy = folder / "policies/tiny.yaml"
    policy.write_text(policy.read_text().replace("never the nearest", "or the nearest"))
    done = posttrain("run", "recipes/tiny.yaml", *QUICK, cwd=folder)
    assert done.returncode == 1
    assert "changed without a new version" in done.stderr
