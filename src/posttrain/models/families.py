"""Which architectures the engine runs, how, and what their heads do.

A forest needs attention that can branch: what a token sees must depend on its path alone. That holds for the families listed here, each
compared
with plain Hugging Face forward passes in tests/invariants. Any other causal language model runs one sequence after the other, with its own
attention, after a probe has shown that its head is the one we compute. What neither can do exactly is refused by name.
"""

from typing import Any, Literal

import torch
from torch import nn

from posttrain.errors import ModelError
from posttrain.models.head import HeadShape

Layout = Literal["forest", "sequences"]

FOREST_FAMILIES = frozenset({"llama", "qwen2", "qwen3", "mistral", "phi3", "olmo2", "gemma2", "gemma3_text", "granite"})
LENGTH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})
PROBE_TOLERANCE = 1e-3


def choose_layout(config: Any) -> Layout:
    """ "forest" for a tested family, else "sequences". Raises ModelError where neither is exact."""
    family = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"'{family}' is an encoder-decoder model", hint="choose a decoder-only causal language model")
    if getattr(config, "use_bidirectional_attention", False):
        raise ModelError(f"'{family}' attends to later tokens (use_bidirectional_attention)", hint="choose a causal language model")
    dropout = getattr(config, "attention_dropout", 0.0) or 0.0
    if dropout > 0:
        raise ModelError(
            f"'{family}' has attention_dropout {dropout}, which the engine does not compute",
            hint='set "attention_dropout": 0.0 in config.json',
        )
    if family not in FOREST_FAMILIES or rope_types(config) & LENGTH_DEPENDENT_ROPE:
        return "sequences"
    return "forest"


def rope_types(config: Any) -> set[str]:
    """The kinds of rotary embedding a configuration names, over all layer types."""
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    entries = [parameters, *(entry for entry in parameters.values() if isinstance(entry, dict))]
    return {str(entry["rope_type"]) for entry in entries if "rope_type" in entry}


def head_shape(config: Any) -> HeadShape:
    """Scale and cap between the head's product and the logits: Gemma's final soft cap, Granite's divisor, Cohere's factor."""
    scale = 1.0 / float(getattr(config, "logits_scaling", None) or 1.0)
    scale *= float(getattr(config, "logit_scale", None) or 1.0)
    cap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    return HeadShape(scale=scale, cap=cap)


def head_weight(model: Any) -> nn.Parameter:
    """The output matrix [vocabulary, width]; a bias beside it is refused."""
    head = model.get_output_embeddings()
    family = model.config.model_type
    if not isinstance(head, nn.Linear):
        raise ModelError(f"'{family}' has no linear output head", hint="choose a causal language model")
    if head.bias is not None:
        raise ModelError(f"'{family}' has a bias in its output head, which the engine does not compute", hint="choose another model family")
    return head.weight


@torch.no_grad()
def check_head(model: Any) -> None:
    """Compare the model's own logits with ours on one short sequence. Raises ModelError when they differ (an unknown scale, cap or
    shift).
    """
    training, weight, shape = model.training, head_weight(model), head_shape(model.config)
    model.eval()
    ids = torch.arange(1, 9, device=weight.device)[None] % weight.shape[0]
    theirs = model(input_ids=ids, use_cache=False).logits[0].float()
    ours = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0].to(weight.dtype) @ weight.t() * shape.scale
    ours = (torch.tanh(ours / shape.cap) * shape.cap if shape.cap else ours).float()
    model.train(training)
    error = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6))
    if not error <= PROBE_TOLERANCE:
        raise ModelError(
            f"'{model.config.model_type}' changes its logits after the output head in a way the engine does not know "
            f"(relative difference {error:.1e})",
            hint="supported and tested: " + ", ".join(sorted(FOREST_FAMILIES)),
        )
