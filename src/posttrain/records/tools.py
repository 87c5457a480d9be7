"""What happens when a model calls tools: results, the record of each call, and a whole episode with its exact token ids."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.records.messages import Message

CallStatus = Literal[
    "ok",
    "error",
    "invalid_arguments",
    "unknown_tool",
    "forbidden",
    "timeout",
    "over_budget",
    "too_large",
    "not_json",
    "dry_run",
    "repeated",
    "unavailable",
]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered, or why it did not; ``content`` is the text the model reads, in either case."""

    content: str
    is_error: bool = False
    status: CallStatus = "ok"
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call of an episode with its result. ``step`` counts the model's turns from 0; calls made in parallel share it.

    A turn that could not be read as a call is recorded too, with the name ``""`` and status ``"error"``.
    """

    name: str
    arguments: Mapping[str, Any]
    status: CallStatus
    result: str
    is_error: bool
    step: int
    seconds: float = 0.0
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """A conversation between a model and its tools.

    ``messages`` are the prompt and everything after it. ``token_ids`` (int32 [token]) are the ids as they were read and generated, never
    tokenised again; ``completion_mask`` (bool [token]) is True where the model generated; ``logprobs`` (float32, one a generated token, or
    empty). ``finish_reason``: "answer" (a turn without calls), "length" (a turn was cut), "max_steps", "max_tokens", "budget", "recorded"
    (calls that nobody executes), "cancelled" or "error". ``outcome`` is what the environment says at the end, plain JSON.
    """

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    token_ids: NDArray[np.int32]
    completion_mask: NDArray[np.bool_]
    logprobs: NDArray[np.float32]
    finish_reason: str
    calls: tuple[CallRecord, ...] = ()
    outcome: Mapping[str, Any] = field(default_factory=dict)
    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    seconds: float = 0.0
