"""The preference recipe from judgements to verdict, on real rows and a tiny model."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from command import posttrain

ROOT = Path(__file__).parents[2]
RECIPE = """
name: preference
root: ..
model: {tiny: {vocabulary_size: 512, hidden_size: 32, num_layers: 2, num_heads: 4, context_length: 2048}}
policy: policies/preference.yaml
suites: [suites/preference.yaml]
gate: suites/preference-gate.yaml
evaluation: {batch_size: 16, dtype: float32}
stages:
  - reward_model: &reward
      data: recipes/data/preference-reward.jsonl
      calibration: recipes/data/preference-calibration.jsonl
      test: {harmless: recipes/data/preference-test-harmless.jsonl, qa: recipes/data/preference-test-qa.jsonl}
      training: {learning_rate: 1e-3, epochs: 1, sequences_per_step: 8}
    name: reward
    labels: {method: dawid_skene}
  - reward_model:
      data: recipes/data/preference-held-out.jsonl
      calibration: recipes/data/preference-calibration.jsonl
      test: {harmless: recipes/data/preference-test-harmless.jsonl, qa: recipes/data/preference-test-qa.jsonl}
      training: {learning_rate: 1e-3, epochs: 1, sequences_per_step: 8, seed: 23}
    name: held-out
    labels: {method: dawid_skene}
  - preference:
      data: recipes/data/preference-policy.jsonl
      objective: {name: dpo, beta: 0.1}
      training: {learning_rate: 1e-3, epochs: 1, sequences_per_step: 8}
    name: dpo
    labels: {method: dawid_skene}
    target: preferred_margin
"""
NUM_ROWS = {"policy": 24, "reward": 24, "held-out": 24, "calibration": 16, "test-harmless": 12, "test-qa": 12}


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("preference")
    for name in ("recipes/data", "suites", "policies"):
        (folder / name).mkdir(parents=True)
    for name, count in NUM_ROWS.items():
        source = ROOT / f"recipes/data/preference-{name}.jsonl.gz"
        rows = gzip.decompress(source.read_bytes()).decode().splitlines(keepends=True)
        (folder / f"recipes/data/preference-{name}.jsonl").write_text("".join(rows[:count]), encoding="utf-8")
        shutil.copy(f"{source}.card.yaml", folder / f"recipes/data/preference-{name}.jsonl.card.yaml")
    cases = (ROOT / "suites/preference.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "suites/preference.jsonl").write_text("".join(cases[::8]), encoding="utf-8")
    for name in ("suites/preference.yaml", "suites/preference-gate.yaml", "policies/preference.yaml"):
        shutil.copy(ROOT / name, folder / name)
    suite = folder / "suites/preference.yaml"
    suite.write_text(suite.read_text().replace("max_new_tokens: 64", "max_new_tokens: 12"))
    (folder / "recipes/preference.yaml").write_text(RECIPE)
    frozen = posttrain("suite", "freeze", "suites/preference-gate.yaml", cwd=folder)
    assert frozen.returncode == 0, frozen.stderr
    return folder


@pytest.fixture(scope="session")
def finished(project) -> dict:
    done = posttrain("run", "recipes/preference.yaml", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_reward_models_come_before_the_start_model_is_judged(finished):
    names = [step["name"] for step in finished["steps"]]
    assert names.index("2-held-out") < names.index("evaluate-start-preference") < names.index("3-dpo") < names.index("gate")
    assert names.count("labels-reward") == 1


def test_both_versions_carry_the_scores_of_models(project, finished):
    for step in finished["steps"]:
        if step["name"].startswith("evaluate"):
            scores = json.loads((project / step["outputs"]["results"] / "summary.json").read_text())["scores"]
            assert {"reward", "reward_held_out", "preferred", "preferred_margin", "drift"} <= scores.keys()
            assert all(entry["overall"]["num_unscored"] == 0 for entry in scores.values())
            drift = scores["drift"]["overall"]["value"]
            assert abs(drift) < 1e-4 if "start" in step["name"] else drift != 0, "the start model is its own reference"


def test_the_verdict_rests_on_the_two_metrics(project, finished):
    gate = next(step for step in finished["steps"] if step["name"] == "gate")
    (verdict,) = project.glob("runs/preference/*-gate/verdict.json")
    assert gate["outputs"]["verdict"] == finished["verdict"]
    reading = json.loads(verdict.read_text())["two_metric"]["overall"]
    figures = {figure["metric"]: figure for figure in reading["figures"]}
    assert figures.keys() >= {"preferred_margin", "reward_held_out", "drift"}
    for name in ("reward", "held-out"):
        (file,) = project.glob(f"runs/preference/*-{name}/evaluation.json")
        at_chance = json.loads(file.read_text())["slices"]["all"]["accuracy"]["low"] <= 0.5
        score = figures[{"reward": "reward", "held-out": "reward_held_out"}[name]]
        assert score["reason"].startswith(f"not evidence: the reward model '{name}'") is at_chance


def test_another_objective_reuses_everything_before_it(project, finished):
    for objective in ("{name: simpo}", "{name: orpo}", "{name: kto}"):
        unpair = ("--set", "stages.2.preference.unpair=true") if "kto" in objective else ()
        arguments = ("run", "recipes/preference.yaml", "--json", "--set", f"stages.2.preference.objective={objective}", *unpair)
        done = posttrain(*arguments, cwd=project)
        assert done.returncode == 0, done.stderr
        states = {step["name"]: step["state"] for step in json.loads(done.stdout)["steps"]}
        assert {name for name, state in states.items() if state == "run"} == {"3-dpo", "evaluate-dpo-preference", "gate"}


def test_a_suite_whose_reward_model_nobody_trains_is_refused_before_anything_runs(project):
    text = (project / "recipes/preference.yaml").read_text().replace("name: held-out\n", "name: other\n")
    (project / "recipes/wrong.yaml").write_text(text)
    done = posttrain("run", "recipes/wrong.yaml", "--dry-run", cwd=project)
    assert done.returncode == 2
    assert "scores with the reward model 'held-out'" in done.stderr


def test_files_and_reward_models_a_stage_names_are_looked_for_first(project):
    for key, value, said in (
        ("stages.0.reward_model.calibration", "recipes/data/none.jsonl", "no such file"),
        ("stages.2.preference.held_out", "recipes/data/none.jsonl", "no such file"),
    ):
        done = posttrain("run", "recipes/preference.yaml", "--dry-run", "--set", f"{key}={value}", cwd=project)
        assert done.returncode == 2
        assert key.rpartition(".")[2] in done.stderr
        assert said in done.stderr


def test_answers_from_the_cache_are_scored_by_models_like_fresh_ones(project, finished):
    again = ("run", "recipes/preference.yaml", "--json", "--set", "stages.1.reward_model.training.seed=29")
    done = posttrain(*again, cwd=project)
    assert done.returncode == 0, done.stderr
    steps = {step["name"]: step for step in json.loads(done.stdout)["steps"]}
    start = steps["evaluate-start-preference"]
    assert start["state"] == "run"
    summary = json.loads((project / start["outputs"]["results"] / "summary.json").read_text())
    assert not summary["latency"], "every answer came from the cache"
    assert summary["scores"]["drift"]["overall"]["num_unscored"] == 0
