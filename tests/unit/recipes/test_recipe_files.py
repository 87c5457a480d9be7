"""Files that a stage names: looked for from the recipe's root, and part of what the stage depends on."""

import pytest
from sweep_data import PAIRS, write_rows

from posttrain.errors import ConfigError
from posttrain.recipes import SilentDisplay, load_recipe, run_recipe, write_starter
from posttrain.recipes.recipe import stage_files, with_files

STAGES = """
  - preference:
      data: recipes/data/pairs.jsonl
      watch: {json_schema: schemas/answer.json, samples: 2}
      training: {learning_rate: 1e-3}
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


def key_of_training(project):
    planned = run_recipe(load_recipe(project / "recipes/tiny.yaml"), project / "runs", display=SilentDisplay(), dry_run=True)
    return next(step.key for step in planned.steps if step.name == "2-preference")


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
    before = key_of_training(project)
    project.rename(project.with_name("moved"))
    moved = project.with_name("moved")
    assert key_of_training(moved) == before
    (moved / "schemas/answer.json").write_text('{"type": "array"}')
    assert key_of_training(moved) != before
