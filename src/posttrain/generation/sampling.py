"""From logits to tokens: greedy, temperature, top-k, top-p. One uniform number a row and the inverse of the distribution function."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from posttrain.errors import ConfigError
from posttrain.records import SamplingSettings

CANDIDATES = 512
"""top-p looks at this many of the most probable tokens before it sorts the whole vocabulary."""
BLOCK = 256
"""Choices whose weights are summed together when a draw is looked up."""


def check_sampling(settings: SamplingSettings, where: str) -> None:
    """Raise ConfigError naming ``where`` and the first setting that is out of range."""
    checks = [
        ("max_new_tokens", settings.max_new_tokens, settings.max_new_tokens >= 1, "at least 1"),
        ("temperature", settings.temperature, 0.0 <= settings.temperature < float("inf"), "0 (greedy) or a positive number"),
        ("top_p", settings.top_p, 0.0 < settings.top_p <= 1.0, "above 0 and at most 1"),
        ("top_k", settings.top_k, settings.top_k >= 0, "0 (off) or a positive number"),
        ("seed", settings.seed, 0 <= settings.seed < 2**64, "0 to 2^64 - 1"),
        ("stop", settings.stop, not isinstance(settings.stop, str) and all(settings.stop), "a tuple of non-empty strings"),
    ]
    for name, value, is_right, accepted in checks:
        if not is_right:
            raise ConfigError(f"{where}: sampling.{name} is {value!r}", hint=f"accepted: {accepted}")


class UniformStream:
    """Uniform numbers in [0, 1) of one request: Philox keyed by its seed, so they depend on nothing else in the batch."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(key=seed))

    def draw(self) -> float:
        """The next number, 53 random bits."""
        return float(self._generator.random())


@torch.no_grad()
def choose_tokens(logits: Float[Tensor, "row vocab"], settings: Sequence[SamplingSettings], uniforms: Sequence[float]) -> list[int]:
    """One token id a row. ``uniforms[i]`` in [0, 1) decides row i and is unused where row i is greedy (temperature 0).

    Temperature comes first, then top-k (exactly k tokens), then top-p: the smallest set of most probable tokens whose probability, among
    those top-k left, reaches ``top_p`` (Holtzman et al. 2020, section 3.1). logits are float32 and are not changed.
    """
    groups: dict[tuple[float, int, float], list[int]] = {}
    for row, setting in enumerate(settings):
        key = (setting.temperature, setting.top_k, setting.top_p) if setting.temperature > 0 else (0.0, 0, 1.0)
        groups.setdefault(key, []).append(row)
    chosen = [0] * len(settings)
    for (temperature, top_k, top_p), rows in groups.items():
        some = logits if len(rows) == len(settings) else logits[rows]
        if temperature == 0.0:
            found = _largest(some)
        else:
            draws = torch.tensor([uniforms[row] for row in rows], dtype=torch.float64, device=logits.device)
            found = _sample(some / temperature, top_k, top_p, draws)
        for row, token in zip(rows, found.tolist(), strict=True):
            chosen[row] = token
    return chosen


def _largest(logits: Tensor) -> Int[Tensor, " row"]:
    """The first largest logit of each row. On a CPU numpy's argmax is ten times as fast as torch's."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _sample(logits: Tensor, top_k: int, top_p: float, draws: Tensor) -> Int[Tensor, " row"]:
    vocab = logits.shape[-1]
    if top_k == 0 and top_p == 1.0:
        return _invert(torch.softmax(logits, -1), draws)
    if 0 < top_k < vocab:
        best, tokens = logits.topk(top_k, -1)
        weights = torch.softmax(best, -1)
    elif top_p == 1.0:
        return _invert(torch.softmax(logits, -1), draws)
    else:
        best, tokens = logits.topk(min(CANDIDATES, vocab), -1)
        weights = (best - logits.logsumexp(-1, keepdim=True)).exp()
        if bool((weights.sum(-1, dtype=torch.float64) < top_p).any()):
            best, tokens = logits.sort(-1, descending=True)
            weights = torch.softmax(best, -1)
    if top_p < 1.0:
        before = weights.cumsum(-1, dtype=torch.float64) - weights
        weights = weights.masked_fill(before >= top_p, 0.0)
    return tokens.gather(-1, _invert(weights, draws)[:, None])[:, 0]


def _invert(weights: Float[Tensor, "row choice"], draws: Float[Tensor, " row"]) -> Int[Tensor, " row"]:
    """The first choice whose cumulated weight exceeds ``draw * total``; a choice of weight 0 is never taken.

    In two steps, block and choice within it, because cumulating a whole vocabulary in float64 takes longer than anything else here.
    """
    rows, num = weights.shape
    blocks = F.pad(weights, (0, -num % BLOCK)).view(rows, -1, BLOCK) if num % BLOCK else weights.reshape(rows, -1, BLOCK)
    sums = blocks.sum(-1).double()
    ends = sums.cumsum(-1)
    aim = _below(draws * ends[:, -1], ends[:, -1])[:, None]
    block = torch.searchsorted(ends, aim, right=True)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
    rest = (aim - (ends.gather(1, block) - sums.gather(1, block)))[:, 0].clamp_min(0.0)
    return (block * BLOCK + torch.searchsorted(inside, _below(rest, inside[:, -1])[:, None], right=True))[:, 0]


def _below(value: Tensor, bound: Tensor) -> Tensor:
    """``value``, or the largest number below ``bound``."""
    return torch.minimum(value, torch.nextafter(bound, torch.zeros_like(bound)))


@torch.no_grad()
def logprobs_of(logits: Float[Tensor, "row vocab"], tokens: Sequence[int]) -> list[float]:
    """``log softmax(logits)[token]`` a row, in float32: the model's own distribution, before temperature, top-k and top-p."""
    picked = logits.gather(-1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0]
    return [float(value) for value in (picked - logits.logsumexp(-1)).tolist()]
