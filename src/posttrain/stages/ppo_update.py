"""One PPO update: several passes of minibatches over the scored answers, through the engine's own pieces."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from posttrain.models import Forest, ForestModel
from posttrain.models.actor_critic import ActorCritic
from posttrain.objectives import LossOutput, gae, kl_per_token, ppo_policy_loss, ppo_value_loss, taxed_rewards, whiten
from posttrain.stages.ppo_rollouts import Passes, Rollout
from posttrain.stages.ppo_settings import PpoConfig
from posttrain.training import LossFunction, Microbatch, TrainingItem, TrainingSettings
from posttrain.training.loop import build_optimizer
from posttrain.training.plan import split_microbatches
from posttrain.training.schedule import learning_rate
from posttrain.training.step import StepSums, accumulate, blame_gradient, check_sums, scale_gradients, seed_step

SMALLEST_SPREAD = 1e-6
"""Returns that vary less than this are taken as constant."""


def build_ppo_optimizer(models: ActorCritic, config: PpoConfig) -> torch.optim.Optimizer:
    """AdamW over the masters of policy and value; the value's groups run at a rate of their own (``scale``)."""
    optimizer = build_optimizer(models.policy, config.training)
    for group in build_optimizer(models.value, config.training).param_groups:
        optimizer.add_param_group({**group, "scale": config.value_rate_ratio})
    return optimizer


def build_items(
    rollouts: Sequence[Rollout], passes: Passes, scores: Tensor, config: PpoConfig, *, kl_coef: float
) -> tuple[list[TrainingItem], Tensor]:
    """Answers with what their losses need, and the returns [token] (for the explained variance)."""
    tax = kl_per_token(passes.logprobs, passes.ref_logprobs, estimator=config.kl_estimator)
    rewards = taxed_rewards(scores, tax, passes.lengths, kl_coef=kl_coef)
    advantages, returns = gae(rewards, passes.values, passes.lengths, discount=config.discount, trace_decay=config.trace_decay)
    tensors = {
        "old_logprobs": passes.logprobs,
        "old_values": passes.values,
        "advantages": whiten(advantages) if config.whiten_advantages else advantages,
        "returns": returns,
    }
    split = {name: torch.split(tensor, passes.lengths.tolist()) for name, tensor in tensors.items()}
    items = [TrainingItem((rollout.sequence,), {name: parts[i] for name, parts in split.items()}) for i, rollout in enumerate(rollouts)]
    return items, returns


class Updater:
    """The optimiser and the losses of a run."""

    def __init__(self, models: ActorCritic, config: PpoConfig, num_updates: int) -> None:
        self.models, self.config, self.num_updates = models, config, num_updates
        self.optimizer = build_ppo_optimizer(models, config)
        self._spread = 1.0

    def run(self, items: Sequence[TrainingItem], update: int) -> dict[str, float]:
        """Train on ``items`` (``update`` counts from 0); numbers per token, averaged over the steps taken.

        The value's loss is in units of the returns' variance: one half is what a constant at their mean would have.

        A loss or gradient that is not finite raises TrainingError before the optimiser step it belongs to. When a minibatch finds the
        policy further than ``update_kl_limit`` from the one that answered, the rest of the update is skipped, that minibatch included.
        """
        settings = self.config.training
        seed_step(settings.seed, update, 0)
        rate = learning_rate(update, self.num_updates, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        self._spread = max(float(torch.cat([item.tensors["returns"] for item in items]).std(correction=0)), SMALLEST_SPREAD)
        steps: list[dict[str, float]] = []
        skipped = 0.0
        for epoch in range(self.config.epochs_per_update):
            order = np.random.default_rng([settings.seed, update, epoch]).permutation(len(items))
            for part in np.array_split(order, self.config.minibatches):
                if not skipped:
                    found = self._step([items[position] for position in part], update + 1)
                    steps += [found] if found else []
                    skipped = float(found is None)
        names = steps[0] if steps else {}
        means = {name: sum(step[name] for step in steps) / len(steps) for name in names}
        return means | {"optimizer_steps": float(len(steps)), "stopped_by_update_kl": skipped, "learning_rate": rate}

    def _step(self, items: Sequence[TrainingItem], number: int) -> dict[str, float] | None:
        """One minibatch: both gradients, all checks, then both updates. None when the policy is too far already: nothing was changed."""
        self.models.policy.model.train()
        batches = self._microbatches(items)
        found: dict[str, float] = {}
        parts: tuple[tuple[str, ForestModel, LossFunction], ...] = (
            ("policy", self.models.policy, self._policy_loss),
            ("value", self.models.value, self._value_loss),
        )
        for name, model, loss in parts:
            sums = accumulate(model, batches, loss, self.config.training)
            check_sums(sums, number)
            found |= _means(sums, name)
            limit = self.config.update_kl_limit
            if name == "policy" and limit is not None and found["update_kl"] > limit:
                self.optimizer.zero_grad(set_to_none=True)
                return None
            gradients = [parameter.grad for parameter in model.trainable().values() if parameter.grad is not None]
            found[f"{name}_grad_norm"] = scale_gradients(gradients, sums.count, self.config.training.max_grad_norm)
            if not math.isfinite(found[f"{name}_grad_norm"]):
                raise blame_gradient(model, batches, loss, self.config.training, number)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.models.refresh()
        return found

    def _microbatches(self, items: Sequence[TrainingItem]) -> list[Microbatch]:
        settings: TrainingSettings = self.config.training
        cuts = split_microbatches(
            items, max_tokens=settings.max_tokens_per_microbatch, share=settings.share_prefixes, min_shared=settings.min_shared_tokens
        )
        device = torch.device(self.models.policy.device)
        return [Microbatch(number, tuple(items[position] for position in cut), device) for number, cut in enumerate(cuts)]

    def _policy_loss(self, _: ForestModel, forest: Forest, batch: Microbatch) -> LossOutput:
        logprobs = self.models.policy.logprobs(forest)
        return ppo_policy_loss(logprobs, batch.concat("old_logprobs"), batch.concat("advantages"), clip_epsilon=self.config.clip_epsilon)

    def _value_loss(self, _: ForestModel, forest: Forest, batch: Microbatch) -> LossOutput:
        values, old_values, returns = self.models.value.values(forest), batch.concat("old_values"), batch.concat("returns")
        unit = self._spread
        return ppo_value_loss(values / unit, old_values / unit, returns / unit, clip_range=self.config.value_clip_range)


def _means(sums: StepSums, name: str) -> dict[str, float]:
    return {f"{name}_loss": sums.loss / sums.count} | {key: value / sums.count for key, value in sums.metrics.items()}
