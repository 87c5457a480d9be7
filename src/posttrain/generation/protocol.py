"""What every generator is: the local engine and an endpoint answer the same requests in the same way."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from posttrain.records import Generation, GenerationRequest

ENGINE_VERSION = "1"
"""Raised when a change of this package may change what a model answers."""

OnDone = Callable[[int, Generation], None]


class Generator(Protocol):
    """Answers requests. ``identity``: everything a cached answer depends on besides the request itself, as JSON types."""

    identity: dict[str, Any]

    def generate(self, requests: Sequence[GenerationRequest], *, on_done: OnDone | None = None) -> list[Generation]:
        """One answer a request, in the order given. ``on_done(index, generation)`` is called as each finishes, in any order."""
        ...
