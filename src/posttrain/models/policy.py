"""The model under training: a stock Hugging Face causal language model over packed forests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.models.adapter_base import base_record
from posttrain.models.families import check_head, head_shape, head_weight
from posttrain.models.forest import Forest
from posttrain.models.forest_model import ForestModel, choose_precision
from posttrain.models.head import token_logprobs, token_logprobs_and_entropies
from posttrain.models.loading import choose_dtype, find_model, load_model, open_adapter
from posttrain.models.lora import add_adapter
from posttrain.models.settings import ModelSettings


class Policy(ForestModel):
    """Token log-probabilities with gradients, and the weights an optimiser sees."""

    @classmethod
    def load(cls, settings: ModelSettings, *, seed: int, device: torch.device | str = "cpu", num_tokens: int = 0) -> Self:
        """Open the model, put adapters on, choose precision. ``seed`` fixes what is drawn; ``num_tokens``: expected tokens of the whole
        run.

        Raises ModelError for a path that is no model and for what cannot be trained exactly (named).
        """
        adapted = settings.lora is not None or settings.adapter is not None
        dtype = choose_dtype(settings.dtype, device) if adapted else torch.float32
        folder = find_model(settings.path)
        model: Any = load_model(folder, dtype, quantization=settings.quantization)
        model, compute_dtype = choose_precision(model, settings, device)
        if settings.lora is not None:
            model = add_adapter(model, settings.lora, seed=seed)
        elif settings.adapter is not None:
            model = open_adapter(model, settings.adapter, folder, trainable=True)
        policy = cls(model, settings, compute_dtype=compute_dtype, device=device)
        policy.base = base_record(settings.path, folder) if adapted else {}
        policy._compile_if_it_pays(num_tokens)
        return policy

    def logprobs(self, forest: Forest, *, uniform: bool = False) -> Float[Tensor, " target"]:
        """float32 ``log p(target | its path)``. ``uniform=True`` promises one gradient coefficient for all targets (checked in
        backward).
        """
        hidden, targets = self._target_rows(forest)
        return token_logprobs(hidden, head_weight(self._base), targets, shape=self._shape, uniform=uniform)

    def logprobs_and_entropies(self, forest: Forest) -> tuple[Float[Tensor, " target"], Float[Tensor, " target"]]:
        """``log p(target)`` and the entropy (nats) of the distribution it was drawn from; both differentiable."""
        hidden, targets = self._target_rows(forest)
        return token_logprobs_and_entropies(hidden, head_weight(self._base), targets, shape=self._shape)

    @contextmanager
    def without_adapter(self) -> Iterator[Self]:
        """The frozen base inside the block: the reference of a run that started a fresh adapter (``lora``), at no memory.

        A run that goes on training an adapter (``settings.adapter``) started from base plus adapter, not from this. Raises ModelError
        when there is no adapter.
        """
        if not hasattr(self.model, "disable_adapter"):
            raise ModelError("this policy has no adapter to switch off", hint="set 'lora', or load the reference as a model of its own")
        with self.model.disable_adapter():
            yield self

    @contextmanager
    def sampling(self) -> Iterator[Any]:
        """The live model as its library knows it, for a generator: own attention, eval mode, nothing compiled anew for decoding.

        These are the weights that train, not a copy: nothing has to be refreshed after an update. Adapters stay as they are switched.
        """
        base, was_training, own = self._base, self.model.training, self._base.config._attn_implementation
        base.set_attn_implementation("sdpa")
        self.model.eval()
        try:
            with torch.compiler.set_stance("force_eager"):
                yield base
        finally:
            base.set_attn_implementation(own)
            self.model.train(was_training)

    def _check_head(self) -> None:
        self._shape = head_shape(self._base.config)
        head_weight(self._base)
        if self.layout == "sequences":
            check_head(self._base)

    def _target_rows(self, forest: Forest) -> tuple[Tensor, Tensor]:
        """Hidden states [target, width] in the compute dtype that predict each target, and the targets' ids, on the policy's device."""
        hidden = self._states(forest, forest.logit_rows, forest.sequence_ids)
        return hidden.to(head_weight(self._base).dtype), forest.target_ids.to(self.device)
