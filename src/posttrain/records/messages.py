"""Conversations: the one form every reader produces and every later step consumes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Role = str  # "system" | "user" | "assistant" | "tool"
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant makes: function name and JSON arguments (already parsed)."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. ``content`` may be empty only when there are tool calls. ``reasoning`` is thinking text kept apart.

    ``untrained``: the data gives this answer weight 0, so no mask supervises it. What is said is the same, so equality does not look at it.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    untrained: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation to imitate: single-turn, multi-turn, tool trajectory or safety/style. The last turn is the assistant's.

    ``num_prompt_messages``: the first messages are a prompt that the data sets apart from its completion; no mask supervises them.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    num_prompt_messages: int = 0


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One prompt, two completions. ``probability`` is P(chosen is better): 1.0 is a hard label; ``margin`` the rated distance."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    probability: float = 1.0
    margin: float | None = None
    id: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UnpairedLabel:
    """One completion called good (True) or bad (False)."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    label: bool
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepLabels:
    """A solution in steps, each called right (True), wrong (False) or unlabelled (None)."""

    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[bool | None, ...]
    id: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VerifiableTask:
    """A prompt whose completion a verifier can score: ``verifier`` names it, ``reference`` is what it compares with."""

    prompt: tuple[Message, ...]
    verifier: str
    reference: Any
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptOnly:
    """A conversation that waits for an answer, for methods that sample their own (PPO)."""

    prompt: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    id: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeedbackEvent:
    """What a user did with an answer. It carries the policy version that answered and the consent it was given under."""

    prompt: tuple[Message, ...]
    completion: tuple[Message, ...]
    signal: str
    policy_version: str
    consent: str
    created: str
    value: Any = None
    id: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
