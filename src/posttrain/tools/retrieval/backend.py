"""What a way of searching has to offer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from posttrain.tools.retrieval.store import PassageStore

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to vectors, float32 [text, dimension]. Any model will do; the same one must build and search."""

OnProgress = Callable[[str, int], None]
"""("read" | "indexed" | "embedded", number of passages so far)."""


class Backend(ABC):
    """One way of searching over the passages of a store."""

    version: str
    """Of the library that does the work."""

    @classmethod
    @abstractmethod
    def settings(cls) -> dict[str, Any]:
        """What the result depends on beside the passages and the library."""

    @classmethod
    @abstractmethod
    def build(cls, store: PassageStore, folder: Path | None, embed: Embed | None, on_progress: OnProgress) -> Self:
        """Index every passage of the store, into ``folder`` (None: into memory)."""

    @classmethod
    @abstractmethod
    def open(cls, store: PassageStore, folder: Path, embed: Embed | None) -> Self:
        """Open what :meth:`build` wrote."""

    def made(self) -> dict[str, Any]:
        """Hashes of what was made of the passages by something that neither settings nor the library's version name."""
        return {}

    @abstractmethod
    def search(self, query: str, k: int, scopes: Sequence[int]) -> list[tuple[int, float]]:
        """The best ``k`` of the scopes: (passage number, score), best first, equal scores by number."""


def top(found: Iterable[tuple[int, float]], k: int) -> list[tuple[int, float]]:
    """The ``k`` best of (passage number, score)."""
    return sorted(found, key=lambda one: (-one[1], one[0]))[:k]
