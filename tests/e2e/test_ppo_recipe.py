"""A recipe with a PPO stage whose data are prompts alone, from start model to verdict."""

import json
from pathlib import Path

import pytest
from command import posttrain

CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
RECIPE = """
name: ppo
root: ..
model: {tiny: {vocabulary_size: 300, hidden_size: 32, num_layers: 1, num_heads: 2, context_length: 256}}
policy: policies/tiny.yaml
suites: [suites/tiny.yaml]
gate: suites/tiny-gate.yaml
evaluation: {batch_size: 32, dtype: float32}
stages:
  - reward_model:
      data: recipes/data/pairs.jsonl
      calibration: 0
      test: recipes/data/test.jsonl
      probes: false
      on_bad_row: skip
      training: {learning_rate: 1e-2, max_steps: 2, sequences_per_step: 8}
  - ppo:
      data: recipes/data/prompts.jsonl
      reward_model: reward_model
      max_new_tokens: 8
      training: {learning_rate: 1e-3, max_steps: 1, sequences_per_step: 4}
"""
PROMPTS = [{"prompt": f"Is {n} a number?"} for n in range(200, 208)]
BROKEN = {"prompt": "Is 1 a number?", "chosen": "Yes.", "rejected": ""}


def write_rows(file: Path, rows: list[dict]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file.with_name(file.name + ".card.yaml").write_text(CARD)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ppo")
    assert posttrain("init", ".", "--name", "tiny", cwd=folder).returncode == 0
    cases = (folder / "suites/tiny.jsonl").read_text().splitlines(keepends=True)
    (folder / "suites/tiny.jsonl").write_text("".join(cases[::20]))
    assert posttrain("suite", "freeze", "suites/tiny-gate.yaml", cwd=folder).returncode == 0
    pairs = [{"prompt": f"Is {n} a number?", "chosen": f"Yes, {n} is.", "rejected": f"No, {n} is none."} for n in range(100, 116)]
    write_rows(folder / "recipes/data/pairs.jsonl", [*pairs[:12], BROKEN])
    write_rows(folder / "recipes/data/test.jsonl", [*pairs[12:], BROKEN])
    write_rows(folder / "recipes/data/prompts.jsonl", [*PROMPTS, PROMPTS[0]])
    (folder / "recipes/ppo.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def steps(project) -> dict[str, dict]:
    done = posttrain("run", "recipes/ppo.yaml", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    return {step["name"]: step["outputs"] for step in json.loads(done.stdout)["steps"]}


def test_prompts_alone_are_read_curated_and_answered(project, steps):
    assert steps["data-ppo"]["rows"] == 9
    assert steps["data-ppo"]["supervised_tokens"] == 0
    assert steps["data-ppo"]["rows_without_supervision"] == 0, "a prompt is not meant to be supervised"
    assert (steps["curate-ppo"]["rows_kept"], steps["curate-ppo"]["duplicates"]) == (8, 1)
    (answers,) = project.glob("runs/ppo/*-2-ppo/answers.jsonl")
    asked = [json.loads(line)["prompt"][-1]["content"] for line in answers.read_text().splitlines()]
    assert asked == [prompt["prompt"] for prompt in PROMPTS]


def test_rows_set_aside_lie_in_the_run_and_not_beside_the_users_data(project, steps):
    assert steps["data-reward_model"]["rows_skipped"] == 1
    assert not list((project / "recipes").rglob("*.rejects.jsonl"))
    (read,) = project.glob("runs/ppo/*-data-reward_model/rejects.jsonl")
    (tested,) = project.glob("runs/ppo/*-1-reward_model/test.jsonl.rejects.jsonl")
    for rejects in (read, tested):
        (row,) = [json.loads(line) for line in rejects.read_text().splitlines()]
        assert row["row"] == BROKEN
