import pytest
from reward_data import TEXTS, configure, long_rows, polite_rows, swapped

from posttrain.chat import ChatContract
from posttrain.models import write_tiny_model
from posttrain.rewards import RewardModel
from posttrain.stages import run_reward_model


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A random causal language model."""
    return write_tiny_model(tmp_path_factory.mktemp("start") / "tiny", TEXTS, seed=1, vocab_size=400, hidden=32, max_length=256)


@pytest.fixture(scope="session")
def polite(tmp_path_factory, start):
    """What the stage returns for a model that learned politeness, and its folder."""
    folder = tmp_path_factory.mktemp("polite")
    return run_reward_model(configure(folder, polite_rows(240)), start, folder / "out")


@pytest.fixture(scope="session")
def judge(polite):
    return RewardModel.load(polite.model, dtype="float32")


@pytest.fixture(scope="session")
def length_judges(tmp_path_factory, start):
    """A model that learned that longer is better, and one that learned that shorter is."""
    found = []
    for rows in (long_rows(160), swapped(long_rows(160))):
        folder = tmp_path_factory.mktemp("long")
        config = configure(folder, rows, test=0.0, training={"epochs": 2})
        found.append(RewardModel.load(run_reward_model(config, start, folder / "out").model, dtype="float32"))
    return found


@pytest.fixture(scope="session")
def tooled(judge):
    """The judge under a template that writes the names of the tools."""
    template = "{% for tool in tools or [] %}{{ tool.function.name }}\n{% endfor %}" + judge.contract.template
    contract = ChatContract.load(judge.folder, template=template)
    return RewardModel(judge._model, contract, folder=judge.folder, calibration=judge.calibration)
