"""What an episode becomes: an answer with its transcript, a sequence to train on with its exact ids, a demonstration."""

from collections.abc import Mapping
from typing import Any

from posttrain.errors import DataError
from posttrain.records import Demonstration, Episode, Generation, TokenSequence

ENDED = {"answer": "stop", "recorded": "stop"}
"""Finish reasons under which the model itself ended its last turn and nothing was left over."""


def episode_to_generation(episode: Episode, num_prompt_messages: int) -> Generation:
    """The final answer with its transcript. ``finish_reason`` is "stop" or, where a limit or a failure ended it, the episode's own.

    ``token_ids`` and ``logprobs`` are those of an episode of one turn; longer ones hold what tools wrote in between and have none here.
    """
    transcript = episode.messages[num_prompt_messages:]
    last = next((message for message in reversed(transcript) if message.role == "assistant"), None)
    single = episode.num_steps == 1
    return Generation(
        text=last.content if last else "",
        finish_reason=ENDED.get(episode.finish_reason, episode.finish_reason),
        num_prompt_tokens=episode.num_prompt_tokens,
        num_completion_tokens=episode.num_completion_tokens,
        seconds=episode.seconds,
        token_ids=tuple(episode.token_ids[episode.completion_mask].tolist()) if single else (),
        logprobs=tuple(episode.logprobs.tolist()) if single else (),
        id=episode.id,
        transcript=transcript,
        calls=episode.calls,
        outcome=episode.outcome,
    )


def episode_to_sequence(episode: Episode, *, index: int = -1) -> TokenSequence:
    """The ids as they were read and generated, with everything the model wrote masked in. DataError where the ids are not known."""
    if not episode.token_ids.size:
        raise DataError(f"episode '{episode.id}' has no token ids", hint="an endpoint gives none; make a demonstration of it instead")
    return TokenSequence(episode.token_ids, episode.completion_mask, index)


def episode_to_demonstration(episode: Episode, *, source: str = "episode", metadata: Mapping[str, Any] | None = None) -> Demonstration:
    """The conversation, to be imitated or written to a file. Its ids are made again from text: to train on exact ids use the sequence.

    DataError where the last turn is not the model's answer.
    """
    if episode.finish_reason != "answer":
        raise DataError(
            f"episode '{episode.id}' ended with '{episode.finish_reason}', so its last turn is no answer",
            hint="leave it out, or train on its sequence",
        )
    return Demonstration(episode.messages, episode.tools, episode.id, source, dict(metadata or {}))
