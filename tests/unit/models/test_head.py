import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.errors import TrainingError
from posttrain.models.head import HeadShape, token_logprobs, token_logprobs_and_entropies

TARGETS, WIDTH, VOCABULARY = 11, 6, 17
SHAPES = [HeadShape(), HeadShape(scale=0.25), HeadShape(scale=2.0, cap=1.5)]


def inputs(dtype=torch.float64, frozen=False):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TARGETS, WIDTH, dtype=dtype, generator=generator).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, dtype=dtype, generator=generator).requires_grad_(not frozen)
    return hidden, weight, torch.randint(VOCABULARY, (TARGETS,), generator=generator)


def plain(hidden, weight, targets, shape):
    logits = hidden @ weight.t() * shape.scale
    logits = torch.tanh(logits / shape.cap) * shape.cap if shape.cap else logits
    logs = logits.log_softmax(-1)
    return logs.gather(1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("frozen", [False, True], ids=["trained head", "frozen head"])
def test_logprobs_and_gradients_equal_those_of_dense_logits(shape, frozen):
    coefficients = torch.linspace(-1, 2, TARGETS, dtype=torch.float64)
    hidden, weight, targets = inputs(frozen=frozen)
    wanted = [hidden] if frozen else [hidden, weight]
    expected, _ = plain(hidden, weight, targets, shape)
    expected_gradients = torch.autograd.grad((expected * coefficients).sum(), wanted)
    logprobs = token_logprobs(hidden, weight, targets, shape=shape, tile=4)
    torch.testing.assert_close(logprobs, expected, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad((logprobs * coefficients).sum(), wanted)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_formed_in_the_forward_equal_those_formed_later(shape):
    hidden, weight, targets = inputs()
    later = torch.autograd.grad(-token_logprobs(hidden, weight, targets, shape=shape, tile=4).sum() / 7, [hidden, weight])
    early = torch.autograd.grad(-token_logprobs(hidden, weight, targets, shape=shape, uniform=True, tile=4).sum() / 7, [hidden, weight])
    torch.testing.assert_close(early, later, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck(shape):
    hidden, weight, targets = inputs()
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs(h, w, targets, shape=shape, tile=4), (hidden, weight))
    assert torch.autograd.gradcheck(lambda h, w: token_logprobs_and_entropies(h, w, targets, shape=shape, tile=4), (hidden, weight))


@pytest.mark.parametrize("shape", SHAPES)
def test_entropies_equal_those_of_dense_logits(shape):
    hidden, weight, targets = inputs()
    logprobs, entropies = token_logprobs_and_entropies(hidden, weight, targets, shape=shape, tile=4)
    expected = plain(hidden, weight, targets, shape)
    torch.testing.assert_close((logprobs, entropies), expected, rtol=1e-12, atol=1e-12)


def test_a_broken_promise_of_uniform_coefficients_is_refused():
    hidden, weight, targets = inputs()
    logprobs = token_logprobs(hidden, weight, targets, uniform=True)
    with pytest.raises(TrainingError, match="different coefficients"):
        (logprobs * torch.arange(TARGETS)).sum().backward()


def test_no_target_gives_no_logprob_and_zero_gradient():
    hidden, weight, _ = inputs()
    logprobs = token_logprobs(hidden[:0], weight, torch.zeros(0, dtype=torch.int64))
    logprobs.sum().backward()
    assert logprobs.shape == (0,)
    assert not weight.grad.any()


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operator returned."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                self.most = max(self.most, value.numel())
        return result


@pytest.mark.parametrize("way", ["uniform", "frozen", "recomputed", "entropies"])
def test_no_tensor_is_as_large_as_all_logits(way):
    targets, vocabulary, tile = 64, 128, 8
    hidden = torch.randn(targets, 4, requires_grad=True)
    weight = torch.randn(vocabulary, 4, requires_grad=way != "frozen")
    ids = torch.zeros(targets, dtype=torch.int64)
    with LargestTensor() as dense:
        (hidden @ weight.t()).log_softmax(-1)[:, 0].sum().backward()
    assert dense.most == targets * vocabulary  # the recorder sees dense logits
    with LargestTensor() as tiled:
        if way == "entropies":
            sum(token_logprobs_and_entropies(hidden, weight, ids, tile=tile)).sum().backward()
        else:
            token_logprobs(hidden, weight, ids, uniform=way == "uniform", tile=tile).sum().backward()
    assert tiled.most == tile * vocabulary
