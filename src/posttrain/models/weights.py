"""Open stock models so that every weight comes from the folder: none missing, none of another shape, none left over, each a number."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn

from posttrain.errors import ModelError

_READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError, SafetensorError)
"""What transformers raises for files that are cut, of another form, or of a family it does not know."""
REWARD_HEAD = "score.weight"
"""The name transformers gives the row in every decoder-only sequence-classification model."""
_CONSTANTS = re.compile(r"(rotary_emb\.inv_freq|position_ids|\.(attn|attention)\.(masked_)?bias)$")
"""Buffers that older versions saved beside the weights: rotary frequencies, positions, the causal mask."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and its report on loaded weights off the terminal: what it reports is checked here."""
    from transformers.utils import logging

    bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def read_config(folder: Path) -> Any:
    """The configuration of a model folder. Raises ModelError for one that is cut or of an unknown family."""
    from transformers import AutoConfig

    read_json(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except _READ_ERRORS as error:
        raise ModelError(f"{folder / 'config.json'}: {_first_line(error)}", hint="it must be that of a Hugging Face model") from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object that belongs to a model or adapter. Raises ModelError for a file that is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}", hint="copy the file again from where it came") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file}: expected a JSON object, found {type(value).__name__}", hint="copy the file again from where it came")
    return value


def is_classifier(config: Any) -> bool:
    """Whether a configuration says that the folder holds a sequence classifier (a reward or value model)."""
    return any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ())


def open_stock(auto: Any, folder: Path, *, fresh: Sequence[str] = (), unused: Sequence[str] = (), **options: Any) -> tuple[Any, set[str]]:
    """``auto.from_pretrained(folder)``, and which of the tensors in ``fresh`` the folder does not have.

    ``fresh``: tensors that may be missing; ``unused``: tensors that may be left over. Raises ModelError for any other tensor that is
    missing, left over, of another shape or not finite, and for files that cannot be read.
    """
    try:
        with quiet_transformers():
            model, found = auto.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except _READ_ERRORS as error:
        raise ModelError(
            f"{folder}: the model cannot be read: {_first_line(error)}", hint="it must be a whole Hugging Face model folder"
        ) from error
    shapes = [f"{name} (in the file {list(there)}, by config.json {list(wanted)})" for name, there, wanted in found["mismatched_keys"]]
    left_over = [name for name in found["unexpected_keys"] if name not in unused and not _CONSTANTS.search(name)]
    if REWARD_HEAD in left_over:
        raise ModelError(f"{folder} is a reward model: it scores text, it writes none", hint="give a causal language model")
    _refuse(folder, "weights are missing", set(found["missing_keys"]) - set(fresh), "copy the whole model folder again")
    _refuse(folder, "weights have another shape than config.json says", shapes, "use the config.json these weights were saved with")
    _refuse(
        folder,
        f"the file has weights that a {type(model).__name__} does not use",
        left_over,
        "check 'architectures' and the sizes in config.json",
    )
    check_finite(model, folder)
    return model, set(found["missing_keys"])


def open_skeleton(folder: Path) -> Any:
    """The model of a folder on the meta device: its files' headers are held against its configuration, no weight is read."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if is_classifier(read_config(folder)) else AutoModelForCausalLM
    return open_stock(auto, folder, device_map="meta")[0]


def check_finite(model: nn.Module, where: str | Path) -> None:
    """Raise ModelError naming the first parameters that hold NaN or infinity. Packed ones are passed over."""
    broken = []
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.is_meta and parameter.numel():
            low, high = parameter.detach().aminmax()  # one pass, no copy; NaN comes through
            if not (low.isfinite() and high.isfinite()):
                broken.append(name)
    _refuse(where, "weights are not finite (NaN or infinity)", broken, "the model is damaged: use another copy, or an earlier checkpoint")


def check_token_ids(largest: int, model: Any) -> None:
    """Raise ModelError when ``largest``, the largest token id that is to be read, has no row in the model's embedding."""
    rows = model.get_input_embeddings().weight.shape[0]
    if largest >= rows:
        name = model.config.name_or_path or model.config.model_type
        raise ModelError(
            f"{name}: the tokenizer gives token id {largest}, the embedding has {rows} rows",
            hint="the tokenizer has tokens this model was never given: use the tokenizer it was saved with, or resize the embedding",
        )


def _refuse(where: str | Path, what: str, names: Sequence[str] | set[str], hint: str) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ModelError(f"{where}: {what}: {', '.join(sorted(names)[:5])}{more}", hint=hint)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
