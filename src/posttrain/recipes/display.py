"""How a run shows itself: one line a step, a bar with time left while it works. Everything goes to stderr."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_MARKS = {"run": "run", "resume": "go on", "reused": "reuse", "done": "done"}


class TerminalDisplay:
    """Rich bars on a terminal, plain lines (at most one every ``quiet_seconds``) elsewhere."""

    def __init__(self, *, quiet_seconds: float = 15.0) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._quiet_seconds = quiet_seconds
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._begin = self._last = time.monotonic()

    def __enter__(self) -> "TerminalDisplay":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def step(self, number: int, title: str, state: str) -> None:
        """Announce a step."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        took = f"  {time.monotonic() - self._begin:.0f} s" if state == "done" else ""
        self._console.print(f"[{_MARKS[state]:>5}] {number:2d} {title}{took}", markup=False)
        self._title, self._begin, self._last = title, time.monotonic(), time.monotonic()

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Progress inside the current step."""
        if self._live:
            if self._task is None:
                self._task = self._progress.add_task(self._title, total=total, note=note)
            self._progress.update(self._task, completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if now - self._last >= self._quiet_seconds and done >= 0.02 * total:
            left = (now - self._begin) / done * (total - done)
            print(f"         {self._title}: {done}/{total}, about {left:.0f} s left  {note}", file=sys.stderr, flush=True)
            self._last = now

    def say(self, text: str) -> None:
        """One line for the reader."""
        self._console.print(f"         {text}", markup=False, soft_wrap=True)


class SilentDisplay:
    """Shows nothing: for tests and for programs that call a recipe."""

    def step(self, number: int, title: str, state: str) -> None:
        """Ignored."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Ignored."""

    def say(self, text: str) -> None:
        """Ignored."""
