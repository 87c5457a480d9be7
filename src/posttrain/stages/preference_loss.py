"""From a policy and a micro-batch of pairs or labels to an objective's loss: the tensors every objective may ask for, by name."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from posttrain.config import Config
from posttrain.models import Forest, Policy, completion_logprobs
from posttrain.objectives import LossOutput, apply_objective, objective_inputs
from posttrain.records import TokenSequence
from posttrain.training import Microbatch, TrainingItem, World


def sequence_sums(logprobs: Float[Tensor, " target"], forest: Forest) -> Float[Tensor, " sequence"]:
    """log p of each completion: its supervised tokens' log-probabilities added up."""
    zeros = torch.zeros(forest.num_sequences, dtype=logprobs.dtype, device=logprobs.device)
    return zeros.index_add(0, forest.sequence_ids.to(logprobs.device), logprobs)


def add_reference(items: Sequence[TrainingItem], sums: Float[Tensor, " sequence"]) -> list[TrainingItem]:
    """The items with their reference log-probabilities, [1] each: ``ref_chosen_logps`` and ``ref_rejected_logps``, or ``ref_logps``."""
    width = len(items[0].sequences)
    names = ("ref_chosen_logps", "ref_rejected_logps") if width == 2 else ("ref_logps",)
    rows = sums.view(len(items), width, 1)
    return [replace(item, tensors={**item.tensors, **dict(zip(names, row, strict=True))}) for item, row in zip(items, rows, strict=True)]


class MismatchedDrift:
    """KTO's reference point z before its clamp: the mean of log pi/pi_ref over completions set under prompts they do not answer.

    Ethayarajh et al. 2024, arXiv:2402.01306, section 4.1, with two deviations. A completion's foreign prompt is drawn once for the whole
    data set and not by rotation within a micro-batch: so the estimate is the same for odd batches, batches of one and any number of
    processes, and its reference half comes from the reference pass. And the mean is over all answers of the step, in every process.
    """

    def __init__(
        self, sequences: Sequence[TokenSequence | None], ref_logps: Float[Tensor, " mismatched"], *, max_tokens: int = 4096
    ) -> None:
        """``sequences``: by position of the item, None without a foreign prompt; ``ref_logps``: of those that are there, in order."""
        self._sequences, self._max_tokens = sequences, max_tokens
        self._ref = dict(zip((i for i, row in enumerate(sequences) if row is not None), ref_logps.tolist(), strict=True))
        self.value = 0.0

    def before_step(self, policy: Policy, microbatches: Sequence[Microbatch], world: World) -> None:
        """Estimate anew for the step whose micro-batches are given (this process's share of them), without gradients."""
        positions = [position for microbatch in microbatches for position in microbatch.concat("positions").tolist()]
        rows = {position: row for position in positions if (row := self._sequences[position]) is not None}
        logps = completion_logprobs(policy, list(rows.values()), max_tokens=self._max_tokens)
        ratios = {position: float(row.double().sum()) - self._ref[position] for position, row in zip(rows, logps, strict=True)}
        own = (sum(ratios[position] for position in positions if position in ratios), sum(position in ratios for position in positions))
        parts = world.gather(own)
        total, count = (sum(values) for values in zip(*parts, strict=True))
        self.value = total / count if count else 0.0


class PreferenceLoss:
    """The loss function that ``train`` calls: one forward pass over the shared prompts, one sum a sequence, the objective named."""

    def __init__(self, objective: Config, *, drift: MismatchedDrift | None = None) -> None:
        """``objective``: an ``objective_settings`` object. ``drift``: for an objective that asks for ``kl``."""
        self._objective, self._drift = objective, drift
        inputs = objective_inputs(getattr(objective, "name"))  # noqa: B009 (made from a signature: no static attribute)
        self._stored = [name for name in inputs if not name.startswith("policy_") and name != "kl"]
        self._is_paired = "policy_chosen_logps" in inputs

    def __call__(self, policy: Policy, forest: Forest, microbatch: Microbatch) -> LossOutput:
        """The loss sum and its count over the items of the micro-batch; metrics as sums over ``count``."""
        logps = sequence_sums(policy.logprobs(forest), forest)
        tensors: dict[str, Tensor] = {name: microbatch.concat(name) for name in self._stored}
        if self._drift is not None:
            tensors["kl"] = logps.new_tensor(self._drift.value)
        if not self._is_paired:
            return apply_objective(self._objective, tensors | {"policy_logps": logps})
        chosen, rejected = logps[0::2], logps[1::2]
        out = apply_objective(self._objective, tensors | {"policy_chosen_logps": chosen, "policy_rejected_logps": rejected})
        watched: dict[str, Any] = {
            "lengths/chosen": microbatch.concat("chosen_lengths"),
            "lengths/rejected": microbatch.concat("rejected_lengths"),
        }
        if "ref_chosen_logps" in tensors:
            watched |= {
                "logps/chosen_change": chosen.detach() - tensors["ref_chosen_logps"],
                "logps/rejected_change": rejected.detach() - tensors["ref_rejected_logps"],
            }
        return replace(out, metrics=out.metrics | {name: float(values.sum()) for name, values in watched.items()})
