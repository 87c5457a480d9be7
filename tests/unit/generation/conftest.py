from pathlib import Path

import pytest
import torch

from posttrain.chat import ChatContract
from posttrain.generation import LocalGenerator
from posttrain.models.tiny import write_tiny_model

TEXTS = [f"the ledger of account {i} shows {i * 37} paid and {i * 11} owed; naïve café, 東京 {i}" for i in range(60)]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", TEXTS, seed=5, vocab_size=400, hidden=32, max_length=160)


@pytest.fixture(scope="session")
def tiny_contract(tiny_folder: Path) -> ChatContract:
    return ChatContract.load(tiny_folder)


@pytest.fixture
def tiny_generator(tiny_folder: Path) -> LocalGenerator:
    return LocalGenerator.load(tiny_folder, dtype="float32", batch_size=4)
