"""What a generator is asked and what it answers; the same for the local engine, vLLM and an endpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.records.messages import Message


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How to decode. temperature 0 is greedy. ``seed`` makes a request repeat, whatever else is in the batch."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()
    seed: int = 0
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt. Conversations are rendered by the generator's chat contract."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    id: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer. ``finish_reason``: "stop" (end of turn or stop string) or "length". Seconds are wall clock for this request."""

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int
    seconds: float
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    id: str = ""
