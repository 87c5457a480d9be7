"""A conversation with the local generator, and the loop that reads questions and streams answers."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any, Protocol

from posttrain.errors import DataError
from posttrain.generation.local import LocalGenerator
from posttrain.records import GenerationRequest, Message, SamplingSettings


class Talker(Protocol):
    """What :func:`talk` talks to."""

    messages: tuple[Message, ...]

    def reset(self) -> None:
        """Forget everything but the system message."""
        ...

    def ask(self, question: str, on_text: Callable[[str], None]) -> str:
        """Add the question and its answer, which ``on_text`` gets piece by piece."""
        ...


class Conversation:
    """Messages so far. Each question sees all of them; what the last turn computed is not computed again."""

    def __init__(self, generator: LocalGenerator, sampling: SamplingSettings, *, system: str = "") -> None:
        self._generator, self._sampling, self._system = generator, sampling, system
        self.messages: tuple[Message, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Forget everything but the system message."""
        self.messages = (Message(role="system", content=self._system),) if self._system else ()

    def ask(self, question: str, on_text: Callable[[str], None]) -> str:
        """Add the question and its answer, which ``on_text`` gets piece by piece. DataError, and no change, where the context is full."""
        asked = (*self.messages, Message(role="user", content=question))
        seed = self._sampling.seed + sum(message.role == "assistant" for message in asked)
        request = GenerationRequest(asked, sampling=dataclasses.replace(self._sampling, seed=seed))
        [answer] = self._generator.generate([request], on_text=lambda _, piece: on_text(piece))
        self.messages = (*asked, Message(role="assistant", content=answer.text))
        return answer.text


def message_rows(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as JSON: role and content, and what else a message has."""
    rows = (dataclasses.asdict(message) for message in messages)
    return [{name: value for name, value in row.items() if value or name == "content"} for row in rows]


def talk(conversation: Talker, lines: IO[str], out: IO[str] | None, *, prompt: IO[str] | None) -> None:
    """Read a question a line until ``/quit`` or the end; ``/reset`` starts again. ``prompt``: where "> " is shown, None for piped input."""

    def show(text: str) -> None:
        if out is not None:
            out.write(text)
            out.flush()

    while True:
        if prompt is not None:
            prompt.write("> ")
            prompt.flush()
        line = lines.readline()
        question = line.strip()
        if not line or question == "/quit":
            return
        if question == "/reset":
            conversation.reset()
        elif question.startswith("/"):
            print("commands: /reset starts again, /quit leaves", file=sys.stderr)
        elif question:
            try:
                conversation.ask(question, show)
                show("\n")
            except DataError as error:
                if prompt is None:
                    raise
                print(f"{error}\n/reset starts again with an empty context", file=sys.stderr)
