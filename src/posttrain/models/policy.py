"""The model under training: a stock Hugging Face causal language model over packed forests, with float32 master weights."""

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from posttrain.config.files import atomic_directory, write_json
from posttrain.errors import ModelError
from posttrain.models import attention
from posttrain.models.families import check_head, choose_layout, head_shape, head_weight
from posttrain.models.forest import Forest
from posttrain.models.head import token_logprobs, token_logprobs_and_entropies
from posttrain.models.loading import check_adapter, choose_dtype, find_model, load_model, no_progress_bars
from posttrain.models.lora import add_adapter
from posttrain.models.settings import ModelSettings

COMPILE_PAYS_FROM_FLOPS = 2e13
"""Work of a whole run (6 x parameters x tokens) below which compiling costs more than it saves."""


class SavesContract(Protocol):
    """What ``Policy.save`` needs of a chat contract."""

    def save(self, directory: Path) -> None:
        """Write tokenizer files and contract.json."""
        ...


class Policy:
    """Token log-probabilities with gradients, and the weights an optimiser sees.

    In float32 the model's own parameters are the masters. In bfloat16 the model holds bfloat16 copies of its matrices, refreshed once a
    step
    from float32 masters, while norms, residual stream and losses stay float32.
    """

    def __init__(self, model: Any, settings: ModelSettings, *, compute_dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        """Takes over ``model`` (float32 parameters, or already in ``compute_dtype`` where frozen). Prefer :meth:`load`."""
        self.model, self.settings = model, settings
        self.compute_dtype, self.device = compute_dtype, torch.device(device)
        self._base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._is_lowered = compute_dtype.itemsize < torch.float32.itemsize
        self.layout = choose_layout(self._base.config)
        self._shape = head_shape(self._base.config)
        head_weight(self._base)
        if self.layout == "forest":
            attention.register()
            self._base.set_attn_implementation(attention.ATTENTION_NAME)
        else:
            check_head(self._base)
        model.to(self.device).train()
        self._masters = self._split_precision()
        if settings.gradient_checkpointing:
            self._base.activation_checkpointing_enable({"use_reentrant": False})
        self._dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p > 0]

    @classmethod
    def load(cls, settings: ModelSettings, *, seed: int, device: torch.device | str = "cpu", num_tokens: int = 0) -> "Policy":
        """Open the model, put adapters on, choose precision. ``seed`` fixes what is drawn; ``num_tokens``: expected tokens of the whole
        run.

        Raises ModelError for a path that is no model and for what cannot be trained exactly (named).
        """
        path = find_model(settings.path)
        compute_dtype = choose_dtype(settings.dtype, device)
        adapted = settings.lora is not None or settings.adapter is not None
        model = load_model(path, compute_dtype if adapted else torch.float32, quantization=settings.quantization)
        if choose_layout(model.config) == "sequences" and compute_dtype != torch.float32:
            if settings.dtype == "bfloat16":
                raise ModelError(f"'{model.config.model_type}' is trained in float32 only", hint="set dtype: float32")
            compute_dtype = torch.float32
            model = model.float()
        if settings.lora is not None:
            model = add_adapter(model, settings.lora, seed=seed)
        elif settings.adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(check_adapter(settings.adapter)), is_trainable=True, autocast_adapter_dtype=False)
        policy = cls(model, settings, compute_dtype=compute_dtype, device=device)
        if policy._should_compile(num_tokens):
            policy.compile()
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

    def trainable(self) -> dict[str, nn.Parameter]:
        """float32 masters by parameter name: what the optimiser and a checkpoint hold."""
        return dict(self._masters)

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Add compute-copy gradients to their masters' and free them. Nothing to do where the master is the parameter itself."""
        for name, parameter in self.model.named_parameters():
            master = self._masters.get(name)
            if master is None or master is parameter or parameter.grad is None:
                continue
            if master.grad is None:
                master.grad = parameter.grad.to(master.dtype)
            else:
                master.grad.add_(parameter.grad)
            parameter.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy masters into their compute copies; to be called after every optimiser step and after a checkpoint is loaded."""
        for name, parameter in self.model.named_parameters():
            master = self._masters.get(name)
            if master is not None and master is not parameter:
                parameter.copy_(master)

    def save(self, directory: str | Path, contract: SavesContract) -> None:
        """Full model: a Hugging Face folder in float32. Adapter: standard PEFT files. Both with tokenizer and contract; atomic."""
        masters = {id(parameter): self._masters[name] for name, parameter in self.model.named_parameters() if name in self._masters}
        state = {name: masters.get(id(tensor), tensor).detach() for name, tensor in self.model.state_dict(keep_vars=True).items()}
        with atomic_directory(directory) as folder, no_progress_bars():
            self.model.save_pretrained(folder, state_dict=state)
            (folder / "README.md").unlink(missing_ok=True)
            if (config := folder / "config.json").is_file():  # transformers writes the compute copies' dtype there
                write_json(config, {**json.loads(config.read_text(encoding="utf-8")), "dtype": "float32"})
            if (config := folder / "adapter_config.json").is_file():  # peft writes sets, in another order in every process
                settings = json.loads(config.read_text(encoding="utf-8"))
                write_json(config, {name: sorted(value) if isinstance(value, list) else value for name, value in settings.items()})
            contract.save(folder)

    def compile(self, *, backend: str = "inductor") -> None:
        """Compile every decoder layer; layers of one shape share their graphs. ``backend`` is torch.compile's."""
        for layer in self._base.base_model.layers:
            layer.compile(dynamic=True, backend=backend)

    def _should_compile(self, num_tokens: int) -> bool:
        if self.settings.compile != "auto" or self.layout != "forest":
            return self.settings.compile is True
        work = 6.0 * sum(parameter.numel() for parameter in self._base.parameters()) * num_tokens
        compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        return self.settings.quantization is None and work >= COMPILE_PAYS_FROM_FLOPS and compiler is not None

    def _split_precision(self) -> dict[str, nn.Parameter]:
        """Lower matrices to the compute dtype (norms stay float32) and return float32 masters of what trains."""
        masters = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if not self._is_lowered:
            return masters
        lowered = {
            id(parameter)
            for module in self.model.modules()
            if isinstance(module, (nn.Linear, nn.Embedding))
            for parameter in module.parameters(recurse=False)
        }
        for name, parameter in self.model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if id(parameter) not in lowered:
                parameter.data = parameter.data.float()
            elif name in masters:
                masters[name] = nn.Parameter(parameter.detach().float())
                parameter.data = parameter.data.to(self.compute_dtype)
        for module in self.model.modules():
            if isinstance(module, nn.Linear) and module.weight.is_floating_point():
                module.register_forward_pre_hook(_cast_input)
        return masters

    def _target_rows(self, forest: Forest) -> tuple[Tensor, Tensor]:
        """Hidden states [target, width] in the compute dtype that predict each target, and the targets' ids, on the policy's device."""
        for module in self._dropouts:
            module.train(torch.is_grad_enabled())
        if self._dropouts and torch.is_grad_enabled() and forest.is_shared:
            raise ModelError("dropout above 0 cannot be exact on shared prefixes", hint="set share_prefixes: false, or dropout: 0")
        if self.layout == "sequences":
            return self._target_rows_one_by_one(forest)
        forest = forest.to(self.device)
        body = self._base.base_model
        embedded = body.get_input_embeddings()(forest.input_ids[None])
        embedded = embedded.float() if self._is_lowered else embedded
        output = body(inputs_embeds=embedded, position_ids=forest.position_ids[None], use_cache=False, forest_nodes=forest.nodes)
        rows = output.last_hidden_state[0].index_select(0, forest.logit_rows)
        return rows.to(head_weight(self._base).dtype), forest.target_ids

    def _target_rows_one_by_one(self, forest: Forest) -> tuple[Tensor, Tensor]:
        """The same for an architecture that cannot branch: one plain forward pass a sequence."""
        found = []
        for number, path in enumerate(forest.paths()):
            ids = forest.input_ids[path][None].to(self.device)
            hidden = self._base.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
            depth = forest.position_ids[forest.logit_rows[forest.sequence_ids == number]]
            found.append(hidden.index_select(0, depth.to(self.device)))
        return torch.cat(found), forest.target_ids.to(self.device)


def _cast_input(module: nn.Linear, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    first = inputs[0]
    return (first.to(module.weight.dtype), *inputs[1:]) if first.dtype != module.weight.dtype else None
