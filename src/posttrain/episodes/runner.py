"""The tool loop: episodes go on side by side in one continuous batch; tools run in worker threads while other rows decode."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from posttrain.episodes.progress import Progress, plain
from posttrain.episodes.settings import EpisodeSettings, EpisodeTask
from posttrain.errors import ConfigError, ContractError, DataError
from posttrain.records import CallRecord, Episode, SamplingSettings, ToolCall, ToolResult

if TYPE_CHECKING:
    from posttrain.generation import Generator, Ticket
    from posttrain.worlds import Environment

OnDone = Callable[[int, Episode], None]
Work = Callable[[], None]
NUM_WORKERS = 8
"""Threads that run tools."""
TOOL_POLL_SECONDS = 0.01
"""How long the generator may wait for an answer while a tool is running."""


class EpisodeRunner:
    """Runs episodes over one session of a generator. A context manager; ``submit`` and ``cancel`` may come from any thread.

    What an environment raises ends its own episode (``finish_reason`` "error") and no other. What the generator raises is the caller's,
    except that a conversation it refuses in the middle of an episode ends that episode.
    """

    def __init__(self, generator: "Generator", *, settings: EpisodeSettings, sampling: SamplingSettings) -> None:
        self._settings, self._sampling = settings, sampling
        self._contract = getattr(generator, "contract", None)
        self._context_length: int | None = getattr(generator, "context_length", None)
        self.session = generator.open()
        self._workers = ThreadPoolExecutor(NUM_WORKERS, thread_name_prefix="tools")
        self._inbox: SimpleQueue[Work] = SimpleQueue()
        self._open: set[Progress] = set()
        self._tickets: dict[int, tuple[Progress, Ticket]] = {}
        self._finished: list[tuple[Progress, Episode]] = []

    def __enter__(self) -> "EpisodeRunner":
        self.session.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with ExitStack() as stack:  # in this order: the session, the tools that still run, every environment left open
            for progress in self._open:
                stack.callback(_close, progress)
            stack.callback(self._workers.shutdown, wait=True, cancel_futures=True)
            stack.callback(self.session.__exit__, kind, error, trace)

    @property
    def num_open(self) -> int:
        """Episodes submitted and not yet returned by ``advance``."""
        return len(self._open) + len(self._finished)

    def submit(
        self, task: EpisodeTask, *, on_text: Callable[[str], None] | None = None, on_call: Callable[[CallRecord], None] | None = None
    ) -> Progress:
        """Start an episode. ``on_text`` gets what the model writes, piece by piece, ``on_call`` each call with its result.

        Raises ContractError where the template refuses the conversation; what the generator refuses, ``advance`` raises.
        """
        if task.tools and self._contract is not None and self._contract.call_format is None:
            raise ContractError(
                "the chat template prints no tool calls, and this task has tools",
                hint="use a model made for tools, or give the model a template that prints them, such as 'chatml-tools'",
            )
        progress = Progress(task, self._settings, self._sampling, self._contract, self._context_length, on_text, on_call)
        self._open.add(progress)
        self._inbox.put(partial(self._ask, progress))
        return progress

    def cancel(self, progress: Progress) -> None:
        """End an episode; ``advance`` returns it with ``finish_reason`` "cancelled". Nothing happens where it is over already."""
        self._inbox.put(partial(self._cancel, progress))

    def advance(self, timeout_seconds: float = 0.05) -> list[tuple[Progress, Episode]]:
        """Go on with every episode: a step of the generator, results of tools. Returns the episodes that are over."""
        self._read_inbox(0.0 if self._tickets else timeout_seconds)
        if self._tickets:
            for ticket in self.session.advance(TOOL_POLL_SECONDS if len(self._tickets) < len(self._open) else timeout_seconds):
                found = self._tickets.pop(id(ticket), None)
                if found is not None:
                    self._answered(found[0], ticket)
        finished, self._finished = self._finished, []
        return finished

    def _read_inbox(self, timeout_seconds: float) -> None:
        """Do what other threads asked for; wait for the first of it."""
        try:
            self._inbox.get(timeout=timeout_seconds or None, block=timeout_seconds > 0)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            return

    def _ask(self, progress: Progress) -> None:
        """Let the model write the next turn."""
        if progress.finish_reason:
            self._finish(progress)
            return
        try:
            ticket = self.session.submit(progress.request(), on_text=progress.on_text)
        except (DataError, ConfigError) as error:
            self._refused(progress, error)
        else:
            self._tickets[id(ticket)] = (progress, ticket)

    def _answered(self, progress: Progress, ticket: "Ticket") -> None:
        if ticket.error is not None:
            self._refused(progress, ticket.error)
        elif ticket.generation is None:
            progress.finish_reason = progress.finish_reason or "cancelled"
            self._finish(progress)
        else:
            calls = progress.take_turn(ticket.generation)
            if progress.finish_reason:
                self._finish(progress)
            elif calls:
                self._run(progress, partial(_call, progress, calls))
            else:
                self._go_on(progress, partial(progress.take_results, ()))

    def _refused(self, progress: Progress, error: Exception) -> None:
        """A conversation refused after its first turn is that episode's matter: a tool's result may have made it so."""
        if not (isinstance(error, DataError | ConfigError) and progress.step):
            raise error
        progress.fail(str(error))
        self._finish(progress)

    def _run(self, progress: Progress, work: Callable[[], Work]) -> None:
        """Do ``work`` in a worker thread and, back in this one, what it returns."""

        def job() -> None:
            try:
                then = work()
            except Exception as error:
                then = partial(progress.fail, f"{type(error).__name__}: {error}")
            self._inbox.put(partial(self._go_on, progress, then))

        self._workers.submit(job)

    def _go_on(self, progress: Progress, then: Work) -> None:
        if not progress.finish_reason:
            try:
                then()
            except ContractError as error:
                progress.fail(str(error))
        self._ask(progress)

    def _cancel(self, progress: Progress) -> None:
        if progress not in self._open or progress.finish_reason:
            return
        progress.finish_reason = "cancelled"
        for key, (owner, ticket) in list(self._tickets.items()):
            if owner is progress:
                del self._tickets[key]
                self.session.cancel(ticket)
                self._finish(progress)

    def _finish(self, progress: Progress) -> None:
        """Ask the environment what came of it, close it, and hand the episode out."""

        def job() -> None:
            try:
                _conclude(progress)
            except Exception as error:
                progress.fail(f"{type(error).__name__}: {error}")
            self._inbox.put(partial(self._hand_out, progress))

        if progress.task.environment is None:
            self._hand_out(progress)
        else:
            self._workers.submit(job)

    def _hand_out(self, progress: Progress) -> None:
        self._open.discard(progress)
        self._finished.append((progress, progress.episode()))


def run_episodes(
    generator: "Generator",
    tasks: Iterable[EpisodeTask],
    *,
    settings: EpisodeSettings,
    sampling: SamplingSettings,
    on_done: OnDone | None = None,
    concurrency: int | None = None,
) -> list[Episode]:
    """One episode a task, in the order given. ``on_done(index, episode)`` is called as each ends, in any order.

    ``concurrency``: how many go on at once (the generator's batch size where it has one); tasks are taken as there is room. Raises what the
    generator raises for a request (DataError, ConfigError, InfrastructureError); episodes that were handed to ``on_done`` are finished.
    """
    at_once: int = getattr(generator, "batch_size", 4) if concurrency is None else concurrency
    waiting = enumerate(tasks)
    numbers: dict[Progress, int] = {}
    episodes: dict[int, Episode] = {}
    with EpisodeRunner(generator, settings=settings, sampling=sampling) as runner:
        while True:
            while runner.num_open < at_once and (entry := next(waiting, None)) is not None:
                numbers[runner.submit(entry[1])] = entry[0]
            if not runner.num_open:
                break
            for progress, episode in runner.advance():
                index = numbers.pop(progress)
                episodes[index] = episode
                if on_done:
                    on_done(index, episode)
    return [episodes[index] for index in range(len(episodes))]


def _close(progress: Progress) -> None:
    if progress.environment is not None:
        progress.environment.close()


def _environment(progress: Progress) -> "Environment":
    if progress.environment is None:
        assert progress.task.environment is not None
        progress.environment = progress.task.environment()
    return progress.environment


def _call(progress: Progress, calls: Sequence[ToolCall]) -> Work:
    """Run the calls of a turn; the results are taken in by the loop's own thread."""
    results: list[ToolResult] = _environment(progress).call_many(calls)
    if len(results) != len(calls):
        raise DataError(f"the environment gave {len(results)} results for {len(calls)} calls")
    return partial(progress.take_results, results)


def _conclude(progress: Progress) -> None:
    """The outcome, where the episode came to an end by itself, and the environment closed."""
    broken = progress.finish_reason in ("error", "cancelled")
    if broken and progress.environment is None:
        return
    environment = _environment(progress)
    try:
        if not broken:
            progress.outcome = plain(environment.outcome(progress.transcript))
    finally:
        progress.environment = None
        environment.close()
