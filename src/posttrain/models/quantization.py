"""A frozen base in 4 bits: NF4 with double quantisation (Dettmers et al. 2023, QLoRA), through bitsandbytes."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from posttrain.errors import ModelError


def nf4_config(compute_dtype: torch.dtype) -> Any:
    """The loading configuration; ModelError when the extra is not installed."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ModelError("quantization 'nf4' needs bitsandbytes", hint="pip install 'posttrain[qlora]'") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute_dtype
    )


@contextmanager
def kernel_advice_muted() -> Iterator[None]:
    """For importing peft, which imports bitsandbytes where it is installed: its advice on a 4-bit kernel is of no use without 4 bits."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_is_no_kernel_advice)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_kernel_advice)


def _is_no_kernel_advice(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Failed to load CPU gemm_4bit_forward")


def keep_weights_unpacked(model: Any) -> None:
    """Turn off a repacking that an ``eval()`` forward does on CPUs with AVX512-BF16, after which adapter gradients silently vanish."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
