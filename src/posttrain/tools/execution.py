"""Running a tool under a deadline, in a thread or in a process of its own, with retries where repeating is safe."""

import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from posttrain.tools.access import Caller
from posttrain.tools.invoke import answer_of, timed_out
from posttrain.tools.isolated import run_isolated
from posttrain.tools.results import Answer, error_text
from posttrain.tools.tool import Tool

MAX_STRANDED = 4
"""Threads of one tool that may hang at once; then it is "unavailable" until one of them comes back."""
FIRST_WAIT_SECONDS = 0.1


class Runner:
    """Runs tools for one caller.

    A thread cannot be stopped from outside. When a call passes its deadline it returns at once and its thread is left behind as a daemon:
    what the function does later still happens, only its result is thrown away; and a function that holds the interpreter (a C loop) delays
    everything. ``Tool.isolate`` runs the call in a process instead, which is killed at the deadline.
    """

    def __init__(self, caller: Caller, secrets: tuple[str, ...] = ()) -> None:
        self._caller = caller
        self._secrets = secrets
        self._stranded: dict[str, list[threading.Thread]] = {}
        self._lock = threading.Lock()

    def run(self, tool: Tool, arguments: Mapping[str, Any], seconds: float) -> Answer:
        """Call ``tool`` once, and again after an exception as often as ``tool.retries`` allows, within ``seconds`` in all."""
        deadline = time.monotonic() + seconds
        wait = FIRST_WAIT_SECONDS
        for attempt in range(tool.retries + 1):
            answer = self._attempt(tool, arguments, max(0.0, deadline - time.monotonic()))
            failed = answer.status == "unavailable" or (answer.status == "error" and not answer.settled)
            if not failed or attempt == tool.retries or time.monotonic() + wait >= deadline:
                break
            time.sleep(wait)
            wait *= 2
        if answer.is_error:
            tries = f" (tried {attempt + 1} times)" if attempt else ""
            return Answer(error_text(answer.content, self._secrets) + tries, answer.status, True, answer.settled)
        return answer

    def _attempt(self, tool: Tool, arguments: Mapping[str, Any], seconds: float) -> Answer:
        given = dict(arguments)
        if tool.isolate:
            return run_isolated(tool, given, self._caller, seconds)
        if tool.caller_argument:
            given[tool.caller_argument] = self._caller
        with self._lock:
            hanging = [thread for thread in self._stranded.get(tool.name, []) if thread.is_alive()]
            self._stranded[tool.name] = hanging
        if len(hanging) >= MAX_STRANDED:
            return Answer(f"{tool.name} is unavailable: {len(hanging)} earlier calls of it have not come back.", "unavailable", True)
        box: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: box.put(answer_of(tool, given)), name=f"tool-{tool.name}", daemon=True)
        thread.start()
        try:
            return box.get(timeout=seconds)
        except queue.Empty:
            with self._lock:
                self._stranded[tool.name].append(thread)
            return timed_out(tool, seconds)
