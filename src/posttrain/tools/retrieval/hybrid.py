"""Words and vectors together: FTS5 and dense, joined by reciprocal rank fusion."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from posttrain.tools.retrieval.backend import Backend, Embed, OnProgress, top
from posttrain.tools.retrieval.dense import Dense
from posttrain.tools.retrieval.fts5 import Fts5
from posttrain.tools.retrieval.store import PassageStore

RANK_CONSTANT = 60
DEPTH = 50


class Hybrid(Backend):
    """Score of a passage: the sum over both rankings of 1 / (60 + rank) (Cormack, Clarke, Büttcher 2009, SIGIR), each ranking 50 deep."""

    version = f"{Fts5.version}, {Dense.version}"

    def __init__(self, words: Fts5, vectors: Dense) -> None:
        self._rankings: tuple[Backend, Backend] = (words, vectors)

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """Those of both, and of the fusion."""
        return Fts5.settings() | Dense.settings() | {"rank_constant": RANK_CONSTANT, "depth": DEPTH}

    @classmethod
    def build(cls, store: PassageStore, folder: Path | None, embed: Embed | None, on_progress: OnProgress) -> Self:
        """Both."""
        return cls(Fts5.build(store, folder, embed, on_progress), Dense.build(store, folder, embed, on_progress))

    @classmethod
    def open(cls, store: PassageStore, folder: Path, embed: Embed | None) -> Self:
        """Both."""
        return cls(Fts5.open(store, folder, embed), Dense.open(store, folder, embed))

    def made(self) -> dict[str, Any]:
        """What both made."""
        return self._rankings[0].made() | self._rankings[1].made()

    def search(self, query: str, k: int, scopes: Sequence[int]) -> list[tuple[int, float]]:
        """The best ``k``: (passage number, fused score), best first."""
        scores: defaultdict[int, float] = defaultdict(float)
        for ranking in self._rankings:
            for rank, (number, _) in enumerate(ranking.search(query, max(k, DEPTH), scopes), start=1):
                scores[number] += 1 / (RANK_CONSTANT + rank)
        return top(scores.items(), k)
