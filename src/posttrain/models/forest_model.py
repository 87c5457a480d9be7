"""A stock Hugging Face model over packed forests, with float32 master weights: all that does not depend on what its head says."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from posttrain.config.files import atomic_directory, write_json
from posttrain.errors import ModelError
from posttrain.models import attention
from posttrain.models.adapter_base import save_base
from posttrain.models.families import choose_layout
from posttrain.models.forest import Forest
from posttrain.models.loading import choose_dtype
from posttrain.models.lora import decoder_layers
from posttrain.models.native import find_compiler, kernel_in_use
from posttrain.models.settings import ModelSettings
from posttrain.models.weights import check_token_ids, quiet_transformers

COMPILE_PAYS_FROM_FLOPS = 2e13
"""Work of a whole run (6 x parameters x tokens) below which compiling costs more than it saves."""

ACTIVATION_BUDGET = 0.8
"""Share of a compiled layer's activations that is kept for the backward pass; the rest (normed inputs, the gated product) is element by
element and made again there. A tenth less peak memory for a step one to three per cent longer.
"""


class SavesContract(Protocol):
    """What :meth:`ForestModel.save` needs of a chat contract."""

    def save(self, directory: Path) -> None:
        """Write tokenizer files and contract.json."""
        ...


class ForestModel(ABC):
    """The decoder over forests and the weights an optimiser sees; what is read off the decoder's states is a subclass's.

    In float32 the model's own parameters are the masters. In bfloat16 the model holds bfloat16 copies of its matrices, refreshed once a
    step from float32 masters, while norms, residual stream and losses stay float32.
    """

    def __init__(self, model: Any, settings: ModelSettings, *, compute_dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        """Takes over ``model`` (float32 parameters; frozen ones may be in ``compute_dtype`` already). Prefer a subclass's ``load``."""
        self.model, self.settings = model, settings
        self.compute_dtype, self.device = compute_dtype, torch.device(device)
        self.base: dict[str, str] = {}  # the model an adapter is for: its name and its weights' fingerprint
        self._base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._is_compiled = False
        self._is_lowered = compute_dtype.itemsize < torch.float32.itemsize
        self.layout = choose_layout(self._base.config)
        self._check_head()
        if self.layout == "forest":
            attention.register()
            self._base.set_attn_implementation(attention.ATTENTION_NAME)
        model.to(self.device).train()
        self._masters = self._split_precision()
        if settings.gradient_checkpointing:
            self._base.activation_checkpointing_enable({"use_reentrant": False})
        self._dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.p > 0]

    @abstractmethod
    def _check_head(self) -> None:
        """Raise ModelError for a head that is not computed exactly. The model is still as it was loaded."""

    def _full_precision(self) -> list[nn.Module]:
        """Linear modules that stay float32 when the others are lowered."""
        return []

    def trainable(self) -> dict[str, nn.Parameter]:
        """float32 masters by parameter name: what the optimiser and a checkpoint hold."""
        return dict(self._masters)

    def check_token_ids(self, largest: int) -> None:
        """Raise ModelError when the embedding has no row for token id ``largest``."""
        check_token_ids(largest, self._base)

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
        with atomic_directory(directory) as folder, quiet_transformers():
            self.model.save_pretrained(folder, state_dict=self._master_state())
            (folder / "README.md").unlink(missing_ok=True)
            write_float32(folder)
            if (config := folder / "adapter_config.json").is_file():  # peft writes sets, in another order in every process
                settings = json.loads(config.read_text(encoding="utf-8"))
                write_json(config, {name: sorted(value) if isinstance(value, list) else value for name, value in settings.items()})
                save_base(folder, self.base)
            contract.save(folder)

    def compile(self, *, backend: str = "inductor") -> None:
        """Compile every decoder layer; layers of one shape share their graphs. ``backend`` is torch.compile's."""
        import torch._functorch.config as functorch

        functorch.activation_memory_budget = ACTIVATION_BUDGET  # read when a layer is first called; of the whole process
        for layer in decoder_layers(self._base):
            layer.compile(dynamic=True, backend=backend)
        self._is_compiled = True

    def computing(self) -> dict[str, Any]:
        """What the bits of a step depend on beside its inputs: torch's version and threads, compiled layers, the attention's kernel."""
        attends = kernel_in_use(self.compute_dtype, self.device) if self.layout == "forest" else "the model's own"
        return {"torch": torch.__version__, "threads": torch.get_num_threads(), "compiled": self._is_compiled, "attention": attends}

    def _master_state(self) -> dict[str, Tensor]:
        """The model's state with masters in the place of their compute copies."""
        masters = {id(parameter): self._masters[name] for name, parameter in self.model.named_parameters() if name in self._masters}
        return {name: masters.get(id(tensor), tensor).detach() for name, tensor in self.model.state_dict(keep_vars=True).items()}

    def _compile_if_it_pays(self, num_tokens: int) -> None:
        """Compile as the settings say; auto: when a run of ``num_tokens`` is work enough and there is a compiler."""
        should = self.settings.compile is True
        if self.settings.compile == "auto" and self.layout == "forest":
            work = 6.0 * sum(parameter.numel() for parameter in self._base.parameters()) * num_tokens
            should = self.settings.quantization is None and work >= COMPILE_PAYS_FROM_FLOPS and find_compiler() is not None
        if should:
            self.compile()

    def _split_precision(self) -> dict[str, nn.Parameter]:
        """Lower matrices to the compute dtype (norms stay float32) and return float32 masters of what trains."""
        masters = {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        if not self._is_lowered:
            return masters
        kept = {id(parameter) for module in self._full_precision() for parameter in module.parameters()}
        lowered = {
            id(parameter)
            for module in self.model.modules()
            if isinstance(module, (nn.Linear, nn.Embedding))
            for parameter in module.parameters(recurse=False)
        } - kept
        for name, parameter in self.model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if id(parameter) not in lowered:
                parameter.data = parameter.data.float()
            else:
                if name in masters:
                    masters[name] = nn.Parameter(parameter.detach().float())
                parameter.data = parameter.data.to(self.compute_dtype)
        for module in self.model.modules():
            if isinstance(module, nn.Linear) and module.weight.is_floating_point():
                module.register_forward_pre_hook(_cast_input)
        return masters

    def _states(self, forest: Forest, rows: Tensor, sequence_ids: Tensor) -> Tensor:
        """Last hidden states [row, width] at packed ``rows``, on the model's device; ``sequence_ids`` (ascending) says whose they are."""
        self.check_token_ids(int(forest.input_ids.max()))
        for module in self._dropouts:
            module.train(torch.is_grad_enabled())
        if self._dropouts and torch.is_grad_enabled() and forest.is_shared:
            raise ModelError("dropout above 0 cannot be exact on shared prefixes", hint="set share_prefixes: false, or dropout: 0")
        if self.layout == "sequences":
            return self._states_one_by_one(forest, rows, sequence_ids)
        forest = forest.to(self.device)
        body = self._base.base_model
        embedded = body.get_input_embeddings()(forest.input_ids[None])
        embedded = embedded.float() if self._is_lowered else embedded
        output = body(inputs_embeds=embedded, position_ids=forest.position_ids[None], use_cache=False, forest_nodes=forest.nodes)
        found: Tensor = output.last_hidden_state[0].index_select(0, rows.to(self.device))
        return found

    def _states_one_by_one(self, forest: Forest, rows: Tensor, sequence_ids: Tensor) -> Tensor:
        """The same for an architecture that cannot branch: one plain forward pass a sequence."""
        found = []
        for number, path in enumerate(forest.paths()):
            ids = forest.input_ids[path][None].to(self.device)
            hidden = self._base.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
            depth = forest.position_ids[rows[sequence_ids == number]]
            found.append(hidden.index_select(0, depth.to(self.device)))
        return torch.cat(found)


def choose_precision(model: Any, settings: ModelSettings, device: torch.device | str) -> tuple[Any, torch.dtype]:
    """The compute dtype for ``model``, and the model in float32 where its family can only be computed so."""
    compute_dtype = choose_dtype(settings.dtype, device)
    if choose_layout(model.config) == "sequences" and compute_dtype != torch.float32:
        if settings.dtype == "bfloat16":
            raise ModelError(f"'{model.config.model_type}' is trained in float32 only", hint="set dtype: float32")
        return model.float(), torch.float32
    return model, compute_dtype


def write_float32(folder: Path) -> None:
    """transformers writes the compute copies' dtype into config.json; what is saved are the masters."""
    if (config := folder / "config.json").is_file():
        write_json(config, {**json.loads(config.read_text(encoding="utf-8")), "dtype": "float32"})


def _cast_input(module: nn.Linear, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    first = inputs[0]
    return (first.to(module.weight.dtype), *inputs[1:]) if first.dtype != module.weight.dtype else None
