"""Stock causal language models over packed forests of shared prefixes: load, adapt, score, merge."""

from posttrain.models.completions import completion_logprobs
from posttrain.models.forest import Forest, build_forest
from posttrain.models.forest_model import ForestModel
from posttrain.models.loading import choose_dtype, find_model, load_for_inference
from posttrain.models.lora import ParameterCount, adapter_size, count_parameters, merge, merge_adapter, merged, unmerge
from posttrain.models.memory import freed_memory_kept, keep_freed_memory
from posttrain.models.policy import Policy
from posttrain.models.scalar import ScalarModel
from posttrain.models.settings import LoraSettings, ModelOptions, ModelSettings
from posttrain.models.sources import add_model, list_models, verify_model
from posttrain.models.template import with_chat_template
from posttrain.models.tiny import build_tiny_model, train_tokenizer, write_tiny_model
from posttrain.models.weights import check_token_ids

__all__ = [
    "Forest",
    "ForestModel",
    "LoraSettings",
    "ModelOptions",
    "ModelSettings",
    "ParameterCount",
    "Policy",
    "ScalarModel",
    "adapter_size",
    "add_model",
    "build_forest",
    "build_tiny_model",
    "check_token_ids",
    "choose_dtype",
    "completion_logprobs",
    "count_parameters",
    "find_model",
    "freed_memory_kept",
    "keep_freed_memory",
    "list_models",
    "load_for_inference",
    "merge",
    "merge_adapter",
    "merged",
    "train_tokenizer",
    "unmerge",
    "verify_model",
    "with_chat_template",
    "write_tiny_model",
]
