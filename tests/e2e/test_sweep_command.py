"""`posttrain sweep` on a recipe that has been run up to its stage, and as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from posttrain.cli.sweep import app
from posttrain.errors import ConfigError
from posttrain.lineage import LineageStore
from posttrain.recipes import SilentDisplay, load_recipe, run_recipe, write_starter
from posttrain.release import freeze_gate

STAGES = """
stages:
  - sft:
      data: recipes/data/tiny.jsonl
      lora: {rank: 4, targets: attention}
      training: {max_steps: 2, sequences_per_step: 4}
  - preference:
      data: recipes/data/pairs.jsonl
      objective: {name: ipo}
      training: {epochs: 1, sequences_per_step: 6}
    name: align
"""
CARD = "source: made here\nlicence: Apache-2.0\nconsent: made data\nprovenance: by hand\n"
PLACES = ("bank", "cash", "fees", "rent", "travel", "salaries")
PAIRS = [
    {
        "prompt": f"Where does entry {number} of {place} go?",
        "chosen": f"Entry {number} goes to {place}.",
        "rejected": f"Ask {place}, not me.",
    }
    for place in PLACES
    for number in range(6)
]


class UpToTheSweep(SilentDisplay):
    """The run is interrupted when it would train the stage that is to be swept."""

    def step(self, number, title, state):
        if title.startswith("align: train"):
            raise KeyboardInterrupt


def write_project(folder: Path) -> Path:
    write_starter(folder, "tiny")
    recipe, cases, suite = (folder / name for name in ("recipes/tiny.yaml", "suites/tiny.jsonl", "suites/tiny.yaml"))
    recipe.write_text(recipe.read_text().split("stages:")[0] + STAGES)
    cases.write_text("".join(cases.read_text().splitlines(keepends=True)[::16]))
    suite.write_text(suite.read_text().replace("max_new_tokens: 16", "max_new_tokens: 4").replace('"1.0"', '"1.1"'))
    freeze_gate(folder / "suites/tiny-gate.yaml")
    (folder / "recipes/data/pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (folder / "recipes/data/pairs.jsonl.card.yaml").write_text(CARD)
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A recipe that has been run up to the stage that is to be swept."""
    folder = write_project(tmp_path_factory.mktemp("sweep"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(load_recipe("recipes/tiny.yaml"), "runs/tiny", display=UpToTheSweep())
    return folder


def sweep(project, monkeypatch, *options):
    monkeypatch.chdir(project)
    result = CliRunner().invoke(app, ["recipes/tiny.yaml", *options], catch_exceptions=False)
    assert result.exit_code == 0
    return json.loads(result.stdout)


def test_a_recipe_that_was_not_run_says_what_to_run(tmp_path, monkeypatch):
    project = write_project(tmp_path)
    with pytest.raises(ConfigError, match="has not been run") as found:
        sweep(project, monkeypatch, "--beta", "0.1")
    assert "posttrain run" in found.value.hint


def test_a_recipe_run_up_to_the_stage_gives_start_model_and_clean_data(project, monkeypatch):
    options = ("--stage", "align", "--beta", "0.1,0.5", "--learning-rate", "1e-4", "--samples", "4", "--sample-tokens", "8")
    report = sweep(project, monkeypatch, *options, "--json")
    assert [point["name"] for point in report["points"]] == ["beta-0.1-lr-0.0001", "beta-0.5-lr-0.0001"]
    assert report["objective"] == "ipo"
    assert Path(report["page"]).is_file()
    assert Path(report["model"]).name.startswith("start-"), "the adapter of the stage before is merged into its base"
    (clean,) = Path("runs/tiny").glob("*-curate-align/*.jsonl")
    store = LineageStore("runs/lineage.db")
    for point in report["points"]:
        made_from = {node.kind for node in store.ancestors(point["lineage"])}
        assert made_from >= {"model", "adapter", "data", "policy", "suite", "config", "seed", "code"}, (
            "down to what the recipe started from"
        )
    rows = [Path(report[name]).read_text().splitlines() for name in ("data", "held_out")]
    assert [len(part) for part in rows] == [32, 4]
    assert len(clean.read_text().splitlines()) == len(PAIRS) == 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beta", "a,b"), "not a list of numbers"),
        (("--stage", "algin"), "has no preference stage 'algin'"),
        (("--beta", "-1"), "greater than 0"),
    ],
)
def test_a_mistake_gets_one_message(project, monkeypatch, options, message):
    with pytest.raises(ConfigError, match=message):
        sweep(project, monkeypatch, *options)


def test_a_stage_file_and_a_model_print_a_table(project):
    (project / "dpo.yaml").write_text("data: recipes/data/pairs.jsonl\ntraining: {max_steps: 2, sequences_per_step: 4}\n")
    (model,) = (project / "runs/tiny").glob("*-start-model/model")
    options = ("--model", str(model), "--learning-rate", "1e-6", "--samples", "2", "--sample-tokens", "4", "--out", "runs/one")
    command = [sys.executable, "-m", "posttrain", "sweep", "dpo.yaml", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    head, point, page = done.stdout.splitlines()
    assert head.split()[:2] == ["beta", "learning"]
    assert point.split()[:3] == ["*", "0.1", "1e-06"]
    assert page == "runs/one/sweep.html"
