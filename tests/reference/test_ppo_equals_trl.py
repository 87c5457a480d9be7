"""The clipped policy loss and the k3 estimator equal those inside TRL's GRPO trainer, value and gradient, in float32 to 1e-5.

TRL 1.16 has no PPO trainer any more; these are the pieces of PPO it still has. Its loss ``bnpo`` is the mean over tokens, as ours. GAE,
whitening and the value loss have no counterpart in it and are compared with plain Python in ``test_ppo_reference``.
"""

import random
import warnings

import numpy as np
import pytest
import torch
from trl_peers import VOCABULARY, tiny_model, tokenizer

from posttrain.models import ModelSettings, Policy, build_forest
from posttrain.objectives import kl_per_token, ppo_policy_loss
from posttrain.records import TokenSequence

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]  # TRL and what it imports warn in their own words
pytest.importorskip("trl")
TOLERANCE = 1e-5
LENGTHS = {"random": [(3, 5), (6, 2), (2, 7), (4, 4)], "single_token": [(3, 1), (5, 1)], "truncated": [(2, 8), (4, 8)]}


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """TRL's trainer with a policy loss clipped at .2 and a k3 term of .3."""
    import trl
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"loss_type": "bnpo", "beta": 0.3, "epsilon": 0.2, "use_bias_correction_kl": False}
        settings |= {"num_generations": 2, "per_device_train_batch_size": 2}
        place = tmp_path_factory.mktemp("grpo")
        arguments = trl.GRPOConfig(output_dir=str(place), report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, **settings)
        rows = Dataset.from_list([{"prompt": "w3 w4"}] * 2)
        model = tiny_model(0)
        model.config._name_or_path = model.name_or_path = str(place)
        tiny_model(1).save_pretrained(place)  # its reference is loaded by name; the terms it gives are handed in below
        return trl.GRPOTrainer(
            model=model, args=arguments, processing_class=tokenizer(), train_dataset=rows, reward_funcs=lambda completions, **_: [0.0] * 2
        )


@pytest.mark.parametrize("batch", LENGTHS)
def test_clipped_loss_with_k3_penalty(trainer, batch):
    draw, lengths = random.Random(4), LENGTHS[batch]
    rows = [[draw.randrange(2, VOCABULARY) for _ in range(prompt + answer)] for prompt, answer in lengths]
    width = [max(column) for column in zip(*lengths, strict=True)]
    inputs = {"prompt_ids": [], "prompt_mask": [], "completion_ids": [], "completion_mask": []}
    for ids, (prompt, answer) in zip(rows, lengths, strict=True):
        inputs["prompt_ids"].append([0] * (width[0] - prompt) + ids[:prompt])
        inputs["prompt_mask"].append([0] * (width[0] - prompt) + [1] * prompt)
        inputs["completion_ids"].append(ids[prompt:] + [0] * (width[1] - answer))
        inputs["completion_mask"].append([1] * answer + [0] * (width[1] - answer))
    inputs = {name: torch.tensor(values) for name, values in inputs.items()}
    mask = inputs["completion_mask"].bool()
    model = tiny_model(0)
    policy = Policy(model, ModelSettings(path="unused"), compute_dtype=torch.float32)
    forest = build_forest(
        [TokenSequence(np.array(ids, np.int32), np.arange(len(ids)) >= prompt) for ids, (prompt, _) in zip(rows, lengths, strict=True)]
    )
    logprobs = policy.logprobs(forest)
    generator = torch.Generator().manual_seed(0)
    old, ref = (logprobs.detach() + 0.4 * torch.randn(logprobs.shape, generator=generator) for _ in range(2))
    advantages = torch.randn(logprobs.shape, generator=generator)
    for name, values in (("old_per_token_logps", old), ("ref_per_token_logps", ref), ("advantages", advantages)):
        inputs[name] = torch.zeros(mask.shape).masked_scatter(mask, values)
    trainer.current_gradient_accumulation_steps = 1  # what their training loop sets
    theirs = trainer._compute_loss(trainer.model.train(), inputs)
    out = ppo_policy_loss(logprobs, old, advantages, clip_epsilon=0.2)
    ours = (out.loss_sum + 0.3 * kl_per_token(logprobs, ref, estimator="k3").sum()) / out.count
    assert 0 < out.metrics["clip_fraction"] < out.count or batch == "single_token"
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=TOLERANCE, abs=TOLERANCE)
    trainer.model.zero_grad()
    theirs.backward()
    ours.backward()
    own = dict(model.named_parameters())
    gradients = {name: parameter.grad for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    assert largest > 0
    for name, gradient in gradients.items():
        assert float((own[name].grad - gradient).abs().max()) <= TOLERANCE * max(largest, 0.1), name
