"""A sequence of token ids with the mask that says which of them train."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """input_ids: int32 [length]. completion_mask: bool [length], True where the token is supervised (counts).

    ``index`` is the row's number in its data set, counted from 1, so that a report or an error can name it; -1 where it has none.
    """

    input_ids: NDArray[np.int32]
    completion_mask: NDArray[np.bool_]
    index: int = -1

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])

    @property
    def num_supervised(self) -> int:
        """How many tokens of the completion are trained on."""
        return int(self.completion_mask.sum())
