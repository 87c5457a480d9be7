"""A number for a text: a stock sequence-classification model with one label over packed forests (reward and value models).

The score row and its product stay in float32 whatever the decoder computes in. A reward is only ever used as a difference of two nearly
equal numbers, so what bfloat16 rounds off it (8 bits) is a large part of what is left.
"""

import json
from pathlib import Path
from typing import Any, Literal, Self

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from posttrain.chat import ChatContract
from posttrain.config.files import atomic_directory, write_json
from posttrain.errors import ModelError
from posttrain.models.families import PROBE_TOLERANCE
from posttrain.models.forest import Forest
from posttrain.models.forest_model import ForestModel, SavesContract, choose_precision, write_float32
from posttrain.models.loading import choose_dtype, find_model
from posttrain.models.lora import add_adapter
from posttrain.models.settings import ModelSettings
from posttrain.models.weights import REWARD_HEAD, is_classifier, open_stock, quiet_transformers, read_config
from posttrain.records import Message

OUTPUT_HEADS = ("lm_head.weight", "lm_head.bias", "embed_out.weight")
"""What of a causal language model a sequence classifier does without."""


class ScalarModel(ForestModel):
    """One float32 number a sequence (a reward) or a supervised token (a value)."""

    @classmethod
    def load_frozen(
        cls, path: str | Path, *, dtype: Literal["auto", "float32", "bfloat16"] = "auto", device: torch.device | str = "cpu"
    ) -> Self:
        """A saved reward or value model that only scores: no masters, nothing trains. A causal language model is refused."""
        settings, folder = ModelSettings(path=str(path), dtype=dtype, compile=False), find_model(path)
        if not is_classifier(read_config(folder)):
            raise ModelError(f"{folder} is no reward model: it has no score head", hint="train one with `posttrain reward train`")
        model, compute_dtype = choose_precision(_open_classifier(folder, choose_dtype(dtype, device), seed=0), settings, device)
        scalar = cls(model.requires_grad_(False), settings, compute_dtype=compute_dtype, device=device)
        scalar.model.eval()
        return scalar

    @classmethod
    def load(cls, settings: ModelSettings, *, seed: int, device: torch.device | str = "cpu", num_tokens: int = 0) -> Self:
        """From a causal language model (fresh score row, drawn with ``seed``) or a reward model saved before (its own row).

        A fresh row is normal with standard deviation 1 / sqrt(width + 1) (Stiennon et al. 2020, arXiv:2009.01325, their code's
        ``init_scale``). With ``lora`` the adapters and the score row train. Raises ModelError for a family without a sequence
        classifier in transformers, for a saved classifier of other than one label, and for settings that cannot be saved merged.
        """
        if settings.adapter is not None or settings.quantization is not None:
            name = "adapter" if settings.adapter is not None else "quantization"
            raise ModelError(
                f"a reward or value model takes no '{name}': it is saved as one plain folder, with its own adapter merged",
                hint="merge the adapter first (`posttrain models merge`)" if name == "adapter" else "leave 'quantization' out",
            )
        dtype = choose_dtype(settings.dtype, device) if settings.lora is not None else torch.float32
        model, compute_dtype = choose_precision(_open_classifier(find_model(settings.path), dtype, seed), settings, device)
        if settings.lora is not None:
            model = add_adapter(model, settings.lora, seed=seed, task_type=None)
            model.get_base_model().score.weight.requires_grad_(True)
        scalar = cls(model, settings, compute_dtype=compute_dtype, device=device)
        scalar._compile_if_it_pays(num_tokens)
        return scalar

    def rewards(self, forest: Forest) -> Float[Tensor, " sequence"]:
        """float32: the score at the last token of each sequence."""
        last = forest.nodes[forest.leaves, 1] - 1
        return self._score(self._states(forest, last, torch.arange(forest.num_sequences)))

    def values(self, forest: Forest) -> Float[Tensor, " target"]:
        """float32: the score of the state before each target, that is at ``forest.logit_rows``."""
        return self._score(self._states(forest, forest.logit_rows, forest.sequence_ids))

    def save(self, directory: str | Path, contract: SavesContract) -> None:
        """A plain float32 folder that ``AutoModelForSequenceClassification.from_pretrained`` opens (adapters merged); atomic.

        ``pad_token_id`` is set in the model's and the tokenizer's configuration to a token no sequence ends with: transformers reads
        the score at the last token that is not padding.
        """
        with atomic_directory(directory) as folder, quiet_transformers():
            self._base.save_pretrained(folder, state_dict=self._merged_state())
            write_float32(folder)
            contract.save(folder)
            if isinstance(contract, ChatContract):
                _set_padding(folder, padding_token(contract))

    def _check_head(self) -> None:
        check_classifier(self._base.config)
        score, config = self._base.score, self._base.config
        if not isinstance(score, nn.Linear) or score.bias is not None or score.out_features != 1:
            raise ModelError(
                f"'{config.model_type}' has a score head of another form than one row without bias", hint="choose another model family"
            )
        if self.layout == "sequences":
            self._probe()

    @torch.no_grad()
    def _probe(self) -> None:
        """Compare the model's own score with ours on one short sequence."""
        training, ids = self._base.training, torch.arange(1, 9)[None].to(self._base.score.weight.device)
        self._base.eval()
        theirs = float(self._base(input_ids=ids, use_cache=False).logits[0, 0])
        ours = float(self._score(self._base.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1:]))
        self._base.train(training)
        if not abs(ours - theirs) <= PROBE_TOLERANCE * max(1.0, abs(theirs)):
            raise ModelError(
                f"'{self._base.config.model_type}' changes its score after the head in a way the engine does not know "
                f"({theirs:.6g}, expected {ours:.6g})",
                hint="choose another model family",
            )

    def _full_precision(self) -> list[nn.Module]:
        return [self._base.score]

    def _score(self, states: Tensor) -> Tensor:
        weight = self._base.score.weight
        scores: Tensor = states.to(weight.dtype) @ weight[0]
        return scores

    def _merged_state(self) -> dict[str, Tensor]:
        """The stock model's state: masters, adapters added to their matrices in float32, everything at least float32."""
        state = {name.removeprefix("base_model.model."): _at_least_float32(tensor) for name, tensor in self._master_state().items()}
        plain = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}
        for name, module in self._base.named_modules():
            if hasattr(module, "lora_A") and hasattr(module, "get_base_layer"):
                low, high = state[f"{name}.lora_A.default.weight"], state[f"{name}.lora_B.default.weight"]
                product = module.scaling["default"] * (high @ low)
                plain[f"{name}.weight"] = plain[f"{name}.weight"] + (product.T if module.fan_in_fan_out else product)
        return plain


def check_classifier(config: Any) -> None:
    """Raise ModelError unless transformers has a sequence classifier for this configuration's family."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"'{config.model_type}' cannot carry a reward or value head: transformers has no sequence classifier for it",
            hint="choose another family: llama, qwen2, qwen3, mistral, phi3, olmo2, gemma2 and gemma3_text have one",
        )


def padding_token(contract: ChatContract) -> int:
    """The tokenizer's padding id, or another special token's where it has none or where conversations end with it."""
    conversation = (Message("user", "question"), Message("assistant", "answer"))
    last = int(contract.encode(conversation)[-1])
    own = contract.tokenizer.pad_token_id
    if own is not None and own != last:
        return int(own)
    special = sorted(index for index in contract.tokenizer.all_special_ids if index not in (last, *contract.eos_token_ids))
    return int(special[0]) if special else int(last == 0)


def _set_padding(folder: Path, pad_token_id: int) -> None:
    from transformers import AutoTokenizer

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**config, "pad_token_id": pad_token_id})
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token_id != pad_token_id:
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text(encoding="utf-8"))
        write_json(file, {**settings, "pad_token": tokenizer.convert_ids_to_tokens(pad_token_id)})


def _open_classifier(path: Path, dtype: torch.dtype, seed: int) -> Any:
    """The stock classifier of a folder: its own score row in float32, or a fresh one."""
    from transformers import AutoModelForSequenceClassification

    config = read_config(path)
    check_classifier(config)
    saved = is_classifier(config)
    if saved and config.num_labels != 1:
        raise ModelError(
            f"{path} is a classifier of {config.num_labels} labels, a reward model has one",
            hint="give a reward model, or the causal language model to start one from",
        )
    config.num_labels = 1
    heads = {} if saved else {"fresh": (REWARD_HEAD,), "unused": OUTPUT_HEADS}
    model, missing = open_stock(AutoModelForSequenceClassification, path, **heads, config=config, dtype=dtype, attn_implementation="sdpa")
    row = _fresh_row(model.config.hidden_size, seed) if missing else _saved_row(path)
    if row is not None:
        model.score.weight = nn.Parameter(row)
    return model


def _fresh_row(width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    row: Tensor = torch.randn(1, width, generator=generator) / (width + 1) ** 0.5
    return row


def _saved_row(path: Path) -> Tensor | None:
    """The score row in float32, unrounded by the dtype the rest was loaded in; None where the folder has no safetensors."""
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if REWARD_HEAD in tensors.keys():  # noqa: SIM118 (not a mapping)
                row: Tensor = tensors.get_tensor(REWARD_HEAD)
                return _at_least_float32(row)
    return None


def _at_least_float32(tensor: Tensor) -> Tensor:
    lower = tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize
    return tensor.float() if lower else tensor
