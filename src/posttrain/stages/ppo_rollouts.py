"""Prompts in, scored answers out: sampling from the live policy, exact token ids, rewards, and one packed pass for each model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from posttrain.chat import ChatContract
from posttrain.data import read_for_prompts
from posttrain.data.preference_sets import first_turn_key
from posttrain.errors import ContractError, DataError
from posttrain.generation import LocalGenerator
from posttrain.models.actor_critic import ActorCritic
from posttrain.records import Demonstration, GenerationRequest, Message, SamplingSettings, TokenSequence
from posttrain.stages.ppo_settings import PpoConfig
from posttrain.training import TrainingItem, TrainingSettings
from posttrain.training.items import Microbatch
from posttrain.training.plan import split_microbatches

EVALUATION = 0
"""The update number that evaluation prompts are seeded with; updates of the run count from 1."""


class Scorer(Protocol):
    """What the loop needs of a reward model."""

    @property
    def identity(self) -> Any:
        """What names its weights and contract, as JSON types."""
        ...

    @property
    def context_length(self) -> int:
        """The longest conversation it can score, in tokens."""
        ...

    def encode(
        self, prompt: Sequence[Message], completion: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = (), index: int = -1
    ) -> TokenSequence:
        """A conversation as the model reads it; ``index`` names it in messages."""
        ...

    def score_sequences(self, sequences: Sequence[TokenSequence]) -> list[float]:
        """One reward for each conversation."""
        ...


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, its token ids (int32 [token], generation prompt included) and its row in the file, from 1."""

    messages: tuple[Message, ...]
    tools: tuple[Any, ...]
    ids: NDArray[np.int32]
    row: int

    def as_sequence(self) -> TokenSequence:
        """The ids alone, as the batch plan takes them; nothing in them is supervised."""
        return TokenSequence(self.ids, np.zeros(len(self.ids), np.bool_), self.row)


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer. ``sequence`` holds the ids as they were drawn, never encoded again; its mask marks the answer."""

    prompt: Prompt
    sequence: TokenSequence
    text: str
    ended: bool
    """The answer ended its turn itself; False: the length limit cut it."""

    @property
    def length(self) -> int:
        """Tokens of the answer, EOS included."""
        return self.sequence.num_supervised


@dataclass(frozen=True, slots=True)
class Passes:
    """float32 over the tokens of all answers, answer by answer, under the policy that drew them; without gradients."""

    lengths: Int[Tensor, " sequence"]
    logprobs: Float[Tensor, " token"]
    ref_logprobs: Float[Tensor, " token"]
    entropies: Float[Tensor, " token"]
    values: Float[Tensor, " token"]


def load_prompts(path: str, contract: ChatContract, config: PpoConfig, *, context: int | None) -> tuple[list[Prompt], int]:
    """The prompts of a file and how many were left out because they leave no room for an answer.

    Raises DataError for an empty file, a row without prompt, or one too long where the config says stop; ContractError where no token could
    ever end an answer.
    """
    if not contract.eos_token_ids:
        raise ContractError(
            "the chat contract has no token that ends a turn, so no answer could end", hint="give the tokenizer an EOS token"
        )
    prompts = []
    for row, (messages, tools) in enumerate(_conversations(path), 1):
        ids = contract.encode(messages, tools=tools, add_generation_prompt=True)
        prompts.append(Prompt(tuple(messages), tuple(tools), ids, row))
    kept = prompts if context is None else _with_room(path, prompts, [len(prompt.ids) for prompt in prompts], context, config)
    return kept, len(prompts) - len(kept)


def fit_judge(path: str, prompts: Sequence[Prompt], scorer: Scorer, config: PpoConfig, *, name: str) -> list[Prompt]:
    """The prompts that ``scorer`` can read with an answer of ``max_new_tokens`` after them; ``name``: which judge it is, for messages.

    Raises DataError as :func:`load_prompts` does. An answer is counted in the policy's tokens: a judge with another tokenizer may need
    more of its own, and then says so when it meets one.
    """
    lengths = [len(read_by(scorer, prompt, "")) for prompt in prompts]
    return _with_room(path, prompts, lengths, scorer.context_length, config, whose=f"the {name}'s ")


def _with_room(
    path: str, prompts: Sequence[Prompt], lengths: Sequence[int], context: int, config: PpoConfig, *, whose: str = ""
) -> list[Prompt]:
    """The prompts that leave ``max_new_tokens`` in a context; DataError when none does, or where the config says stop."""
    room = context - config.max_new_tokens
    if room <= 0:
        raise DataError(
            f"max_new_tokens {config.max_new_tokens} leaves no room for a prompt in {whose or 'the '}context of {context} tokens",
            hint="lower max_new_tokens",
        )
    long = [(prompt, length) for prompt, length in zip(prompts, lengths, strict=True) if length > room]
    if long and config.on_too_long == "stop":
        places = ", ".join(f"{prompt.row} ({length} tokens)" for prompt, length in long[:10]) + (", ..." if len(long) > 10 else "")
        raise DataError(
            f"{path}: {len(long)} of {len(prompts)} prompts are longer than {room} tokens ({whose}context {context} less max_new_tokens "
            f"{config.max_new_tokens}): {places}",
            hint="shorten them, lower max_new_tokens, or leave them out with on_too_long: drop",
        )
    if len(long) == len(prompts):
        raise DataError(f"{path}: none of {len(prompts)} prompts can be answered", hint="lower max_new_tokens, or give shorter prompts")
    return [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= room]


def _conversations(path: str) -> Iterable[tuple[Sequence[Message], Sequence[Any]]]:
    """(messages, tools) of each row: a prompt alone, or what comes before the answers of whatever records the file holds."""
    for record in read_for_prompts(path):
        if isinstance(record, Demonstration):
            last = max((i for i, message in enumerate(record.messages) if message.role != "assistant"), default=-1)
            yield record.messages[: last + 1], record.tools
        else:
            yield record.prompt, getattr(record, "tools", ())


def check_apart(training: Sequence[Prompt], held_out: Sequence[Prompt], path: str) -> None:
    """Raise DataError when a held-out dialogue is also trained on, at whatever turn."""
    seen = {_dialogue(prompt): prompt.row for prompt in training}
    both = [(prompt.row, seen[_dialogue(prompt)]) for prompt in held_out if _dialogue(prompt) in seen]
    if both:
        raise DataError(
            f"{path}: {len(both)} of {len(held_out)} held-out prompts are of dialogues that are also trained on; row {both[0][0]} and "
            f"row {both[0][1]} of the data are of one",
            hint="take them out of one of the two files; a dialogue is known by its first user turn",
        )


def _dialogue(prompt: Prompt) -> str:
    return first_turn_key(prompt.messages) or prompt.ids.tobytes().hex()


def sample(
    models: ActorCritic, contract: ChatContract, prompts: Sequence[Prompt], config: PpoConfig, *, update: int, reference: bool = False
) -> list[Rollout]:
    """One answer a prompt, at temperature 1, from the live weights; seeded by (run, ``update``, position) alone.

    The generator is made anew: what it kept belongs to weights that are gone, and its cache's memory is free while the models train.
    """
    requests = []
    for position, prompt in enumerate(prompts):
        seed = int(np.random.SeedSequence([config.training.seed, update, position]).generate_state(1, np.uint64)[0])
        sampling = SamplingSettings(max_new_tokens=config.max_new_tokens, temperature=1.0, seed=seed)
        requests.append(GenerationRequest(prompt.messages, prompt.tools, sampling, id=str(prompt.row)))
    with models.sampling(reference=reference) as stock:
        answers = LocalGenerator(stock, contract, batch_size=config.generation_batch_size).generate(requests)
    rollouts = []
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = np.concatenate((prompt.ids, np.array(answer.token_ids, np.int32)))
        mask = np.arange(len(ids)) >= len(prompt.ids)
        rollouts.append(Rollout(prompt, TokenSequence(ids, mask, prompt.row), answer.text, answer.finish_reason == "stop"))
    return rollouts


def score(scorer: Scorer, rollouts: Sequence[Rollout]) -> list[float]:
    """The reward model's number for each answer, read as text under its own contract, with the prompt's tools."""
    return scorer.score_sequences([read_by(scorer, rollout.prompt, rollout.text) for rollout in rollouts])


def read_by(scorer: Scorer, prompt: Prompt, text: str) -> TokenSequence:
    """A prompt with an answer as the reward model's contract has it."""
    return scorer.encode(prompt.messages, (Message("assistant", text),), tools=prompt.tools, index=prompt.row)


@torch.no_grad()
def run_passes(models: ActorCritic, rollouts: Sequence[Rollout], settings: TrainingSettings) -> Passes:
    """Policy, reference and value over the same packed forests, in the order of ``rollouts``."""
    columns: list[list[Tensor]] = [[torch.empty(0)] * 4 for _ in rollouts]
    for positions in _packs(rollouts, settings):
        items = tuple(TrainingItem((rollouts[position].sequence,)) for position in positions)
        batch = Microbatch(0, items, torch.device(models.policy.device))
        forest = batch.build_forest(share=settings.share_prefixes, min_shared=settings.min_shared_tokens)
        logprobs, entropies = models.policy.logprobs_and_entropies(forest)
        found = (logprobs, models.reference_logprobs(forest), entropies, models.value.values(forest))
        counts = [rollouts[position].length for position in positions]
        for column, values in enumerate(found):
            for position, part in zip(positions, torch.split(values.float().cpu(), counts), strict=True):
                columns[position][column] = part
    joined = [torch.cat(parts) for parts in zip(*columns, strict=True)]
    return Passes(torch.tensor([rollout.length for rollout in rollouts]), *joined)


def _packs(rollouts: Sequence[Rollout], settings: TrainingSettings) -> list[tuple[int, ...]]:
    items = [TrainingItem((rollout.sequence,)) for rollout in rollouts]
    return split_microbatches(
        items, max_tokens=settings.max_tokens_per_microbatch, share=settings.share_prefixes, min_shared=settings.min_shared_tokens
    )
