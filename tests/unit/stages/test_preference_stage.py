"""The preference stage on a tiny model and small files, from Python."""

import json

import pytest
import torch
from preference_data import LABELS, PAIRS, TEXTS, configure
from safetensors.torch import load_file

from posttrain.models import write_tiny_model
from posttrain.stages import run_preference


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", TEXTS, seed=1, vocab_size=320, hidden=32)


@pytest.mark.parametrize("objective", ["dpo", "robust_dpo", "ipo", "simpo", "orpo"])
def test_every_objective_on_pairs_trains_by_changing_one_line(tmp_path, model, objective):
    result = run_preference(configure(tmp_path, objective={"name": objective}), model, tmp_path / "out")
    first, last = result.history[0]["metrics"], result.history[-1]["metrics"]
    assert last["rewards/margin"] > first["rewards/margin"]
    assert last["rewards/accuracy"] > 0.9
    assert result.metrics["final_loss"] < result.metrics["first_loss"]
    assert (result.model / "model.safetensors").is_file()


@pytest.mark.parametrize(("rows", "unpair"), [(LABELS, False), (PAIRS, True)])
def test_kto_learns_from_labels_and_from_pairs_split_in_two(tmp_path, model, rows, unpair):
    result = run_preference(configure(tmp_path, rows, objective="kto", unpair=unpair), model, tmp_path / "out")
    late = result.history[len(result.history) // 2 :]
    good, bad, number_good, number_bad = (
        sum(step["metrics"][name] * step["count"] for step in late)
        for name in ("rewards/chosen", "rewards/rejected", "desirable", "undesirable")
    )
    assert good / number_good > bad / number_bad
    assert result.metrics["final_loss"] < result.metrics["first_loss"]


def test_with_lora_the_policy_begins_as_its_reference(tmp_path, model):
    result = run_preference(configure(tmp_path, lora={"rank": 4}), model, tmp_path / "out")
    first = result.history[0]
    assert first["loss"] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-5)  # log 2: every margin is zero
    assert first["metrics"]["logps/chosen_change"] == pytest.approx(0, abs=1e-4)
    weights = load_file(result.adapter / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["settings"]["objective"]["beta"] == 0.1


def test_an_adapter_that_is_gone_on_with_is_part_of_the_reference(tmp_path, model):
    first = run_preference(configure(tmp_path, lora={"rank": 4}), model, tmp_path / "first")
    again = run_preference(configure(tmp_path, adapter=str(first.adapter)), model, tmp_path / "again")
    assert again.history[0]["loss"] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-5)
    moved = again.history[0]["metrics"]["logps/chosen"] - first.history[0]["metrics"]["logps/chosen"]
    assert moved == pytest.approx(first.metrics["watch/chosen_change"], rel=0.2), "it began where the first run ended"
    headers = [json.loads((tmp_path / name / "reference/answers/reference.json").read_text())["identity"] for name in ("first", "again")]
    assert headers[0]["model"] == headers[1]["model"]
    assert headers[0]["adapter"] == "" != headers[1]["adapter"]
