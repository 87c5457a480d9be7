"""Character spans to tokens: the ids in front of a supervised span must be the ids of the prompt, as generation sees it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Encoded:
    """ids: int32 [token]. offsets: int64 [token, 2], the characters each token covers (begin, end)."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]


def encoded(ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> Encoded:
    """Lists of the tokenizers library as arrays."""
    return Encoded(np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2))


class Aligner:
    """Maps spans to tokens for one tokenizer.

    What a tokenizer makes of the end of a prompt can depend on what follows: a newline that ends the prompt and one that begins the
    answer may become a single token, or two newlines that end the prompt may be split because of it. Added tokens (``<|im_start|>``)
    separate a text, so only the part of the prompt behind its last added token has to be compared with that part encoded alone.
    """

    def __init__(self, backend: Tokenizer, added_ids: Sequence[int]) -> None:
        self._backend = backend
        self._is_added = np.zeros(max([backend.get_vocab_size(), *(i + 1 for i in added_ids)]), dtype=np.bool_)
        self._is_added[list(added_ids)] = True
        self._headers: dict[str, list[int]] = {}

    def mask(self, text: str, encoding: Encoded, spans: Sequence[Span]) -> tuple[NDArray[np.bool_], list[int]]:
        """bool [token], True for tokens that begin inside a span; and the beginnings in front of which the ids are not the prompt's."""
        starts = encoding.offsets[:, 0]
        mask = np.zeros(len(starts), dtype=np.bool_)
        if not spans:
            return mask, []
        added = np.flatnonzero(self._is_added[encoding.ids])
        wrong = []
        for (begin, _), (first, after) in zip(spans, np.searchsorted(starts, np.array(spans)), strict=True):
            mask[first:after] = True
            before = int(np.searchsorted(added, first)) - 1
            token = int(added[before]) if before >= 0 else 0
            header = text[int(starts[token]) if before >= 0 else 0 : begin]
            if encoding.ids[token:first].tolist() != self._encode_header(header):
                wrong.append(begin)
        return mask, wrong

    def _encode_header(self, header: str) -> list[int]:
        """Ids of the end of a prompt; the few a template has are kept."""
        ids = self._headers.get(header)
        if ids is None:
            ids = self._backend.encode(header, add_special_tokens=False).ids
            if len(self._headers) < 64 and len(header) < 256:
                self._headers[header] = ids
        return ids
