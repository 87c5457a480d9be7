"""Value and gradient of every objective, through our packed forests, equal those of TRL's trainers in float32 to 1e-5.

The gradient is taken to all parameters of the model, so padding, masks, sums and truncation of both sides are compared with the loss.
"""

import numpy as np
import pytest
import torch
from transformers import LlamaForSequenceClassification
from trl_peers import BATCHES, build_peer, concatenated_batch, draw_pairs, tiny_model

from posttrain.models import ModelSettings, Policy, ScalarModel, build_forest
from posttrain.objectives import apply_objective, objective_settings
from posttrain.records import TokenSequence

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # TRL and what it imports warn in their own words
pytest.importorskip("trl")
TOLERANCE = 1e-5
BETA = 0.3


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    built = {}

    def get(name):
        if name not in built:
            built[name] = build_peer(name, tmp_path_factory.mktemp(name))
        return built[name]

    return get


def rows_of(input_ids, attention_mask, completion_mask):
    """The sequences of a TRL batch without its padding. The first token has no prediction, so it is never supervised here."""
    rows = []
    for ids, attended, mask in zip(input_ids, attention_mask.bool(), completion_mask.bool(), strict=True):
        kept = mask[attended].numpy().copy()
        kept[:1] = False
        rows.append(TokenSequence(ids[attended].numpy().astype(np.int32), kept))
    return rows


def summed_logps(model, rows):
    policy = Policy(model, ModelSettings(path="unused"), compute_dtype=torch.float32)
    forest = build_forest(rows)
    logps = torch.zeros(len(rows)).index_add(0, forest.sequence_ids, policy.logprobs(forest))
    return logps, torch.tensor([row.num_supervised for row in rows])


def paired_inputs(rows, model):
    """Standard tensors of a batch whose first half is chosen: the policy's with gradients, the reference's without."""
    logps, lengths = summed_logps(model, rows)
    with torch.no_grad():
        ref, _ = summed_logps(tiny_model(1), rows)
    named = {}
    for side, half in (("chosen", slice(None, len(rows) // 2)), ("rejected", slice(len(rows) // 2, None))):
        named |= {f"policy_{side}_logps": logps[half], f"ref_{side}_logps": ref[half], f"{side}_lengths": lengths[half]}
    return named


def check_equal(loss, model, their_loss, their_model):
    """Both losses are means; gradients within 1e-5 of the largest entry of all, or 1e-6 (chosen and rejected cancel, at a tie wholly)."""
    assert float(loss.detach()) == pytest.approx(float(their_loss.detach()), rel=TOLERANCE, abs=TOLERANCE)
    for one, value in ((model, loss), (their_model, their_loss)):
        one.zero_grad()
        value.backward()
    theirs = {name: parameter.grad for name, parameter in their_model.named_parameters() if parameter.grad is not None}
    assert theirs
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    ours = dict(model.named_parameters())
    for name, gradient in theirs.items():
        own = ours[name].grad if ours[name].grad is not None else torch.zeros_like(gradient)
        assert float((own - gradient).abs().max()) <= TOLERANCE * max(largest, 0.1), name


def mean_loss(name, settings, named):
    out = apply_objective(objective_settings(name)(**settings), named)
    return out.loss_sum / out.count


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(
    ("name", "settings", "loss_type"),
    [
        ("dpo", {}, "sigmoid"),
        ("robust_dpo", {"label_smoothing": 0.2}, "robust"),
        ("ipo", {"average_logps": True}, "ipo"),
    ],
)
def test_losses_with_a_reference_equal_the_dpo_trainer(peers, batch, name, settings, loss_type):
    trainer = peers("dpo")
    trainer.loss_types, trainer.beta, trainer.label_smoothing = [loss_type], BETA, settings.get("label_smoothing", 0.0)
    inputs = trainer.data_collator(draw_pairs(batch))
    model = tiny_model(0)
    named = paired_inputs(rows_of(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]), model)
    if name == "ipo":  # TRL counts the first token of an empty prompt's completion, which nothing predicts
        named["chosen_lengths"], named["rejected_lengths"] = inputs["completion_mask"].sum(1).chunk(2)
    check_equal(mean_loss(name, {"beta": BETA, **settings}, named), model, trainer.compute_loss(trainer.model, inputs), trainer.model)


def test_ipo_as_published_equals_the_dpo_trainer_where_completions_are_one_token(peers):
    trainer = peers("dpo")
    trainer.loss_types, trainer.beta = ["ipo"], BETA
    inputs = trainer.data_collator(draw_pairs("single_token"))
    model = tiny_model(0)
    named = paired_inputs(rows_of(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]), model)
    check_equal(mean_loss("ipo", {"beta": BETA}, named), model, trainer.compute_loss(trainer.model, inputs), trainer.model)


@pytest.mark.parametrize("batch", BATCHES)
def test_conservative_dpo_equals_the_optimal_transport_loss_of_a_single_pair(peers, batch):
    """TRL 1.16's plain DPO takes no label smoothing; its AOT loss does, and sorting one pair changes nothing."""
    trainer = peers("dpo")
    trainer.loss_types, trainer.beta, trainer.label_smoothing = ["aot"], BETA, 0.15
    for pair in draw_pairs(batch):
        inputs = trainer.data_collator([pair])
        model = tiny_model(0)
        named = paired_inputs(rows_of(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"]), model)
        ours = mean_loss("dpo", {"beta": BETA, "label_smoothing": 0.15}, named)
        check_equal(ours, model, trainer.compute_loss(trainer.model, inputs), trainer.model)


def concatenated_rows(batch, trainer):
    joined = trainer.concatenated_inputs(batch, padding_value=0)
    labels = joined["concatenated_labels"]
    return rows_of(joined["concatenated_input_ids"], joined["concatenated_attention_mask"], labels != -100)


def scored_pairs(batch):
    """Without the pair that truncation leaves empty: TRL divides 0 by 0 there."""
    return draw_pairs(batch)[1:] if batch == "truncated" else draw_pairs(batch)


@pytest.mark.parametrize("batch", BATCHES)
def test_simpo_equals_the_cpo_trainer(peers, batch):
    trainer = peers("cpo")
    trainer.beta, trainer.simpo_gamma = 2.0, 0.7
    inputs, model = concatenated_batch(scored_pairs(batch), trainer.data_collator), tiny_model(0)
    named = paired_inputs(concatenated_rows(inputs, trainer), model)
    theirs, _ = trainer.get_batch_loss_metrics(trainer.model, inputs)
    check_equal(mean_loss("simpo", {"beta": 2.0, "gamma": 0.7}, named), model, theirs, trainer.model)


@pytest.mark.parametrize("batch", BATCHES)
def test_the_odds_ratio_term_of_orpo_equals_the_orpo_trainer(peers, batch):
    trainer = peers("orpo")
    trainer.beta = BETA
    inputs, model = concatenated_batch(scored_pairs(batch), trainer.data_collator), tiny_model(0)
    named = paired_inputs(concatenated_rows(inputs, trainer), model)
    chosen, rejected, *_ = trainer.concatenated_forward(trainer.model, inputs)
    theirs = -trainer.odds_ratio_loss(chosen, rejected)[0].mean()
    odds_term = mean_loss("orpo", {"beta": BETA}, named) - mean_loss("orpo", {"beta": 0.0}, named)
    check_equal(odds_term, model, theirs, trainer.model)


def test_orpo_as_a_whole_equals_the_orpo_trainer_where_both_take_the_likelihood_of_the_same_tokens(peers):
    """TRL's likelihood runs over prompt and answer, as one mean over the batch: one prompt token and equal lengths make them the same."""
    trainer = peers("orpo")
    trainer.beta = BETA
    pairs = [{**pair, "prompt_ids": pair["prompt_ids"][:1], "chosen_ids": (pair["chosen_ids"] * 4)[:4]} for pair in draw_pairs("random")]
    inputs, model = concatenated_batch(pairs, trainer.data_collator), tiny_model(0)
    named = paired_inputs(concatenated_rows(inputs, trainer), model)
    theirs, _ = trainer.get_batch_loss_metrics(trainer.model, inputs)
    check_equal(mean_loss("orpo", {"beta": BETA}, named), model, theirs, trainer.model)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("labels", [(True, False, True, True, False), (False,) * 5, (True,) * 5], ids=["mixed", "bad_only", "good_only"])
def test_kto_equals_the_kto_trainer(peers, batch, labels):
    trainer = peers("kto")
    trainer.beta, trainer.desirable_weight, trainer.undesirable_weight = BETA, 1.2, 0.9
    pairs = draw_pairs(batch)
    examples = [
        {"prompt_ids": pair["prompt_ids"], "completion_ids": pair["chosen_ids"], "KL_completion_ids": other["chosen_ids"], "label": label}
        for pair, other, label in zip(pairs, [pairs[-1], *pairs[:-1]], labels, strict=True)
    ]
    inputs, model = trainer.data_collator(examples), tiny_model(0)
    rows, drift_rows = (rows_of(*(inputs[f"{p}{key}"] for key in ("input_ids", "attention_mask", "completion_mask"))) for p in ("", "KL_"))
    with torch.no_grad():
        ref, _ = summed_logps(tiny_model(1), rows)
        drift = summed_logps(tiny_model(0), drift_rows)[0] - summed_logps(tiny_model(1), drift_rows)[0]
    named = {"policy_logps": summed_logps(model, rows)[0], "ref_logps": ref, "labels": inputs["label"], "kl": drift.mean()}
    ours = mean_loss("kto", {"beta": BETA, "desirable_weight": 1.2, "undesirable_weight": 0.9}, named)
    check_equal(ours, model, trainer.compute_loss(trainer.model, inputs), trainer.model)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("center", "with_margin"), [(None, False), (0.05, False), (None, True), (0.05, True)])
def test_bradley_terry_equals_the_reward_trainer(peers, batch, center, with_margin):
    trainer = peers("reward")
    trainer.args.center_rewards_coefficient = center
    margins = {"margin": 0.4} if with_margin else {}
    examples = [
        {**{f"{side}_ids": (pair["prompt_ids"] + pair[f"{side}_ids"])[:12] for side in ("chosen", "rejected")}, **margins}
        for pair in draw_pairs(batch)
    ]
    inputs = trainer.data_collator(examples)
    rows = rows_of(inputs["input_ids"], inputs["attention_mask"], torch.zeros_like(inputs["attention_mask"]))
    model = tiny_model(0, LlamaForSequenceClassification, num_labels=1)
    chosen, rejected = ScalarModel(model, ModelSettings(path="unused"), compute_dtype=torch.float32).rewards(build_forest(rows)).chunk(2)
    named = {"chosen_rewards": chosen, "rejected_rewards": rejected}
    named |= {"margins": torch.full_like(chosen.detach(), 0.4)} if with_margin else {}
    check_equal(
        mean_loss("bradley_terry", {"center": center or 0.0}, named),
        model,
        trainer.compute_loss(trainer.model, dict(inputs)),
        trainer.model,
    )
