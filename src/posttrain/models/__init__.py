"""Stock causal language models over packed forests of shared prefixes: load, adapt, score, merge."""

from posttrain.models.forest import Forest, build_forest
from posttrain.models.loading import choose_dtype, find_model, load_for_inference, model_cache
from posttrain.models.lora import count_parameters, merge_adapter
from posttrain.models.policy import Policy
from posttrain.models.settings import LoraSettings, ModelOptions, ModelSettings

__all__ = [
    "Forest",
    "LoraSettings",
    "ModelOptions",
    "ModelSettings",
    "Policy",
    "build_forest",
    "choose_dtype",
    "count_parameters",
    "find_model",
    "load_for_inference",
    "merge_adapter",
    "model_cache",
]
