"""Sessions of the local generator: requests come from any thread, one thread at a time advances them all by a forward pass."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from posttrain.errors import InfrastructureError
from posttrain.generation.batch import Batch, slot_attention_of
from posttrain.generation.protocol import OnText, SessionStatistics, Ticket
from posttrain.generation.row import Row
from posttrain.records import GenerationRequest

if TYPE_CHECKING:
    from posttrain.generation.local import LocalGenerator


class Engine:
    """A model's batch, shared by the sessions that are open on it. The model has the generator's attention while any is."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.arrived = threading.Condition()
        """Notified when a request is submitted or cancelled."""
        self._passing = threading.RLock()
        self._num_sessions = 0
        self._attention = ExitStack()

    def enter(self, model: object) -> None:
        """Count a session in."""
        with self._passing:
            if self._num_sessions == 0:
                self._attention.enter_context(slot_attention_of(model))
            self._num_sessions += 1

    def leave(self) -> None:
        """Count a session out."""
        with self._passing:
            self._num_sessions -= 1
            if self._num_sessions == 0:
                self._attention.close()

    def step(self, interleaved_tokens: int) -> None:
        """One forward pass for everybody's rows. After a failure nothing is left running, and it is raised."""
        with self._passing:
            self.batch.interleaved_tokens = interleaved_tokens
            try:
                self.batch.step()
            except Exception as error:
                self.batch.abandon(error)
                raise

    def forget(self) -> None:
        """Use nothing computed so far any more; waits for the pass that another thread may be in."""
        with self._passing:
            self.batch.forget()

    def discard(self) -> None:
        """Take out rows that were cancelled."""
        with self._passing:
            self.batch.discard()


class LocalSession:
    """A :class:`~posttrain.generation.protocol.Session` over a local model. Leave it before the model is used for anything else."""

    def __init__(self, generator: "LocalGenerator", engine: Engine, *, max_waiting: int | None, interleaved_tokens: int) -> None:
        self.statistics = SessionStatistics()
        self._generator, self._engine = generator, engine
        self._max_waiting, self._interleaved_tokens = max_waiting, interleaved_tokens
        self._rows: dict[Ticket, Row] = {}
        self._done: deque[Ticket] = deque()
        self._pieces: deque[tuple[OnText, str]] = deque()
        self._is_closed = False
        engine.enter(generator.model)

    @property
    def num_open(self) -> int:
        """Requests submitted and not yet returned by :meth:`advance`."""
        return len(self._rows) + len(self._done)

    def submit(self, request: GenerationRequest, *, on_text: OnText | None = None) -> Ticket:
        """Queue a request. DataError or ConfigError where it can never be answered, InfrastructureError where too many wait already."""
        row = self._generator.prepare(request, "the request", self.speaker(on_text) if on_text else None)
        return self.submit_row(request, row)

    def submit_row(self, request: GenerationRequest, row: Row) -> Ticket:
        """Queue what :meth:`LocalGenerator.prepare` made."""
        ticket = Ticket(request)
        row.on_end = lambda row: self._end(ticket, row)
        with self._engine.arrived:
            if self._is_closed:
                raise InfrastructureError("the session is closed", hint="open another one")
            if self._max_waiting is not None and self._engine.batch.num_waiting >= self._max_waiting:
                raise InfrastructureError(f"{self._max_waiting} requests are waiting already", hint="ask again later")
            self._rows[ticket] = row
            self._engine.batch.submit(row)
            self._engine.arrived.notify_all()
        return ticket

    def advance(self, timeout_seconds: float = 0.05) -> list[Ticket]:
        """One forward pass for all rows that run, or a wait of at most ``timeout_seconds`` while there are none."""
        with self._engine.arrived:
            if not self.num_open and not self._is_closed:
                self._engine.arrived.wait(timeout_seconds)
        if self._rows and not self._done:
            self._engine.step(self._interleaved_tokens)
            batch = self._engine.batch
            self.statistics.num_passes += 1
            self.statistics.peak_rows = max(self.statistics.peak_rows, batch.num_running)
        num_done = len(self._done)  # those whose text is complete by now: another session's pass may end more at any moment
        self._speak()
        return [self._done.popleft() for _ in range(min(num_done, len(self._done)))]

    def speaker(self, on_text: OnText) -> Callable[[str], None]:
        """Keeps pieces of text until the pass is over, so that a callback may do what it likes."""
        return lambda piece: self._pieces.append((on_text, piece))

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up; it leaves before the next forward pass."""
        row = self._rows.get(ticket)
        if row is not None:
            row.is_cancelled = True

    def cancel_waiting(self) -> None:
        """Cancel what has no place in the batch yet."""
        for row in list(self._rows.values()):
            row.is_cancelled = row.is_cancelled or not row.started

    def close(self) -> None:
        """Cancel everything open and give the model its own attention back."""
        if self._is_closed:
            return
        with self._engine.arrived:
            self._is_closed = True
        for row in list(self._rows.values()):
            row.is_cancelled = True
        self._engine.discard()
        self._engine.leave()

    def __enter__(self) -> "LocalSession":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _speak(self) -> None:
        """Hand out the pieces kept, in the caller's thread."""
        while self._pieces:
            on_text, piece = self._pieces.popleft()
            on_text(piece)

    def _end(self, ticket: Ticket, row: Row) -> None:
        """A row has left the batch."""
        statistics = self.statistics
        if row.is_cancelled and not row.finish_reason:
            ticket.cancelled = True
            statistics.num_cancelled += 1
        elif row.error is not None:
            ticket.error = row.error
        else:
            ticket.generation = self._generator.answer(row, ticket.request)
            statistics.num_done += 1
        statistics.prompt_tokens += row.num_prompt
        statistics.computed_tokens += row.num_computed
        statistics.copied_tokens += row.num_copied
        statistics.generated_tokens += len(row.tokens) - row.num_prompt
        statistics.forced_tokens += row.num_forced
        waited = (row.started - row.submitted) if row.started else 0.0
        statistics.wait_seconds += waited
        statistics.longest_wait_seconds = max(statistics.longest_wait_seconds, waited)
        self._done.append(ticket)  # first: num_open must not be 0 in between, for the thread that waits for it
        del self._rows[ticket]
