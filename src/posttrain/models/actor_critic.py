"""The models of a PPO run: policy, its reference, and the value of a state.

With LoRA all three are one base: the policy is the adapter ``default``, the value the adapter ``value`` with a score row of its own,
the reference the base with both switched off. In full training the reference is a frozen copy and the value a model of its own. Policy
and value share no weight that trains, so their losses never mix and need no coefficient between them.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posttrain.errors import ModelError
from posttrain.models.forest import Forest
from posttrain.models.forest_model import ForestModel
from posttrain.models.loading import find_model, load_model
from posttrain.models.policy import Policy
from posttrain.models.scalar import ScalarModel
from posttrain.models.settings import ModelSettings

POLICY, VALUE = "default", "value"


class AdapterPolicy(Policy):
    """A policy whose base also carries a value adapter: every pass switches its own adapter on first."""

    def _states(self, forest: Forest, rows: Tensor, sequence_ids: Tensor) -> Tensor:
        activate(self.model, POLICY)
        return super()._states(forest, rows, sequence_ids)


class AdapterValue(ForestModel):
    """Values from a second adapter on a policy's base, and a float32 score row that starts at zero: before training every value is 0."""

    def __init__(self, policy: Policy, *, seed: int) -> None:
        """Adds the adapter to ``policy``'s model; its shape is the policy adapter's, its draw depends on ``seed`` alone."""
        model = policy.model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.add_adapter(VALUE, copy.deepcopy(model.peft_config[POLICY]), autocast_adapter_dtype=False)
        activate(model, VALUE)
        width = model.get_base_model().config.get_text_config().hidden_size
        self._row = nn.Parameter(torch.zeros(width, device=policy.device))
        super().__init__(model, policy.settings, compute_dtype=policy.compute_dtype, device=policy.device)

    def values(self, forest: Forest) -> Float[Tensor, " target"]:
        """float32: the score of the state before each target."""
        activate(self.model, VALUE)
        scores: Tensor = self._states(forest, forest.logit_rows, forest.sequence_ids).float() @ self._row
        return scores

    def trainable(self) -> dict[str, nn.Parameter]:
        """The value adapter's masters and the score row."""
        return super().trainable() | {"score": self._row}

    def _check_head(self) -> None:
        """The row is ours; there is nothing of the model's to check."""


class ActorCritic:
    """``policy`` and ``value`` train, each with its own gradients; :meth:`reference_logprobs` never changes."""

    def __init__(self, policy: Policy, value: AdapterValue | ScalarModel, reference: Policy | None = None) -> None:
        """``reference`` is None where the policy's base with its adapter off is the reference. Prefer :meth:`load`."""
        self.policy, self.value, self._reference = policy, value, reference

    @classmethod
    def load(
        cls, settings: ModelSettings, *, seed: int, device: torch.device | str = "cpu", value_path: str | Path | None = None
    ) -> "ActorCritic":
        """Open the start model. ``value_path``: where the value model of full training starts (a reward model); else the start model.

        Raises ModelError for what cannot be the start of a PPO run: an adapter to go on with (the base would not be the reference), dropout
        in a model (the answers are scored without it, so that the first probability ratio would not be 1).
        """
        if settings.adapter is not None:
            raise ModelError(
                "PPO starts from a plain model: with 'adapter' the base would not be the reference",
                hint="merge the adapter first (`posttrain models merge`) and start from the merged folder",
            )
        if settings.lora is not None:
            adapted = AdapterPolicy.load(settings, seed=seed, device=device)
            check_no_dropout(adapted)
            return cls(adapted, AdapterValue(adapted, seed=seed + 1))
        policy = Policy.load(settings, seed=seed, device=device)
        frozen = load_model(find_model(settings.path), torch.float32).requires_grad_(False)  # lowered as the policy is, norms kept
        reference = Policy(frozen, settings, compute_dtype=policy.compute_dtype, device=device)
        start = settings.model_copy(update={"path": str(value_path or settings.path)})
        value = ScalarModel.load(start, seed=seed + 1, device=device)
        for part in (policy, value):
            check_no_dropout(part)
        return cls(policy, value, reference)

    @torch.no_grad()
    def reference_logprobs(self, forest: Forest) -> Float[Tensor, " target"]:
        """float32 ``log p`` of each target under the policy as it was before its first update."""
        if self._reference is not None:
            return self._reference.logprobs(forest)
        with self.policy.without_adapter() as base:
            return base.logprobs(forest)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The masters of both, ``policy/...`` and ``value/...``: what a checkpoint holds."""
        parts = {"policy": self.policy, "value": self.value}
        return {f"{name}/{key}": parameter for name, part in parts.items() for key, parameter in part.trainable().items()}

    def refresh(self) -> None:
        """Copy masters into their compute copies, after an optimiser step or a restored checkpoint."""
        self.policy.refresh()
        self.value.refresh()

    @contextmanager
    def sampling(self, *, reference: bool = False) -> Iterator[Any]:
        """The policy's (or the reference's) stock model inside the block, with its own attention, for a generator.

        These are the live weights, not a copy: nothing has to be refreshed after an update.
        """
        if reference and self._reference is None:
            with self.policy.without_adapter() as base, base.sampling() as stock:
                yield stock
            return
        policy = self._reference if reference and self._reference is not None else self.policy
        if policy is self.policy and isinstance(self.value, AdapterValue):
            activate(policy.model, POLICY)
        with policy.sampling() as stock:
            yield stock

    def drop_value(self) -> None:
        """Take the value adapter off, so that the policy saves as a plain adapter. The run is over then."""
        if isinstance(self.value, AdapterValue):
            activate(self.policy.model, POLICY)
            self.policy.model.delete_adapter(VALUE)


def check_no_dropout(part: ForestModel) -> None:
    """Raise ModelError for a model that drops states at random in training."""
    found = [f"{name} ({module.p:g})" for name, module in part.model.named_modules() if isinstance(module, nn.Dropout) and module.p > 0]
    if found:
        raise ModelError(
            f"{part.settings.path}: PPO needs a model without dropout, and this one has it in {len(found)} places, first {found[0]}",
            hint="set the dropout probabilities in its config.json to 0",
        )


def activate(model: Any, name: str) -> None:
    """Make ``name`` the adapter that computes and takes gradients."""
    if model.active_adapter != name:
        model.set_adapter(name)
