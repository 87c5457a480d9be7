"""Text that grows token by token: incremental decoding, and stop strings found across token boundaries."""

from collections.abc import Callable, Sequence

REPLACEMENT = "�"


class TextStream:
    """Decodes only the tail: a few tokens of context and those whose characters are not complete yet.

    ``decode`` turns ids into text. ``emit`` gets each piece as soon as no stop string can begin in it; the pieces joined are :attr:`text`.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = (), emit: Callable[[str], None] | None = None) -> None:
        self._decode, self._stop, self._emit = decode, tuple(stop), emit
        self._longest = max((len(text) for text in stop), default=0)
        self._tail: list[int] = []
        self._num_context = 0
        self._context_text = ""
        self._committed = ""
        self._searched = 0
        self._emitted = 0
        self._is_stopped = False
        self.text = ""
        """All text so far; cut before the first stop string once one is found."""

    def push(self, token: int) -> bool:
        """Add a token. True when a stop string now occurs in the text; nothing may be pushed after that."""
        self._tail.append(token)
        window = self._decode(self._tail)
        fresh = window[len(self._context_text) :]
        settled = fresh.rstrip(REPLACEMENT)
        self.text = self._committed + settled
        if fresh and fresh == settled:
            self._committed = self.text
            self._tail = self._tail[self._num_context :]
            self._num_context = len(self._tail)
            self._context_text = self._decode(self._tail)
        return self._look()

    def finish(self) -> str:
        """The whole text, with what was held back (an incomplete character becomes U+FFFD)."""
        if not self._is_stopped:
            self.text = self._committed + self._decode(self._tail)[len(self._context_text) :]
            self._look()
            self._release(len(self.text))
        return self.text

    def _look(self) -> bool:
        start = max(0, self._searched - self._longest + 1)
        found = [at for at in (self.text.find(stop, start) for stop in self._stop) if at >= 0]
        self._searched = len(self.text)
        if found:
            self._is_stopped = True
            self.text = self.text[: min(found)]
            self._release(len(self.text))
            return True
        if self._emit:
            self._release(len(self.text) - self._held_back())
        return False

    def _held_back(self) -> int:
        """Length of the longest end of the text that a stop string begins with."""
        for length in range(min(self._longest - 1, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self._stop):
                return length
        return 0

    def _release(self, end: int) -> None:
        if self._emit and end > self._emitted:
            self._emit(self.text[self._emitted : end])
            self._emitted = end
