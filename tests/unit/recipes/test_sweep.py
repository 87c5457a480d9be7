"""`posttrain sweep` on a tiny model: the grid, what is held out, what is measured, what is reused."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
from sweep_data import PAIRS, write_project, write_rows
from transformers import AutoModelForCausalLM

from posttrain.chat import ChatContract
from posttrain.data import read_records
from posttrain.errors import ConfigError, DataError
from posttrain.lineage import LineageStore
from posttrain.models import ModelSettings
from posttrain.recipes import SilentDisplay
from posttrain.recipes.sweep import SampleSettings, SweepOptions, measure, open_source, run_sweep, sweep_text
from posttrain.recipes.sweep.run import frontier, grid
from posttrain.records import PreferencePair
from posttrain.stages.pairs import PreferenceRules, load_pairs

SAMPLES = SampleSettings(count=6, max_new_tokens=8)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return write_project(tmp_path_factory.mktemp("sweep"))


@pytest.fixture(scope="module")
def source(project):
    return open_source(project / "dpo.yaml", model=str(project / "model"))


@pytest.fixture(scope="module")
def swept(project, source):
    """Two learning rates, one hardly a step, one large; models kept."""
    options = SweepOptions((0.5,), (1e-7, 5e-3), samples=SAMPLES, keep_models=True)
    return project / "out", run_sweep(source, options, project / "out", display=SilentDisplay())


def test_the_grid_is_every_combination_and_shares_one_reference_cache(source, tmp_path):
    points = grid(source, SweepOptions((0.03, 0.3), (1e-6, 5e-6, 1e-5)), tmp_path / "reference")
    assert [(point.beta, point.learning_rate) for point in points] == [(b, r) for b in (0.03, 0.3) for r in (1e-6, 5e-6, 1e-5)]
    assert {point.config.reference_cache for point in points} == {str(tmp_path / "reference")}
    assert all(dict(point.config.objective)["beta"] == point.beta for point in points)


def test_an_empty_side_keeps_the_stages_own_value(source, tmp_path):
    (point,) = grid(source, SweepOptions(), tmp_path)
    assert (point.beta, point.learning_rate) == (0.1, 1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SweepOptions((0.1, -1.0)), "greater than 0"),
        (SweepOptions((), (1e-6, 2.0)), "less than or equal to 1"),
        (SweepOptions((0.1, 0.1)), "same point twice"),
    ],
)
def test_a_value_out_of_bounds_stops_before_anything_runs(source, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run_sweep(source, options, tmp_path / "out", display=SilentDisplay())
    assert not (tmp_path / "out" / "points").exists()


def test_a_tenth_of_the_prompts_is_held_out_and_trained_on_by_nobody(swept):
    out, report = swept
    train, held_out = (list(read_records(out / "data" / name, PreferencePair)) for name in ("train.jsonl", "held-out.jsonl"))
    assert len(train) + len(held_out) == len(PAIRS)
    assert len(held_out) == report["num_pairs"] == round(0.1 * len(PAIRS))
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in held_out}
    assert (out / "data" / "train.jsonl.card.yaml").is_file()


def test_held_out_pairs_that_are_trained_on_are_refused(project, source, tmp_path):
    test = write_rows(tmp_path / "test.jsonl", [PAIRS[3], {**PAIRS[0], "prompt": "Shelf 99?"}])
    with pytest.raises(DataError, match="1 of its rows are of dialogues that are also in"):
        run_sweep(source, SweepOptions(test=str(test)), tmp_path / "out", display=SilentDisplay())


def test_the_figures_are_those_of_stock_transformers_on_the_held_out_pairs(project, swept):
    """log pi/pi_ref of every answer from plain forward passes of the two saved models."""
    out, report = swept
    contract = ChatContract.load(project / "model")
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (report["points"][1]["model"], project / "model")]
    changes = {"chosen": [], "rejected": []}
    for pair in read_records(out / "data" / "held-out.jsonl", PreferencePair):
        for side, found in changes.items():
            row = contract.encode_completion(pair.prompt, getattr(pair, side))
            ids = torch.tensor(row.input_ids[None], dtype=torch.long)
            wanted = torch.tensor(row.completion_mask[1:])
            with torch.no_grad():
                new, old = (model(input_ids=ids).logits[0, :-1].log_softmax(-1) for model in models)
            ratios = (new - old).gather(1, ids[0, 1:, None])[:, 0]
            found.append(float(ratios[wanted].sum()))
    chosen, rejected = (torch.tensor(changes[side], dtype=torch.float64) for side in ("chosen", "rejected"))
    measured = report["points"][1]["measured"]
    assert measured["chosen_change"]["value"] == pytest.approx(float(chosen.mean()), abs=1e-3)
    assert measured["rejected_change"]["value"] == pytest.approx(float(rejected.mean()), abs=1e-3)
    assert measured["margin"]["value"] == pytest.approx(float((chosen - rejected).mean()), abs=1e-3)
    assert measured["accuracy"]["value"] == float((chosen > rejected).double().mean())


def test_a_larger_rate_gains_more_and_drifts_further(swept):
    small, large = (point["measured"] for point in swept[1]["points"])
    assert small["kl"]["value"] < 1e-6 < 1e-3 < large["kl"]["value"]
    assert large["margin"]["low"] > small["margin"]["high"]
    assert large["accuracy"]["value"] == 1.0


def test_the_start_model_measured_against_itself_gains_nothing_and_has_no_drift(project, swept, tmp_path):
    start = ModelSettings(path=str(project / "model"), compile=False)
    contract = ChatContract.load(project / "model")
    pairs = load_pairs(str(swept[0] / "data" / "held-out.jsonl"), contract, PreferenceRules(None))
    found = measure(start, start, pairs, tmp_path / "cache", contract=contract, samples=SAMPLES)
    assert (found.accuracy.value, found.margin.value, found.kl.value) == (0.5, 0.0, pytest.approx(0.0, abs=1e-9))


def test_the_reference_pass_is_made_once_and_finished_points_are_reused(project, source, swept):
    out, report = swept
    (file,) = out.glob("reference/*/answers/logprobs.f32")
    before, marks = file.stat().st_mtime_ns, {path: path.stat().st_mtime_ns for path in out.glob("points/*/01-point/done.json")}
    assert len(marks) == 2
    options = SweepOptions((0.5, 0.05), (1e-7, 5e-3), samples=SAMPLES, keep_models=True)
    again = run_sweep(source, options, out, display=SilentDisplay())
    assert file.stat().st_mtime_ns == before
    assert all(path.stat().st_mtime_ns == mark for path, mark in marks.items())
    assert again["points"][:2] == report["points"]
    assert len(again["points"]) == again["points_planned"] == 4


def test_other_data_in_the_same_folder_is_trained_and_measured_afresh(project, source, tmp_path):
    options = SweepOptions((0.1,), (1e-4,), samples=SAMPLES)
    first = run_sweep(source, options, tmp_path / "out", display=SilentDisplay())
    fewer = replace(source, settings={**source.settings, "data": str(write_rows(tmp_path / "fewer.jsonl", PAIRS[:20]))})
    second = run_sweep(fewer, options, tmp_path / "out", display=SilentDisplay())
    assert (first["num_pairs"], second["num_pairs"]) == (3, 2)
    assert second["points"][0]["measured"] != first["points"][0]["measured"]


def test_a_sweep_interrupted_between_points_goes_on_with_the_next(project, source, tmp_path):
    class Stop(SilentDisplay):
        def step(self, number, title, state):
            if (number, state) == (2, "run"):
                raise KeyboardInterrupt

    options = SweepOptions((0.1, 0.2), (1e-4,), samples=SAMPLES)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(source, options, tmp_path / "out", display=Stop())
    half = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (len(half["points"]), half["points_planned"]) == (1, 2)
    assert "1 of 2 points so far" in (tmp_path / "out" / "sweep.html").read_text()
    whole = run_sweep(source, options, tmp_path / "out", display=SilentDisplay())
    assert whole["points"][0] == half["points"][0]
    assert len(whole["points"]) == 2
    assert not list((tmp_path / "out" / "points").rglob("*.safetensors")), "models are let go unless they are to be kept"


def test_a_point_killed_in_training_goes_on_and_comes_to_the_same_figures(project, source, tmp_path):
    class Kill(SilentDisplay):
        def advance(self, done, total, note=""):
            if note.startswith("loss") and done == 3:
                raise KeyboardInterrupt

    training = {**source.settings["training"], "checkpoint_every_steps": 1}
    often, options = replace(source, settings={**source.settings, "training": training}), SweepOptions((0.1,), (1e-3,), samples=SAMPLES)
    straight = run_sweep(often, options, tmp_path / "straight", display=SilentDisplay())
    with pytest.raises(KeyboardInterrupt):
        run_sweep(often, options, tmp_path / "killed", display=Kill())
    assert list((tmp_path / "killed").rglob("step-*")), "killed after a checkpoint"
    resumed = run_sweep(often, options, tmp_path / "killed", display=SilentDisplay())
    assert resumed["points"] == straight["points"]


def test_the_page_opens_offline_and_labels_every_point(swept):
    out, report = swept
    page = (out / "sweep.html").read_text()
    assert not re.findall(r"(?:src|href)=|@import|url\(", page)
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        labels = re.findall(r"<text [^>]*>(β [^<]*)</text>", svg)
        assert {"β 0.5 · 1e-07", "β 0.5 · 0.005"} <= set(labels)
    numbers = [float(value) for value in re.findall(r'c[xy]="([^"]+)"', page)]
    assert numbers
    assert all(math.isfinite(number) and 0 <= number <= 760 for number in numbers)
    assert page.count("<svg") == 2
    assert sweep_text(report).splitlines()[1].startswith("*")


def test_the_frontier_holds_the_points_no_other_beats():
    def point(name, margin, kl):
        return {"name": name, "measured": {"margin": {"value": margin}, "kl": {"value": kl}}}

    points = [point("near", 0.6, 0.1), point("far", 0.8, 2.0), point("beaten", 0.6, 0.5), point("twin", 0.8, 2.0)]
    assert frontier(points) == ["near", "far", "twin"]


def test_labels_in_place_of_pairs_need_held_out_pairs(project, tmp_path):
    rows = [{"prompt": row["prompt"], "completion": row["chosen"], "label": True} for row in PAIRS]
    settings = {"data": str(write_rows(tmp_path / "labels.jsonl", rows)), "objective": "kto", "training": {}}
    labels = replace(open_source(project / "dpo.yaml", model=str(project / "model")), settings=settings)
    with pytest.raises(DataError, match="--test"):
        run_sweep(labels, SweepOptions(), tmp_path / "out", display=SilentDisplay())


def test_adapters_and_single_labels_are_swept_the_same_way(source, tmp_path):
    settings = {**source.settings, "objective": "kto", "unpair": True, "lora": {"rank": 4}}
    options = SweepOptions(learning_rates=(1e-7, 2e-2), samples=SAMPLES)
    store = LineageStore(tmp_path / "lineage.db")
    report = run_sweep(replace(source, settings=settings), options, tmp_path / "out", display=SilentDisplay(), lineage=store)
    assert not store.verify(), "what is recorded is what stays on disk"
    for point in report["points"]:
        evaluation = store.get(point["lineage"])
        (model,) = [store.get(parent) for parent in evaluation.parents]
        assert evaluation.content["measured"] == point["measured"]
        assert {"answers", "held-out"} <= evaluation.content["reference"].keys()
        assert evaluation.content["reference"]["held-out"]["identity"]["model"]
        assert (model.kind, model.content["kept"], model.content["metrics"]) == ("adapter", False, point["training"])
        (config,) = [node for node in store.ancestors(model.id) if node.kind == "config"]
        assert config.content["settings"]["training"]["learning_rate"] == point["learning_rate"]
        assert {node.kind for node in store.ancestors(model.id)} >= {"model", "data", "code", "environment", "seed", "template"}
    small, large = (point["measured"] for point in report["points"])
    assert report["objective"] == "kto"
    assert small["kl"]["value"] < 1e-6 < large["kl"]["value"]
    assert large["margin"]["value"] > small["margin"]["value"]


def test_stage_settings_without_a_start_model_say_what_is_missing(project):
    with pytest.raises(ConfigError, match="need a start model"):
        open_source(project / "dpo.yaml")
