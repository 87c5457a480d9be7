from typing import Annotated

import pytest
import torch
from pydantic import Field

from posttrain.config import parse
from posttrain.errors import ConfigError, TrainingError
from posttrain.objectives import apply_objective, dpo_loss, objective_inputs, objective_settings, objectives

LOGPS = {
    "policy_chosen_logps": torch.tensor([-3.0]),
    "policy_rejected_logps": torch.tensor([-5.0]),
    "ref_chosen_logps": torch.tensor([-4.0]),
    "ref_rejected_logps": torch.tensor([-4.0]),
}


def test_settings_are_the_keyword_only_parameters_with_their_bounds_and_defaults():
    settings = parse(objective_settings("dpo"), {"name": "dpo", "beta": 0.3}, where="recipe")
    assert settings.dump() == {"name": "dpo", "beta": 0.3, "label_smoothing": 0.0}
    assert parse(objective_settings("ipo"), {"average_logps": True}, where="recipe").dump()["average_logps"] is True


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dpo", {"beta": 0}, "greater than 0"),
        ("dpo", {"label_smoothing": 0.5}, "less than 0.5"),
        ("dpo", {"betta": 0.1}, "did you mean 'beta'"),
        ("dpo", {"average_logps": True}, "unknown key 'average_logps'"),
        ("simpo", {"gamma": -1}, "greater than or equal to 0"),
        ("kto", {"undesirable_weight": 0}, "greater than 0"),
        ("bradley_terry", {"center": -0.1}, "greater than or equal to 0"),
        ("dpo", {"name": "ipo"}, "'dpo'"),
    ],
)
def test_a_value_out_of_bounds_or_unknown_is_named(name, value, message):
    with pytest.raises(ConfigError, match=message):
        parse(objective_settings(name), value, where="recipe")


def test_an_unknown_objective_gets_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'simpo'"):
        objective_settings("simp")


def test_inputs_are_the_tensors_by_name_optional_ones_included():
    assert objective_inputs("dpo") == {*LOGPS, "probabilities"}
    assert objective_inputs("kto") == {"policy_logps", "ref_logps", "labels", "kl"}
    assert objective_inputs("bradley_terry") == {"chosen_rewards", "rejected_rewards", "margins", "probabilities"}


def test_objectives_without_a_reference_ask_for_none():
    free = {name for name in objectives if not any(tensor.startswith("ref_") for tensor in objective_inputs(name))}
    assert {"orpo", "simpo"} <= free
    assert not free & {"dpo", "robust_dpo", "ipo", "kto"}


def test_apply_hands_in_what_is_named_and_ignores_the_rest():
    out = apply_objective(objective_settings("dpo")(beta=0.5), LOGPS | {"chosen_lengths": torch.tensor([2])})
    assert torch.equal(out.loss_sum, dpo_loss(*LOGPS.values(), beta=0.5).loss_sum)


def test_a_missing_tensor_is_named():
    with pytest.raises(TrainingError, match=r"'dpo' needs the tensors \['ref_chosen_logps'\]"):
        apply_objective(objective_settings("dpo")(), {name: value for name, value in LOGPS.items() if name != "ref_chosen_logps"})


def test_every_hyperparameter_is_bounded():
    for name in objectives:
        for key, field in objective_settings(name).model_fields.items():
            if key != "name":
                assert field.annotation is bool or field.metadata, f"{name}.{key} has no bounds"


def test_a_required_hyperparameter_is_required_of_the_settings():
    from posttrain.objectives import registry

    def toy_loss(logprobs, *, scale: Annotated[float, Field(gt=0, description="factor")]): ...

    fresh = type(objectives)("objective")
    fresh.register("toy")(toy_loss)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "objectives", fresh)
        with pytest.raises(ConfigError, match="'scale' is required"):
            parse(registry.objective_settings.__wrapped__("toy"), {}, where="recipe")
