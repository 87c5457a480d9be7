"""A conversation with tools in the terminal: what the model writes appears as it is made, every call with its result."""

import json
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any

from posttrain.episodes.progress import missing_end
from posttrain.episodes.runner import EpisodeRunner
from posttrain.episodes.settings import EpisodeSettings, EpisodeTask
from posttrain.episodes.toolbox import ToolboxEnvironment
from posttrain.errors import ContractError, DataError
from posttrain.records import CallRecord, Episode, Message, SamplingSettings, ToolCall

if TYPE_CHECKING:
    from posttrain.generation import LocalGenerator
    from posttrain.tools import Toolbox

ENDINGS = {
    "length": "the answer was cut at its token limit",
    "max_steps": "stopped: the model did not come to an answer",
    "max_tokens": "stopped: the token limit is reached",
    "budget": "stopped: the budget is spent",
}


class ToolConversation:
    """Messages so far; each question is an episode. Earlier turns keep their exact tokens and are not computed again.

    ``open_toolbox`` makes the tools of one question: an action asked for twice in two questions is done twice. ``approve`` is asked before
    an action; None does it at once.
    """

    def __init__(
        self,
        generator: "LocalGenerator",
        sampling: SamplingSettings,
        open_toolbox: "Callable[[], Toolbox]",
        *,
        settings: EpisodeSettings,
        approve: Callable[[ToolCall], bool] | None = None,
        system: str = "",
    ) -> None:
        self._generator, self._sampling, self._settings = generator, sampling, settings
        self._open_toolbox, self._approve, self._system = open_toolbox, approve, system
        self._tools = open_toolbox().signatures
        self._last: Episode | None = None
        self.messages: tuple[Message, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = (Message("system", self._system),) if self._system else ()
        self._last = None

    def ask(self, question: str, on_text: Callable[[str], None]) -> str:
        """Add the question and what follows it up to the answer, which is returned. ``on_text`` gets text, calls and results as they come.

        DataError, and no change, where the context is full or the tools broke.
        """
        asked = (*self.messages, Message("user", question))
        seed = self._sampling.seed + sum(message.role == "user" for message in asked) - 1
        environment = ToolboxEnvironment(self._open_toolbox(), approve=self._approve)
        task = EpisodeTask("", asked, self._tools, lambda: environment, seed, self._prompt_ids(asked))
        marker = self._generator.contract.call_format.marker if self._generator.contract.call_format else ""
        shown = BeforeCalls(marker, on_text)

        def on_call(record: CallRecord) -> None:
            shown.end_turn()
            what = call_text(record.name, record.arguments) if record.name else "a call that could not be read"
            on_text(f"\n[{what}]\n{record.status}: {record.result}\n")

        with EpisodeRunner(self._generator, settings=self._settings, sampling=self._sampling) as runner:
            runner.submit(task, on_text=shown.push, on_call=on_call)
            while not (done := runner.advance()):
                pass
        [(_, episode)] = done
        shown.end_turn()
        if episode.finish_reason == "error":
            raise DataError(f"the conversation broke off: {episode.outcome['error']}", hint="/reset starts again")
        if episode.finish_reason in ENDINGS:
            on_text(f"\n[{ENDINGS[episode.finish_reason]}]")
        self.messages, self._last = episode.messages, episode
        return episode.messages[-1].content

    def _prompt_ids(self, asked: tuple[Message, ...]) -> tuple[int, ...]:
        """The exact tokens so far and the new question's; empty, so that all is rendered anew, where they cannot be continued."""
        if self._last is None or self._last.finish_reason != "answer":
            return ()
        try:
            more = self._generator.contract.continuation(asked, tools=self._tools)
        except ContractError:
            return ()
        ids = self._last.token_ids.tolist()
        return (*ids, *missing_end(ids, self._generator.contract), *more.tolist())


class BeforeCalls:
    """Passes on the text of a turn up to where its calls begin (``marker``; empty: everything)."""

    def __init__(self, marker: str, show: Callable[[str], None]) -> None:
        self._marker, self._show = marker, show
        self._held = ""
        self._is_call = False

    def push(self, piece: str) -> None:
        """More text; what might become the marker is held back."""
        if self._is_call:
            return
        text = self._held + piece
        before, found, _ = text.partition(self._marker) if self._marker else (text, "", "")
        self._is_call = bool(found)
        keep = 0 if found else max((n for n in range(1, len(self._marker)) if text.endswith(self._marker[:n])), default=0)
        self._held = before[len(before) - keep :]
        if shown := before[: len(before) - keep]:
            self._show(shown)

    def end_turn(self) -> None:
        """The turn is over; the next one begins with text."""
        if self._held:
            self._show(self._held)
        self._held, self._is_call = "", False


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """``get_balance(account="1200", on="2024-03-31")``."""
    return f"{name}({', '.join(f'{key}={json.dumps(value, ensure_ascii=False)}' for key, value in arguments.items())})"


def ask_person(lines: IO[str], out: IO[str]) -> Callable[[ToolCall], bool]:
    """Asks on ``out``, before each action, and reads a line: only ``y`` or ``yes`` is a yes, the end of input is a no."""

    def approve(call: ToolCall) -> bool:
        out.write(f"\nrun {call_text(call.name, call.arguments)}? [y/N] ")
        out.flush()
        return lines.readline().strip().lower() in ("y", "yes")

    return approve
