"""What is sampled has the distribution asked for, and the draws of a request are its own."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from posttrain.errors import ConfigError
from posttrain.generation.sampling import UniformStream, check_sampling, choose_tokens, logprobs_of
from posttrain.records import SamplingSettings

LOGITS = torch.tensor([2.0, 1.5, 0.2, -0.5, -0.7, -1.0, -3.0, 0.9])
DRAWS = 20_000


def reference(temperature=1.0, top_k=0, top_p=1.0):
    """Plain Python: softmax, keep the top k, renormalise, keep the smallest set that reaches top p, renormalise."""
    weights = {i: float(np.exp(z / temperature)) for i, z in enumerate(LOGITS.double().numpy())}
    kept = sorted(weights, key=weights.__getitem__, reverse=True)[: top_k or None]
    total, reached, nucleus = sum(weights[i] for i in kept), 0.0, []
    for i in kept:
        nucleus.append(i)
        reached += weights[i] / total
        if reached >= top_p:
            break
    total = sum(weights[i] for i in nucleus)
    return np.array([weights[i] / total if i in nucleus else 0.0 for i in range(len(LOGITS))])


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 1.7, "top_k": 5, "top_p": 0.7}]
)
def test_frequencies_follow_the_distribution(settings):
    want = reference(**settings)
    sampling = SamplingSettings(**{"temperature": 1.0, **settings})
    stream = UniformStream(11)
    tokens = choose_tokens(LOGITS.expand(DRAWS, -1), [sampling] * DRAWS, [stream.draw() for _ in range(DRAWS)])
    counts = np.bincount(tokens, minlength=len(LOGITS))
    assert counts[want == 0].sum() == 0
    assert chisquare(counts[want > 0], want[want > 0] * DRAWS).pvalue > 1e-3


def test_top_p_over_a_flat_vocabulary_larger_than_the_candidates_is_exact():
    """1,200 equal tokens, top_p 0.5: exactly 600 remain, more than the short list."""
    logits = torch.zeros(2_400, 1_200)
    draws = np.linspace(0, 1, 2_400, endpoint=False).tolist()
    tokens = choose_tokens(logits, [SamplingSettings(temperature=1.0, top_p=0.5)] * 2_400, draws)
    assert len(set(tokens)) == pytest.approx(600, abs=1)


def test_the_draw_is_the_inverse_of_the_distribution_function():
    logits = torch.log(torch.tensor([[0.25, 0.5, 0.25]]))
    settings = [SamplingSettings(temperature=1.0)]
    assert [choose_tokens(logits, settings, [u])[0] for u in (0.0, 0.2, 0.3, 0.7, 0.8, 1 - 2**-53)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_a_token_of_probability_zero_is_never_drawn(draw):
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf")]])
    assert choose_tokens(logits, [SamplingSettings(temperature=1.0)], [draw]) == [1]


def test_rows_of_different_settings_share_a_batch():
    logits = torch.stack([LOGITS, LOGITS.flip(0), LOGITS])
    settings = [SamplingSettings(), SamplingSettings(temperature=1.0, top_k=1), SamplingSettings(temperature=1.0)]
    assert choose_tokens(logits, settings, [0.0, 0.999, 0.999]) == [0, 7, 7]


def test_streams_of_different_seeds_differ_and_one_seed_repeats():
    first, again, other = UniformStream(7), UniformStream(7), UniformStream(8)
    numbers = [first.draw() for _ in range(5)]
    assert numbers == [again.draw() for _ in range(5)]
    assert numbers != [other.draw() for _ in range(5)]


def test_logprobs_are_of_the_models_own_distribution():
    want = torch.log_softmax(LOGITS, -1)
    assert logprobs_of(LOGITS.expand(2, -1), [0, 6]) == pytest.approx([float(want[0]), float(want[6])], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("seed", -1),
        ("stop", ("",)),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(name, value):
    with pytest.raises(ConfigError, match=rf"request 3: sampling\.{name} is "):
        check_sampling(SamplingSettings(**{name: value}), "request 3")
