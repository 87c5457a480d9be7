"""Greedy tokens equal those of Hugging Face `generate`, whatever the batch; prompt beginnings are computed once."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GenerationConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from posttrain.errors import ModelError
from posttrain.generation import batch as batch_module
from posttrain.generation import cache as cache_module
from posttrain.generation.batch import Batch, slot_attention_of
from posttrain.generation.packing import JointLinear, JointPart, PackedLinear, PackedNorm, can_pack, pack_linears, pack_norms
from posttrain.generation.row import Row
from posttrain.generation.support import check_model, context_length
from posttrain.records import SamplingSettings

VOCAB = 97
SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
FAMILIES = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {}),
    "mistral with a window": (MistralConfig, {"sliding_window": 12}),
    "gemma2 with caps": (Gemma2Config, {"sliding_window": 12, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 12, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}),
    "phi3": (Phi3Config, {}),
    "olmo2": (Olmo2Config, {}),
    "granite": (GraniteConfig, {"logits_scaling": 2.0}),
    "gpt neox": (GPTNeoXConfig, {}),
    "mixture of experts": (MixtralConfig, {"num_local_experts": 4}),
}


def build(family="llama", **changes):
    config_class, own = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_class(**{**SHAPE, **own, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, 0.3)
    model.generation_config = GenerationConfig(pad_token_id=0)
    return model


def draw_prompts():
    rng = np.random.default_rng(3)
    common = rng.integers(1, VOCAB, 25).tolist()
    sharing = [common + rng.integers(1, VOCAB, n).tolist() for n in (1, 4, 9)]
    return [*sharing, *(rng.integers(1, VOCAB, n).tolist() for n in (1, 2, 17, 40)), [*common, 5], [*common, 5], common]


def finish(batch, rows):
    """Run rows that come together; returns them in the order they left."""
    for row in rows:
        batch.submit(row)
    left = []
    with slot_attention_of(batch._model):
        while len(left) < len(rows):
            left += batch.step()
    return left


def run(model, prompts, *, num_rows=4, new=9, **sampling):
    """{index: finished row}. Request i generates ``new + i`` tokens."""
    rows = [Row(list(prompt), SamplingSettings(**sampling), new + i) for i, prompt in enumerate(prompts)]
    finish(Batch(model, num_rows=num_rows, num_positions=2048, end_ids=()), rows)
    return dict(enumerate(rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_hugging_face_generate(family):
    model, prompts = build(family), draw_prompts()
    check_model(model)
    finished = run(model, prompts)
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9 + i, do_sample=False)
        assert finished[i].generated == theirs[0, len(prompt) :].tolist(), f"{family}, prompt {i}"


@pytest.mark.parametrize("num_rows", [1, 2, 10])
def test_answers_do_not_depend_on_how_many_rows_run_together(num_rows):
    model, prompts = build(), draw_prompts()
    want = {i: row.generated for i, row in run(model, prompts, num_rows=4).items()}
    assert {i: row.generated for i, row in run(model, prompts, num_rows=num_rows).items()} == want


def test_a_long_prompt_is_computed_in_several_passes_with_the_same_answer(monkeypatch):
    model, prompts = build(), draw_prompts()
    want = {i: row.generated for i, row in run(model, prompts).items()}
    monkeypatch.setattr(batch_module, "PREFILL_TOKENS", 7)
    monkeypatch.setattr(batch_module, "LEAST_PREFILL_TOKENS", 7)
    assert {i: row.generated for i, row in run(model, prompts).items()} == want


@pytest.mark.parametrize("family", ["llama", "gemma2 with caps", "gemma3", "gpt neox"])
@pytest.mark.parametrize("num_rows", [3, 7])
def test_rows_that_read_a_common_beginning_together_say_the_same(family, num_rows, monkeypatch):
    """Two reports with questions of different lengths, and two prompts of their own, in one batch."""
    model = build(family)
    rng = np.random.default_rng(6)
    reports = [rng.integers(1, VOCAB, n).tolist() for n in (70, 90)]
    prompts = [[*reports[i % 2], 10 + i, *rng.integers(1, VOCAB, 3 * i).tolist()] for i in range(5)] + draw_prompts()[4:6]
    calls = []
    real = cache_module._flash
    monkeypatch.setattr(cache_module, "_flash", lambda *args, **options: calls.append(args[0].shape) or real(*args, **options))
    finished = run(model, prompts, num_rows=num_rows)
    assert bool(calls) == (family in ("llama", "gemma3", "gpt neox"))
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9 + i, do_sample=False)
        assert finished[i].generated == theirs[0, len(prompt) :].tolist(), f"{family}, prompt {i}"


def test_a_common_beginning_is_computed_once():
    """Six questions about one report of 25 tokens: 25 + 6 x 3 tokens are computed, not 6 x 28."""
    model = build()
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, out: seen.append(args[0].numel()))
    rng = np.random.default_rng(1)
    report = rng.integers(1, VOCAB, 25).tolist()
    prompts = [[*report, 10 + i, *rng.integers(1, VOCAB, 2).tolist()] for i in range(6)]
    rows = [Row(prompt, SamplingSettings(), 1) for prompt in prompts]
    finish(Batch(model, num_rows=6, num_positions=1024, end_ids=()), rows)
    assert sum(seen) == 25 + 6 * 3


def test_a_finished_row_leaves_and_a_waiting_one_takes_its_place():
    """Tokens computed = prompt tokens + one a step for each live row: nothing runs for finished rows."""
    model = build()
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda module, args, out: seen.append(args[0].numel()))
    prompts = [[i + 1] for i in range(5)]
    run(model, prompts, num_rows=2, new=1)
    assert sum(seen) == sum(1 + i for i in range(5))
    assert max(seen) == 2


def test_the_row_stops_at_an_end_token_which_is_kept():
    model, prompt = build(), [4, 9, 2]
    free = run(model, [prompt])[0].generated
    end = free[3]
    rows = finish(Batch(model, num_rows=1, num_positions=64, end_ids=(end,)), [Row(list(prompt), SamplingSettings(), 9)])
    assert rows[0].generated == free[: free.index(end) + 1]
    assert rows[0].finish_reason == "stop"


def test_sampled_tokens_do_not_depend_on_neighbours():
    model, prompts = build(), draw_prompts()
    rows = [Row(list(p), SamplingSettings(temperature=0.9, top_p=0.95, seed=100 + i), 12) for i, p in enumerate(prompts)]
    finish(Batch(model, num_rows=5, num_positions=1024, end_ids=()), rows)
    for i in (0, 4, 9):
        row = Row(list(prompts[i]), SamplingSettings(temperature=0.9, top_p=0.95, seed=100 + i), 12)
        finish(Batch(model, num_rows=1, num_positions=1024, end_ids=()), [row])
        assert row.generated == rows[i].generated
    assert rows[7].generated != rows[8].generated, "the same prompt under two seeds"


def test_logprobs_are_those_of_a_plain_forward_pass():
    model, prompt = build(), [4, 9, 2, 50]
    row = run(model, [prompt], temperature=1.3, top_k=20, seed=3, logprobs=True)[0]
    logits = model(torch.tensor([prompt + row.generated])).logits[0, len(prompt) - 1 : -1]
    want = torch.log_softmax(logits, -1).gather(-1, torch.tensor(row.generated)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(row.logprobs), want, rtol=1e-4, atol=1e-4)


def test_layers_that_are_no_softmax_attention_are_refused_by_name():
    model = build()
    model.config.layer_types = ["full_attention", "linear_attention", "full_attention"]
    with pytest.raises(ModelError, match=r"llama.*linear_attention"):
        check_model(model)


def test_a_model_whose_logits_the_engine_does_not_reproduce_is_refused():
    """Bidirectional within the prompt: each token's output depends on later ones, so computing it in parts cannot agree."""
    model = build()
    norm = model.model.norm
    norm.register_forward_hook(lambda module, args, out: out + out.mean(1, keepdim=True))
    with pytest.raises(ModelError, match="does not give its own logits"):
        check_model(model)


def test_the_context_ends_where_long_rope_changes():
    config = LlamaConfig(
        **{**SHAPE, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}}
    )
    assert context_length(config) == 64


@pytest.mark.parametrize("num_rows", [1, 5, 40])
def test_packed_linear_is_the_same_product(num_rows):
    torch.manual_seed(0)
    linear = torch.nn.Linear(24, 56, bias=num_rows == 5)
    x = torch.randn(1, num_rows, 24)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("family", "num_packed"), [("llama", 7), ("qwen3", 7 + 6), ("gemma2 with caps", 0)])
def test_norms_are_replaced_only_where_the_result_is_bit_for_bit_the_same(family, num_packed):
    """Two a layer and the last; Qwen 3 has two more for queries and keys; Gemma's adds one to its weight and stays."""
    model, prompts = build(family), draw_prompts()
    want = {i: row.generated for i, row in run(model, prompts).items()}
    pack_norms(model)
    assert sum(isinstance(module, PackedNorm) for module in model.modules()) == num_packed
    assert {i: row.generated for i, row in run(model, prompts).items()} == want


def test_layers_with_one_input_are_one_product_and_others_are_not():
    torch.manual_seed(0)
    linears = [torch.nn.Linear(24, size) for size in (40, 8, 8)]
    joint = JointLinear(linears)
    parts = [JointPart(joint, index, linear) for index, linear in enumerate(linears)]
    x, y = torch.randn(2, 1, 5, 24)
    with torch.inference_mode():
        for inputs in ((x, x, x), (x, y, x), (y, y, x)):
            for part, linear, given in zip(parts, linears, inputs, strict=True):
                torch.testing.assert_close(part(given), linear(given), rtol=1e-5, atol=1e-6)


def test_a_packed_model_gives_the_same_tokens():
    model, prompts = build(), draw_prompts()
    want = {i: row.generated for i, row in run(model, prompts).items()}
    assert can_pack(model)
    pack_linears(model)
    assert not any(type(module) is torch.nn.Linear for module in model.modules())
    assert {i: row.generated for i, row in run(model, prompts).items()} == want
