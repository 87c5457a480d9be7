"""What a generator is asked and what it answers; the same for the local engine, vLLM and an endpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.records.messages import Message
from posttrain.records.tools import CallRecord


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
class Constraint:
    """What an answer must match, enforced token by token.

    ``value``: a JSON Schema for "json_schema", the pattern for "regex", the grammar for "lark". For "tool_calls", over the request's tools:
    "auto" (text or calls), "required" (at least one call), "none" (no call), or the name of the one tool to be called.
    """

    kind: Literal["json_schema", "regex", "lark", "tool_calls"]
    value: str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt. Conversations are rendered by the generator's chat contract, unless ``prompt_ids`` give the exact tokens."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    id: str = ""
    prompt_ids: tuple[int, ...] = ()
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer. ``finish_reason``: "stop" (end of turn or stop string) or "length". Seconds are wall clock for this request.

    Of an answer with tools, ``text`` is the last turn's content, ``transcript`` what model and tools wrote after the prompt, ``calls``
    every call with its result, and ``outcome`` what the environment says at the end (plain JSON).
    """

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int
    seconds: float
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    id: str = ""
    transcript: tuple[Message, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    outcome: Mapping[str, Any] = field(default_factory=dict)
