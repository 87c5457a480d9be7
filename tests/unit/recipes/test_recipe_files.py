"""What the steps of a recipe depend on: files that a stage names, looked for from the recipe's root, and versions."""

import pytest
from sweep_data import PAIRS, write_rows

from posttrain.errors import ConfigError
from posttrain.recipes import SilentDisplay, Steps, load_recipe, run_recipe, write_starter
from posttrain.recipes.recipe import stage_files, with_files

STAGES = """
  - preference:
      data: recipes/data/pairs.jsonl
      watch: {json_schema: schemas/answer.json, samples: 2}
      training: {learning_rate: 1e-3}
    labels: {method: mean}
"""


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    write_starter(folder, "tiny")
    write_rows(folder / "recipes/data/pairs.jsonl", PAIRS)
    (folder / "schemas").mkdir()
    (folder / "schemas/answer.json").write_text('{"type": "object"}')
    recipe = folder / "recipes/tiny.yaml"
    recipe.write_text(recipe.read_text() + STAGES)
    return folder


def keys(project):
    planned = run_recipe(load_recipe(project / "recipes/tiny.yaml"), project / "runs", display=SilentDisplay(), dry_run=True)
    return {step.name: step.key for step in planned.steps}


def test_the_watched_schema_lies_under_the_recipes_root(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(project / "recipes/tiny.yaml")
    entry = loaded.recipe.stages[1]
    schema = with_files(entry.settings, stage_files(loaded, entry))["watch"]
    assert schema == {"json_schema": str(project / "schemas/answer.json"), "samples": 2}
    assert entry.settings["watch"]["json_schema"] == "schemas/answer.json"


def test_a_schema_that_is_not_there_stops_before_anything_runs(project):
    (project / "schemas/answer.json").unlink()
    with pytest.raises(ConfigError, match=r"watch\.json_schema: .*project/schemas/answer\.json: no such file"):
        load_recipe(project / "recipes/tiny.yaml")


def test_another_schema_is_another_stage_and_another_place_is_not(project):
    before = keys(project)["2-preference"]
    project.rename(project.with_name("moved"))
    moved = project.with_name("moved")
    assert keys(moved)["2-preference"] == before
    (moved / "schemas/answer.json").write_text('{"type": "array"}')
    assert keys(moved)["2-preference"] != before


def test_every_step_but_the_start_model_depends_on_the_versions_that_decide_a_result(project, monkeypatch):
    before = keys(project)
    monkeypatch.setattr("posttrain.recipes.origins.version", lambda name: "another")
    after = keys(project)
    assert {name for name in before if before[name] == after[name]} == {"start-model"}
    assert {"labels-preference", "data-preference", "gate"} <= before.keys()


def test_labels_and_gate_carry_the_versions_themselves(project, monkeypatch):
    """Not only through the steps before them."""
    seen = {}
    monkeypatch.setattr(Steps, "do", _noting(seen, Steps.do))
    keys(project)
    assert all("torch" in seen[name]["versions"] for name in ("labels-preference", "data-preference", "gate"))


def _noting(seen, do):
    def noting(self, name, title, inputs, work):
        seen[name] = inputs
        return do(self, name, title, inputs, work)

    return noting
