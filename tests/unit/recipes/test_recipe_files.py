"""What the steps of a recipe depend on: files that a stage names, looked for from the recipe's root, and versions."""

import re
import shutil

import pytest
from sweep_data import PAIRS, write_rows

from posttrain.config import path_hash
from posttrain.errors import CheckFailed, ConfigError
from posttrain.recipes import SilentDisplay, Steps, load_recipe, run_recipe, write_starter
from posttrain.recipes.recipe import stage_files, with_files
from posttrain.recipes.start_model import check_start_model, start_model_inputs
from posttrain.recipes.steps import StepResult

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


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loggers=[nope]", "unknown logger 'nope'"),
        ("loggers=[{jsonl: {folder: x}}]", "unexpected keyword argument 'folder'"),
        ("stages.0.sft.data=recipes/data/no.jsonl", r"stages\.0\.sft\.data: .*no\.jsonl: no such file"),
    ],
)
def test_what_would_stop_a_run_later_stops_it_as_it_is_read(project, override, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe(project / "recipes/tiny.yaml", [override])


def test_data_whose_card_gives_no_consent_stops_before_anything_runs(project):
    card = project / "recipes/data/tiny.jsonl.card.yaml"
    card.write_text(card.read_text().replace("consent: ", "consent: users opted out, "))
    with pytest.raises(CheckFailed, match="there is no consent"):
        load_recipe(project / "recipes/tiny.yaml")
    card.unlink()
    with pytest.raises(CheckFailed, match="has no data card"):
        load_recipe(project / "recipes/tiny.yaml")


def test_another_schema_is_another_stage_and_another_place_is_not(project):
    before = keys(project)["2-preference"]
    project.rename(project.with_name("moved"))
    moved = project.with_name("moved")
    assert keys(moved)["2-preference"] == before
    (moved / "schemas/answer.json").write_text('{"type": "array"}')
    assert keys(moved)["2-preference"] != before


def test_every_step_depends_on_the_versions_that_decide_a_result(project, monkeypatch):
    before = keys(project)
    monkeypatch.setattr("posttrain.recipes.origins.version", lambda name: "another")
    after = keys(project)
    assert {name for name in before if before[name] == after[name]} == set()
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


def test_a_folder_of_data_counts_by_what_is_in_it_and_below(tmp_path):
    file = tmp_path / "data" / "train" / "rows.arrow"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one")
    before = path_hash(tmp_path / "data")
    file.write_bytes(b"two")
    assert path_hash(tmp_path / "data") != before


@pytest.mark.parametrize("place", ["path", "cached"])
def test_a_start_model_that_changed_behind_a_finished_step_stops_the_run(tmp_path, place):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    files = "files" if place == "path" else "cached_files"
    outputs = {place: str(tmp_path / "model"), files: path_hash(tmp_path / "model")}
    start = StepResult("start-model", "key", tmp_path / "01-start-model", "reused", outputs=outputs)
    check_start_model(start)
    (tmp_path / "model/config.json").write_text('{"other": 1}')
    with pytest.raises(ConfigError, match="is not the model this run started from"):
        check_start_model(start)


def test_a_start_model_in_the_home_folder_counts_by_its_content(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.json").write_text("{}")
    recipe = project / "recipes/tiny.yaml"
    text = recipe.read_text()
    recipe.write_text(re.sub(r"(?m)^model:(\n  .*)+|^model: .*$", "model: ~/mine", text))
    inputs = [start_model_inputs(load_recipe(recipe))]
    (tmp_path / "mine/config.json").write_text('{"other": 1}')
    inputs.append(start_model_inputs(load_recipe(recipe)))
    assert inputs[0] != inputs[1]


def test_two_suites_of_one_name_are_refused(project):
    recipe = project / "recipes/tiny.yaml"
    for end in ("yaml", "lock"):
        shutil.copy(project / f"suites/tiny.{end}", project / f"suites/old.{end}")
    recipe.write_text(recipe.read_text().replace("[suites/tiny.yaml]", "[suites/tiny.yaml, suites/old.yaml]"))
    with pytest.raises(ConfigError, match="two of its suites are called"):
        keys(project)


def test_a_copied_run_reads_its_own_files(tmp_path):
    def work(folder):
        (folder / "model").mkdir()
        return {"path": str(folder / "model"), "count": 1}

    Steps(tmp_path / "a", SilentDisplay()).do("make", "make", {"n": 1}, work)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    again = Steps(tmp_path / "b", SilentDisplay()).do("make", "make", {"n": 1}, work)
    assert again.state == "reused"
    assert again.outputs == {"path": str(tmp_path / "b/01-make/model"), "count": 1}
