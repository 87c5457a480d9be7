import pytest
from scripted_model import TOOLS, Ledger, Scripted

from posttrain.chat import ChatContract, template_text
from posttrain.episodes import EpisodeSettings, EpisodeTask, run_episodes
from posttrain.models.tiny import train_tokenizer
from posttrain.records import Message, SamplingSettings


@pytest.fixture(scope="session")
def contract():
    texts = [
        "What is the balance of A?",
        "The balance is 120 EUR.",
        template_text("chatml-tools"),
        '{"name": "get_balance", "arguments": {"account": "A"}}',
    ]
    return ChatContract(train_tokenizer(texts * 4, vocab_size=500), template_text("chatml-tools"))


@pytest.fixture(autouse=True)
def ledger():
    """Counts of opened and closed environments, from zero."""
    Ledger.opened = Ledger.closed = Ledger.most = 0
    return Ledger


@pytest.fixture
def ask():
    """A task; its environment is a fresh toolbox over the two tools unless something else is given."""

    def make(id="t", question="What is the balance of A?", environment=lambda: Ledger(TOOLS), **options):
        signatures = tuple(item.signature for item in TOOLS)
        return EpisodeTask(id, (Message("user", question),), signatures, environment, **options)

    return make


@pytest.fixture
def play(contract, ask):
    """Run one episode of written turns; further keywords are settings."""

    def run(*turns, task=None, sampling=None, generator=None, **settings):
        task = task or ask()
        generator = generator or Scripted({task.id: turns}, contract)
        sampling = sampling or SamplingSettings(max_new_tokens=200)
        [episode] = run_episodes(generator, [task], settings=EpisodeSettings(**settings), sampling=sampling)
        return episode

    return run
