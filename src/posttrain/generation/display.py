"""Progress of answers on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress

QUIET_SECONDS = 15.0


class AnswerProgress:
    """``update(done, total)`` after each answer; ``num_new`` counts those since the first call."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._is_live = console.is_terminal
        self._bar = Progress(*Progress.get_default_columns(), console=console, transient=True, disable=not self._is_live)
        self._task = self._bar.add_task("answers", total=None)
        self._first: int | None = None
        self._begin = self._last = time.monotonic()
        self.num_new = 0

    def update(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``; what was done at the first call does not count for the time left."""
        self._first = done if self._first is None else self._first
        self.num_new = done - self._first
        self._bar.update(self._task, completed=done, total=total)
        now = time.monotonic()
        if not self._is_live and self.num_new and now - self._last >= QUIET_SECONDS:
            left = (now - self._begin) / self.num_new * (total - done)
            print(f"answers: {done}/{total}, about {left:.0f} s left", file=sys.stderr, flush=True)
            self._last = now

    def __enter__(self) -> "AnswerProgress":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
