"""What `posttrain run --prune` removes: what the recipe has no step for any more, and nothing else."""

import json

import pytest
from sweep_data import PAIRS, write_rows
from typer.testing import CliRunner

from posttrain.cli.run import app
from posttrain.config.files import write_json
from posttrain.errors import ConfigError
from posttrain.recipes import SilentDisplay, load_recipe, prune_run, run_recipe, write_starter

STAGE = """
  - preference:
      data: recipes/data/pairs.jsonl
      training: {learning_rate: 1e-3}
    name: align
"""


@pytest.fixture
def project(tmp_path):
    """A recipe with the folders that a finished run of it leaves, and one it left under another name of its stage."""
    write_starter(tmp_path, "tiny")
    write_rows(tmp_path / "recipes/data/pairs.jsonl", PAIRS)
    recipe = tmp_path / "recipes/tiny.yaml"
    recipe.write_text(recipe.read_text() + STAGE.replace("align", "before"))
    pretend_to_run(tmp_path)
    recipe.write_text(recipe.read_text().replace("before", "align"))
    pretend_to_run(tmp_path)
    return tmp_path


def plan(project):
    return run_recipe(load_recipe(project / "recipes/tiny.yaml"), project / "runs/tiny", display=SilentDisplay(), dry_run=True)


def pretend_to_run(project):
    planned = plan(project)
    for number, step in enumerate(planned.steps, 1):
        folder = project / f"runs/tiny/{number:02d}-{step.name}"
        write_json(folder / "started.json", {"key": step.key})
        write_json(folder / "done.json", {"key": step.key, "seconds": 1.0, "outputs": {}})
    cache = reference_cache(planned)
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "logprobs.f32").write_bytes(b"0123")
    for answers in planned.caches - {cache}:
        answers.mkdir(exist_ok=True)


def reference_cache(planned):
    (cache,) = (cache for cache in planned.caches if cache.parent.name == "reference")
    return cache


def folders(project):
    root = project / "runs/tiny"
    return {str(path.relative_to(root)) for path in (*root.glob("[0-9]*"), *root.glob("cache/reference/*"), *root.glob("cache/answers-*"))}


def test_old_steps_and_caches_go_and_present_ones_stay(project):
    old_answers = project / "runs/tiny/cache/answers-of-older-code"
    old_answers.mkdir()
    before, caches = folders(project), plan(project).caches
    found = prune_run(load_recipe(project / "recipes/tiny.yaml"), project / "runs/tiny")
    left = folders(project)
    present = {step.folder for step in plan(project).steps} | caches
    assert left == {str(path.relative_to(project / "runs/tiny")) for path in present}
    assert not old_answers.exists()
    assert {str(one.folder.relative_to(project / "runs/tiny")) for one in found} == before - left
    assert any("before" in name for name in before - left)
    assert sum(one.num_bytes for one in found if one.folder.parent.name == "reference") == 4
    assert {step.state for step in plan(project).steps} == {"reused"}
    assert prune_run(load_recipe(project / "recipes/tiny.yaml"), project / "runs/tiny") == ()


def test_a_dry_run_and_foreign_folders_are_left_alone(project):
    (project / "runs/tiny/99-notes").mkdir()
    (project / "runs/tiny/results").mkdir()
    before = folders(project)
    arguments = [str(project / "recipes/tiny.yaml"), "--out", str(project / "runs/tiny"), "--prune", "--json"]
    told = CliRunner().invoke(app, [*arguments, "--dry-run"], catch_exceptions=False)
    assert folders(project) == before
    assert json.loads(told.stdout)["removed"] == []
    removed = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)["removed"]
    assert removed == json.loads(told.stdout)["found"]
    assert len(removed) == len(before - folders(project)) > 0
    assert {"99-notes"} <= folders(project)


def test_the_folder_of_another_recipe_is_not_touched(project):
    write_starter(project, "other")
    before = folders(project)
    (project / "recipes/data/other.jsonl").write_text((project / "recipes/data/other.jsonl").read_text() + "\n\n")
    with pytest.raises(ConfigError, match=r"holds no step of other\.yaml as it is now: nothing is removed"):
        prune_run(load_recipe(project / "recipes/other.yaml", ["seed=3"]), project / "runs/tiny")
    assert folders(project) == before
