"""What a recipe says about the model: where it is, its precision, what of it trains."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from posttrain.config import Config

TargetPreset = Literal["attention", "attention+mlp"]
PRESETS = get_args(TargetPreset)


def read_targets(value: Any) -> Any:
    """A preset as it is, else module names: a list, or a text in which commas join them. ValueError for anything else."""
    if value in PRESETS:
        return value
    names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError("accepted: attention, attention+mlp, or module names (a list, or joined by commas)")
    return tuple(names)


class LoraSettings(Config):
    """Low-rank adapters: ``W x + (alpha / rank) B A x`` (Hu et al. 2021, section 4.1). Some texts write plain ``A B``, that is alpha =
    rank.
    """

    rank: int = Field(default=16, ge=1)
    """Rows of A and columns of B."""
    alpha: float | None = Field(default=None, gt=0)
    """Numerator of the scale ``alpha / rank``; left out: twice the rank, so the scale is 2."""
    targets: Annotated[TargetPreset | tuple[str, ...], BeforeValidator(read_targets)] = "attention"
    """Which projections get an adapter: every linear layer of the attention, of attention and MLP, or the modules named (a list, or
    joined by commas).
    """
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the adapter's input. Above 0 prefixes cannot be shared: each sequence must draw its own mask."""

    @property
    def resolved_alpha(self) -> float:
        """Alpha with its default filled in."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank


class ModelOptions(Config):
    """How to hold a causal language model and what of it trains; a training stage's settings begin with these."""

    adapter: str | None = None
    """A PEFT adapter folder to go on training; its rank and targets are kept, so ``lora`` must be left out."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the matrix products. auto: bfloat16 where the hardware multiplies it (CUDA, AMX, AVX512-BF16), else float32."""
    lora: LoraSettings | None = None
    """Train low-rank adapters and freeze the model; left out: train every weight."""
    quantization: Literal["nf4"] | None = None
    """Hold the frozen weights in 4 bits (QLoRA; needs ``lora`` and the extra ``qlora``)."""
    gradient_checkpointing: bool = False
    """Recompute each layer in the backward pass: about 10 % slower, and activations of one layer instead of all."""
    compile: bool | Literal["auto"] = "auto"
    """Compile decoder layers. auto: when a C++ compiler is there and the run is long enough to pay for it."""

    @model_validator(mode="after")
    def _check_adaptation(self) -> Self:
        if self.adapter is not None and self.lora is not None:
            raise ValueError("give 'adapter' (go on training it) or 'lora' (start a new one), not both")
        if self.quantization is not None and self.lora is None and self.adapter is None:
            raise ValueError("quantization 'nf4' freezes the model: it needs 'lora' or 'adapter'")
        return self


class ModelSettings(ModelOptions):
    """A causal language model and how to hold it."""

    path: str
    """A model folder, or the name of one that ``posttrain models add`` has cached."""
