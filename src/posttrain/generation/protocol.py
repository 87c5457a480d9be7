"""What every generator is: the local engine and an endpoint answer the same requests in the same way, one at a time or as they come."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from posttrain.records import Generation, GenerationRequest

ENGINE_VERSION = "1"
"""Raised when a change of this package may change what a model answers."""

OnDone = Callable[[int, Generation], None]
OnText = Callable[[str], None]


@dataclass(eq=False, slots=True)
class Ticket:
    """A request on its way. Done when :meth:`Session.advance` has returned it: then it has a generation, an error, or was cancelled."""

    request: GenerationRequest
    generation: Generation | None = None
    error: Exception | None = None
    cancelled: bool = False


@dataclass(slots=True)
class SessionStatistics:
    """What a session did so far. Token counts are of prompts unless they say otherwise; seconds of waiting are between submit and start.

    ``copied_tokens`` were found in the cache, ``computed_tokens`` were not (after memory ran out, some are computed twice).
    ``forced_tokens`` are those of ``generated_tokens`` that a constraint left no choice about.
    """

    num_done: int = 0
    num_cancelled: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    copied_tokens: int = 0
    generated_tokens: int = 0
    forced_tokens: int = 0
    peak_rows: int = 0
    num_passes: int = 0
    wait_seconds: float = 0.0
    longest_wait_seconds: float = 0.0


class Session(Protocol):
    """Requests may be submitted at any time, also from other threads and from callbacks. A context manager: leaving it cancels the rest."""

    statistics: SessionStatistics

    @property
    def num_open(self) -> int:
        """Requests submitted and not yet returned by :meth:`advance`."""
        ...

    def submit(self, request: GenerationRequest, *, on_text: OnText | None = None) -> Ticket:
        """Queue a request; first come, first served. Raises at once what is wrong with it.

        ``on_text`` gets the text as it grows, in the thread that advances.
        """
        ...

    def advance(self, timeout_seconds: float = 0.05) -> list[Ticket]:
        """Work a little: one forward pass, or wait until something is finished. Returns the tickets that are done, each once."""
        ...

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up, waiting or running; :meth:`advance` returns it as cancelled. Nothing happens when it is already done."""
        ...

    def cancel_waiting(self) -> None:
        """Cancel what has not started yet."""
        ...

    def close(self) -> None:
        """Cancel everything open."""
        ...

    def __enter__(self) -> "Session": ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Generator(Protocol):
    """Answers requests. ``identity``: everything a cached answer depends on besides the request itself, as JSON types."""

    identity: dict[str, Any]

    def generate(self, requests: Sequence[GenerationRequest], *, on_done: OnDone | None = None) -> list[Generation]:
        """One answer a request, in the order given. ``on_done(index, generation)`` is called as each finishes, in any order."""
        ...

    def open(self) -> Session:
        """A session to which requests come one after the other."""
        ...


class RowConstraint(Protocol):
    """What one running request may say, token by token."""

    @property
    def is_finished(self) -> bool:
        """It is complete, and only the end token may follow."""
        ...

    def mask(self, logits: Float[Tensor, " vocab"]) -> None:
        """Set what is not allowed next to -inf, in place."""
        ...

    def push(self, token: int) -> None:
        """The token that was taken."""
        ...

    def forced(self) -> list[int]:
        """Tokens that now follow with certainty, already pushed; may be empty. Not asked where log-probabilities are wanted."""
        ...


def samples(request: GenerationRequest, n: int) -> list[GenerationRequest]:
    """``n`` requests that differ in seed only, counting up from the request's own; generated together, they share one prefill."""
    seeds = ((request.sampling.seed + i) % 2**64 for i in range(n))
    return [dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, seed=seed)) for seed in seeds]


def finish_all(session: Session, tickets: Sequence[Ticket], on_done: OnDone | None) -> list[Generation]:
    """Advance until all tickets are done; their generations in order. After a failure what runs is finished, and the first is raised."""
    indices = {ticket: index for index, ticket in enumerate(tickets)}
    failure: Exception | None = None
    while session.num_open:
        for ticket in session.advance():
            if ticket.error is not None and failure is None:
                failure = ticket.error
                session.cancel_waiting()
            elif ticket.generation is not None and on_done:
                on_done(indices[ticket], ticket.generation)
    if failure is not None:
        raise failure
    return [ticket.generation for ticket in tickets if ticket.generation is not None]
