"""The recipe for tools from trajectories to verdict, on shipped rows and a tiny model."""

import gzip
import json
import shutil
from pathlib import Path

import pytest
from command import posttrain

ROOT = Path(__file__).parents[2]
RECIPE = """
name: tools
root: ..
model:
  tiny: {vocabulary_size: 512, hidden_size: 32, num_layers: 2, num_heads: 4, context_length: 4096}
  chat_template: chatml-tools
policy: policies/tools.yaml
suites: [suites/tools.yaml, suites/tools-constrained.yaml]
gate: suites/tools-gate.yaml
evaluation: {batch_size: 8, dtype: float32}
stages:
  - sft:
      data: recipes/data/tools.jsonl
      training: {learning_rate: 1e-3, epochs: 1, sequences_per_step: 8}
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tools")
    for name in ("recipes/data", "suites", "policies"):
        (folder / name).mkdir(parents=True)
    rows = gzip.decompress((ROOT / "recipes/data/tools.jsonl.gz").read_bytes()).decode().splitlines(keepends=True)
    (folder / "recipes/data/tools.jsonl").write_text("".join(rows[:8] + rows[-8:]), encoding="utf-8")
    shutil.copy(ROOT / "recipes/data/tools.jsonl.gz.card.yaml", folder / "recipes/data/tools.jsonl.card.yaml")
    shutil.copy(ROOT / "policies/tools.yaml", folder / "policies")
    cases = (ROOT / "suites/tools.jsonl").read_text().splitlines(keepends=True)
    (folder / "suites/tools.jsonl").write_text("".join(cases[:6] + cases[-4:]))
    for name in ("tools", "tools-constrained"):
        text = (ROOT / f"suites/{name}.yaml").read_text().replace("max_new_tokens: 96", "max_new_tokens: 24")
        (folder / f"suites/{name}.yaml").write_text(text.replace("max_steps: 4", "max_steps: 2"))
    shutil.copy(ROOT / "suites/tools-gate.yaml", folder / "suites")
    (folder / "recipes/tools.yaml").write_text(RECIPE)
    for name in ("tools", "tools-gate"):
        done = posttrain("suite", "freeze", f"suites/{name}.yaml", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def finished(project) -> dict:
    done = posttrain("run", "recipes/tools.yaml", "--json", cwd=project)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def results(project: Path, finished: dict, name: str) -> list[dict]:
    (step,) = (step for step in finished["steps"] if step["name"] == name)
    return [json.loads(line) for line in (project / step["outputs"]["results"] / "results.jsonl").read_text().splitlines()]


def test_both_suites_are_run_before_and_after_training(finished):
    assert [step["name"] for step in finished["steps"]] == [
        "start-model",
        "data-sft",
        "curate-sft",
        "evaluate-start-tools",
        "evaluate-start-tools-constrained",
        "1-sft",
        "evaluate-sft-tools",
        "evaluate-sft-tools-constrained",
        "gate",
    ]
    assert finished["verdict"] in ("block", "inconclusive"), "sixteen rows teach a tiny model nothing that could ship"


def test_the_start_model_speaks_the_template_the_recipe_names(project, finished):
    from posttrain.chat import ChatContract

    (folder,) = (project / "runs/tools").glob("*start-model/templated")
    assert ChatContract.load(folder).call_format is not None
    adapter_or_model = next(step["outputs"]["path"] for step in finished["steps"] if step["name"] == "1-sft")
    assert ChatContract.load(project / adapter_or_model).hash == ChatContract.load(folder).hash


def test_every_sample_has_its_transcript_and_every_world_its_outcome(project, finished):
    rows = results(project, finished, "evaluate-sft-tools")
    assert len(rows) == 10
    for row in rows:
        world = row["case"].startswith("finops")
        assert row["transcript"], row["case"]
        assert ("end_state_ok" in row.get("outcome", {})) == world
        assert (row["scores"]["world_authorised"]["status"] == "scored") == world


def test_under_constraint_every_call_fits_its_schema(project, finished):
    """Of the raw and of the trained model, made to call: whatever it draws, what it finished is a call that the tool takes."""
    from jsonschema import Draft202012Validator

    from posttrain.evaluation import load_suite
    from posttrain.generation import LocalGenerator
    from posttrain.records import Constraint, GenerationRequest, SamplingSettings

    cases = load_suite(project / "suites/tools-constrained.yaml").cases
    (raw,) = (project / "runs/tools").glob("*start-model/templated")
    trained = project / next(step["outputs"]["path"] for step in finished["steps"] if step["name"] == "1-sft")
    for model in (raw, trained):
        requests = [
            GenerationRequest(
                case.messages,
                case.tools,
                SamplingSettings(160, temperature=1.0, seed=seed),
                constraint=Constraint("tool_calls", "required"),
            )
            for case in cases
            for seed in range(3)
        ]
        generator = LocalGenerator.load(model, dtype="float32", batch_size=16)
        checked = 0
        for request, answer in zip(requests, generator.generate(requests), strict=True):
            if answer.finish_reason == "stop":
                parsed = generator.contract.call_format.parse(answer.text)
                assert parsed.calls, answer.text
                assert not parsed.errors, answer.text
                offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in request.tools}
                for call in parsed.calls:
                    Draft202012Validator(offered[call.name]).validate(dict(call.arguments))
                    checked += 1
        assert checked >= 3, model


def test_the_report_shows_calls(project, finished):
    page = (project / finished["report"]).read_text()
    assert "calls_recall" in page
    assert "world_end_state" in page
