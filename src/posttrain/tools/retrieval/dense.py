"""Search by vectors: any embedding callable, exact cosine by brute force, the vectors mapped from disk."""

import itertools
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError, DataError
from posttrain.tools.retrieval.backend import Backend, Embed, OnProgress, top
from posttrain.tools.retrieval.store import SCOPE_BITS, PassageStore

VECTORS = "vectors.npy"
BATCH = 256
BLOCK = 16_384
SAME_COSINE = 0.999


class Dense(Backend):
    """Cosine of query and passage. Vectors are float32 [passage, dimension], of length 1, in the order of passage numbers."""

    version = "numpy cosine 1"

    def __init__(self, store: PassageStore, vectors: NDArray[np.float32], embed: Embed) -> None:
        self._vectors, self._embed = vectors, embed
        self._starts = [0, *itertools.accumulate(store.scope_sizes())]
        """First row of each scope, and the number of all rows."""
        row = self._starts[-1]
        if len(vectors) != row:
            raise DataError(f"{len(vectors)} vectors for {row} passages", hint="build the index again")

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Nothing of its own; another embedding is seen by :meth:`open`."""
        return {}

    @classmethod
    def build(cls, store: PassageStore, folder: Path | None, embed: Embed | None, on_progress: OnProgress) -> Self:
        """Embed every passage and write ``folder/vectors.npy``."""
        assert embed is not None  # backend_class checked
        (count,) = store.execute("SELECT count(*) FROM passages")[0]
        vectors: NDArray[np.float32] | None = None
        done = 0
        for batch in store.rows("SELECT text FROM passages ORDER BY number", BATCH):
            rows = embedded(embed, [text for (text,) in batch])
            if vectors is None:
                vectors = _room(folder, (count, rows.shape[1]))
            if rows.shape[1] != vectors.shape[1]:
                raise ConfigError(f"the embedding callable gave vectors of {rows.shape[1]} and of {vectors.shape[1]} numbers")
            vectors[done : done + len(rows)] = rows
            done += len(rows)
            on_progress("embedded", done)
        assert vectors is not None  # an index has passages
        if isinstance(vectors, np.memmap):
            vectors.flush()
        return cls(store, vectors, embed)

    @classmethod
    def open(cls, store: PassageStore, folder: Path, embed: Embed | None) -> Self:
        """Map the vectors. Raises ConfigError when ``embed`` does not give the first passage the vector it has in the index."""
        assert embed is not None  # backend_class checked
        try:
            vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / VECTORS}: cannot be read: {error}", hint="build the index again") from None
        if vectors.ndim != 2 or vectors.dtype != np.float32:
            raise DataError(f"{folder / VECTORS}: {vectors.dtype} {list(vectors.shape)}, expected float32 [passage, dimension]")
        opened = cls(store, vectors, embed)
        first = embedded(embed, [store.execute("SELECT text FROM passages ORDER BY number LIMIT 1")[0][0]])[0]
        if first.shape != vectors.shape[1:] or float(first @ vectors[0]) < SAME_COSINE:
            raise ConfigError(f"{folder}: built with another embedding callable", hint="give the one it was built with, or build it again")
        return opened

    def made(self) -> dict[str, Any]:
        """The vectors: another embedding is another index."""
        return {"vectors": sha256(np.ascontiguousarray(self._vectors).data).hexdigest()}

    def search(self, query: str, k: int, scopes: Sequence[int]) -> list[tuple[int, float]]:
        """The best ``k``: (passage number, cosine), best first. A query of blanks finds nothing."""
        if not query.strip():
            return []
        vector = embedded(self._embed, [query])[0]
        if vector.shape != self._vectors.shape[1:]:
            raise ConfigError(f"the embedding callable gave {len(vector)} numbers, the index has {self._vectors.shape[1]}")
        found: list[tuple[int, float]] = []
        for scope in scopes:
            first, end = self._starts[scope : scope + 2]
            for begin in range(first, end, BLOCK):
                scores = self._vectors[begin : min(begin + BLOCK, end)] @ vector
                best = np.argpartition(-scores, min(k, len(scores)) - 1)[:k]
                found += [((scope << SCOPE_BITS) + begin - first + int(row), float(scores[row])) for row in best]
            found = top(found, k)
        return found


def embedded(embed: Embed, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of length 1, float32 [text, dimension]. Raises ConfigError for a callable that does not give them."""
    given = embed(texts)
    try:
        rows = np.asarray(given, dtype=np.float32)
    except (TypeError, ValueError):
        raise ConfigError(f"the embedding callable gave a {type(given).__name__} that is no table of numbers") from None
    if rows.ndim != 2 or len(rows) != len(texts) or not rows.shape[1]:
        raise ConfigError(f"the embedding callable gave {list(rows.shape)} for {len(texts)} texts", hint="it must give [text, dimension]")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(rows).all() or not (lengths > 0).all():
        raise ConfigError("the embedding callable gave a vector that is zero or not finite", hint="every text needs a direction")
    result: NDArray[np.float32] = rows / lengths
    return result


def _room(folder: Path | None, shape: tuple[int, int]) -> NDArray[np.float32]:
    if folder is None:
        return np.zeros(shape, dtype=np.float32)
    return np.lib.format.open_memmap(folder / VECTORS, mode="w+", dtype=np.float32, shape=shape)
