"""One episode as it grows: messages and exact token ids side by side, every call recorded, every limit looked at in one place."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from posttrain.episodes.settings import EpisodeSettings, EpisodeTask
from posttrain.errors import ContractError
from posttrain.records import (
    CallRecord,
    Constraint,
    Episode,
    Generation,
    GenerationRequest,
    Message,
    SamplingSettings,
    ToolCall,
    ToolResult,
)

if TYPE_CHECKING:
    from posttrain.chat import ChatContract
    from posttrain.worlds import Environment

NOT_RUN = "not run: the step limit was reached"
ONE_CALL = "not run: one call a turn is allowed here; make the next one after reading this result"
MAX_REFUSED_TURNS = 2
"""An episode whose calls are all refused for lack of budget this many turns in a row is over."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the model wrote: text, calls, and what is wrong with calls that cannot be read (sentences the model gets as an answer)."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    errors: tuple[str, ...] = ()
    reasoning: str | None = None


@dataclass(slots=True, eq=False)
class Progress:
    """State between two turns. ``finish_reason`` is empty while the episode goes on.

    ``ids`` and ``mask`` grow by what was generated (True) and by what the template writes in between (False); they stay empty where the
    generator has no ``contract`` (an endpoint).
    """

    task: EpisodeTask
    settings: EpisodeSettings
    sampling: SamplingSettings
    contract: "ChatContract | None" = None
    context_length: int | None = None
    on_text: Callable[[str], None] | None = None
    on_call: Callable[[CallRecord], None] | None = None
    environment: "Environment | None" = None
    finish_reason: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    pending: Turn = Turn("")
    _messages: list[Message] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _mask: list[bool] = field(default_factory=list)
    _logprobs: list[float] = field(default_factory=list)
    _calls: list[CallRecord] = field(default_factory=list)
    _num_prompt: int = 0
    _num_total: int = 0
    _num_completion: int = 0
    _num_refused_turns: int = 0
    _started: float = 0.0
    _ended: float = 0.0

    def __post_init__(self) -> None:
        self._messages = list(self.task.messages)
        if self.contract is not None:
            prompt = self.task.prompt_ids or self.contract.encode(self._messages, tools=self.task.tools, add_generation_prompt=True)
            self._read([int(token) for token in prompt])
            self._num_prompt = self._num_total

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation so far, prompt included."""
        return tuple(self._messages)

    @property
    def transcript(self) -> tuple[Message, ...]:
        """What came after the prompt."""
        return tuple(self._messages[len(self.task.messages) :])

    @property
    def _num_after_prompt(self) -> int:
        return self._num_total - self._num_prompt

    @property
    def room(self) -> int:
        """Tokens that may still come; at most 0 when the episode is full."""
        room = self.settings.max_tokens - self._num_after_prompt
        return room if self.context_length is None else min(room, self.context_length - self._num_total)

    def request(self) -> GenerationRequest:
        """What the generator is asked next: the exact ids so far where they are known."""
        last = self.step + 1 >= self.settings.max_steps and self.task.environment is not None
        constraint = None
        if self.settings.constrain and self.task.tools:
            constraint = Constraint("tool_calls", "none" if last else "auto")
        seed = turn_seed(self.sampling.seed if self.task.seed is None else self.task.seed, self.step)
        sampling = replace(self.sampling, seed=seed, max_new_tokens=max(1, min(self.sampling.max_new_tokens, self.room)))
        return GenerationRequest(self.messages, self.task.tools, sampling, self.task.id, tuple(self._ids), constraint)

    def take_turn(self, generation: Generation) -> Sequence[ToolCall]:
        """Add what was generated. Returns the calls to run: none where the episode is over or only errors have to be answered."""
        now = time.perf_counter()
        self._started, self._ended = self._started or now - generation.seconds, now
        was_full = self.room < self.sampling.max_new_tokens
        step, self.step = self.step, self.step + 1
        self._count(generation, step)
        if generation.finish_reason == "length":
            self._messages.append(Message("assistant", plain(generation.text)))
            self.finish_reason = "max_tokens" if was_full else "length"
            return ()
        turn = self._read_turn(generation, step)
        self.pending = turn
        self._messages.append(Message("assistant", turn.content, turn.calls, reasoning=turn.reasoning))
        if not turn.calls and not turn.errors:
            self.finish_reason = "answer"
        elif self.task.environment is None:
            self._record([ToolResult("")] * len(turn.calls))
            self.finish_reason = "recorded"
        elif self.step >= self.settings.max_steps:
            self._record([ToolResult(NOT_RUN, True, "over_budget")] * len(turn.calls))
            self.finish_reason = "max_steps"
        if self.finish_reason:
            return ()
        return turn.calls if self.settings.parallel_calls else turn.calls[:1]

    def take_results(self, results: Sequence[ToolResult]) -> None:
        """Add the results of the calls of the last turn, and what the template writes around them."""
        turn = self.pending
        refused = bool(results) and all(result.status == "over_budget" for result in results)
        results = [*results, *[ToolResult(ONE_CALL, True, "error")] * (len(turn.calls) - len(results))]
        results = [replace(result, content=plain(result.content)) for result in results]
        self._record(results)
        contents = [result.content for result in results]
        if contents:  # what is wrong with the other calls of the turn stands behind the last result: every call has its own message
            contents[-1] = "\n".join([contents[-1], *turn.errors])
        for call, content in zip(turn.calls, contents, strict=True):
            self._messages.append(Message("tool", content, tool_call_id=call.id, name=call.name))
        if not turn.calls:
            self._messages.append(Message("user", "\n".join(turn.errors)))
        self._num_refused_turns = self._num_refused_turns + 1 if refused else 0
        between = self._between()
        if self._num_refused_turns >= MAX_REFUSED_TURNS:
            self.finish_reason = "budget"
        elif self.room <= len(between):
            self.finish_reason = "max_tokens"
        else:
            self._read(between)

    def _between(self) -> list[int]:
        """What the template writes from the end of the last turn to the beginning of the next; empty where ids are not known."""
        if self.contract is None:
            return []
        try:
            ids = self.contract.continuation(self._messages, tools=self.task.tools)
        except ContractError:
            if self._messages[-1].role == "tool":
                raise
            # Some templates write the history otherwise once a user speaks again; to these the errors are a tool's.
            self._messages[-1] = replace(self._messages[-1], role="tool", tool_call_id=_call_id(self.step - 1, 0))
            ids = self.contract.continuation(self._messages, tools=self.task.tools)
        return [*missing_end(self._ids, self.contract), *(int(token) for token in ids)]

    def fail(self, error: str) -> None:
        """End the episode: something around the model broke."""
        self.finish_reason, self.outcome = "error", {"error": error}

    def episode(self) -> Episode:
        """The record of what happened."""
        return Episode(
            id=self.task.id,
            messages=self.messages,
            tools=self.task.tools,
            token_ids=np.array(self._ids, np.int32),
            completion_mask=np.array(self._mask, np.bool_),
            logprobs=np.array(self._logprobs, np.float32),
            finish_reason=self.finish_reason,
            calls=tuple(self._calls),
            outcome=self.outcome,
            num_steps=self.step,
            num_prompt_tokens=self._num_total - self._num_completion,
            num_completion_tokens=self._num_completion,
            seconds=self._ended - self._started,
        )

    def _read(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)
        self._mask.extend([False] * len(ids))
        self._num_total += len(ids)

    def _count(self, generation: Generation, step: int) -> None:
        self._num_completion += generation.num_completion_tokens
        if self.contract is None:
            self._num_total = generation.num_prompt_tokens + generation.num_completion_tokens
            if step == 0:
                self._num_prompt = generation.num_prompt_tokens
            return
        self._ids.extend(generation.token_ids)
        self._mask.extend([True] * len(generation.token_ids))
        self._logprobs.extend(generation.logprobs)
        self._num_total += len(generation.token_ids)

    def _read_turn(self, generation: Generation, step: int) -> Turn:
        """Calls as the template prints them, or as the endpoint gives them. A call without an id gets one."""
        if not self.task.tools:
            return Turn(plain(generation.text))
        if self.contract is not None:
            parsed = self.contract.parse_turn(generation.token_ids)
            turn = Turn(parsed.content, parsed.calls, parsed.errors, parsed.reasoning)
        else:
            calls = [ToolCall(call.name, call.arguments, call.id) for call in generation.calls if not call.is_error]
            turn = Turn(generation.text, tuple(calls), tuple(call.result for call in generation.calls if call.is_error))
        calls = [ToolCall(plain(call.name), plain(dict(call.arguments)), call.id or _call_id(step, n)) for n, call in enumerate(turn.calls)]
        content = turn.content if turn.calls or not turn.errors else generation.text  # what could not be read stays to be seen
        if not turn.calls:  # a call ends where its own text does; other text is cut before a stop string, as in any answer
            content = content[: min((at for stop in self.sampling.stop if (at := content.find(stop)) >= 0), default=None)]
        return replace(turn, content=plain(content), calls=tuple(calls), errors=tuple(plain(turn.errors)))

    def _record(self, results: Sequence[ToolResult]) -> None:
        records = [
            CallRecord(call.name, call.arguments, result.status, result.content, result.is_error, self.step - 1, result.seconds, call.id)
            for call, result in zip(self.pending.calls, results, strict=True)
        ]
        records += [CallRecord("", {}, "error", error, True, self.step - 1) for error in self.pending.errors]
        self._calls += records
        if self.on_call:
            for record in records:
                self.on_call(record)


def _call_id(step: int, number: int) -> str:
    """Nine letters and digits, which is what every template that prints ids accepts."""
    return f"call{step:02d}{number:03d}"


def plain(value: Any) -> Any:
    """A JSON value as a file can hold it: halves of surrogate pairs become question marks, numbers that are none their names."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"), parse_constant=str)


def missing_end(ids: Sequence[int], contract: "ChatContract") -> tuple[int, ...]:
    """The end token of a turn's ``ids``, where a stop string ended it in its place; else nothing."""
    return () if ids[-1] in contract.eos_token_ids else contract.eos_token_ids[:1]


def turn_seed(seed: int, step: int) -> int:
    """The first turn has the seed itself; later ones draw other numbers than any first turn."""
    return seed if step == 0 else int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8], "little")
