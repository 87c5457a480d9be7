"""A recipe with a PPO stage whose data are prompts alone, from start model to verdict."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
      training: {learning_rate: 1e-2, max_steps: 2, sequences_per_step: 8}
  - ppo:
      data: recipes/data/prompts.jsonl
      reward_model: reward_model
      max_new_tokens: 8
      training: {learning_rate: 1e-3, max_steps: 1, sequences_per_step: 4}
"""
PROMPTS = [{"prompt": f"Is {n} a number?"} for n in range(200, 208)]


def posttrain(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "posttrain", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)


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
    write_rows(folder / "recipes/data/pairs.jsonl", pairs)
    write_rows(folder / "recipes/data/prompts.jsonl", [*PROMPTS, PROMPTS[0]])
    (folder / "recipes/ppo.yaml").write_text(RECIPE)
    return folder


def test_prompts_alone_are_read_curated_and_answered(project):
    done = posttrain("run", "recipes/ppo.yaml", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    steps = {step["name"]: step["outputs"] for step in json.loads(done.stdout)["steps"]}
    assert steps["data-ppo"]["rows"] == 9
    assert steps["data-ppo"]["supervised_tokens"] == 0
    assert steps["data-ppo"]["rows_without_supervision"] == 0, "a prompt is not meant to be supervised"
    assert (steps["curate-ppo"]["rows_kept"], steps["curate-ppo"]["duplicates"]) == (8, 1)
    (answers,) = project.glob("runs/ppo/*-2-ppo/answers.jsonl")
    asked = [json.loads(line)["prompt"][-1]["content"] for line in answers.read_text().splitlines()]
    assert asked == [prompt["prompt"] for prompt in PROMPTS]
