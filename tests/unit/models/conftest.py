import numpy as np
import pytest

from posttrain.models import write_tiny_model
from posttrain.records import TokenSequence

TEXTS = ["the balance of account one is 120.50", "the budget for travel is spent", "transfer refused: needs approval"] * 4


@pytest.fixture(scope="session")
def model_path(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", TEXTS, seed=1, vocab_size=300, hidden=32, layers=2)


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    prompt = random.integers(3, 200, 20)
    rows = [np.concatenate([prompt, random.integers(3, 200, length)]) for length in (6, 9)] + [random.integers(3, 200, 25)]
    return [TokenSequence(row.astype(np.int32), np.arange(len(row)) >= 20, index) for index, row in enumerate(rows)]


class Contract:
    """Stands where a chat contract would: writes one file."""

    def save(self, directory):
        (directory / "contract.json").write_text("{}")


@pytest.fixture
def contract():
    return Contract()
