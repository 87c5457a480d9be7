"""One row's grammar while it is generated: which tokens may follow, which must, and when only the end is left."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from llguidance import LLMatcher
from numpy.typing import NDArray
from torch import Tensor

from posttrain.errors import ConfigError


class RowConstraint(Protocol):
    """What the batch asks of a constraint, token by token."""

    @property
    def is_finished(self) -> bool:
        """True once the grammar is complete and only the end token may follow, or has followed."""
        ...

    def mask(self, logits: Float[Tensor, " vocab"]) -> None:
        """Set the logits of tokens that may not follow to minus infinity, in place."""
        ...

    def push(self, token: int) -> None:
        """The token that was taken. It must be one that :meth:`mask` allows."""
        ...

    def forced(self) -> list[int]:
        """The tokens that follow with certainty, already pushed; the end token is among them once the grammar is complete."""
        ...


class GrammarConstraint:
    """An llguidance matcher as a :class:`RowConstraint`. Raises ConfigError where a grammar outgrows the parser's limits."""

    def __init__(self, matcher: LLMatcher, end_token: int) -> None:
        self._matcher, self._end_token = matcher, end_token
        self._ended = False

    @property
    def is_finished(self) -> bool:
        """True once only the end token may follow, or has followed."""
        return bool(self._matcher.is_stopped())

    def allowed(self, num: int) -> NDArray[np.bool_]:
        """bool [num]: which of the first ``num`` ids may follow; ids the tokenizer does not have may not."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        flags = np.unpackbits(bits, count=num, bitorder="little")
        return flags.view(np.bool_)

    def mask(self, logits: Float[Tensor, " vocab"]) -> None:
        """Set the logits of tokens that may not follow to minus infinity, in place."""
        mask_rows(logits[None], [self])

    def push(self, token: int) -> None:
        """Take ``token``. Raises ConfigError when the grammar does not allow it."""
        self._ended = not self._matcher.consume_token(token) or (self._matcher.is_stopped() and token == self._end_token)
        self._check()

    def forced(self) -> list[int]:
        """Tokens that follow with certainty, already pushed: those of text the grammar fixes, and the end token behind a complete one."""
        tokens = [int(token) for token in self._matcher.compute_ff_tokens()]
        if tokens and not self._matcher.consume_tokens(tokens):
            self._check()
        if self.is_finished and not self._ended:
            self._ended = True
            tokens.append(self._end_token)
        return tokens

    def _check(self) -> None:
        if error := self._matcher.get_error():
            raise ConfigError(f"constrained generation stopped: {error.strip().splitlines()[0]}", hint="simplify the schema or grammar")


def mask_rows(logits: Float[Tensor, "row vocab"], constraints: Sequence[GrammarConstraint | None]) -> None:
    """:meth:`RowConstraint.mask` for a batch at once; rows without a constraint are left as they are."""
    rows = [i for i, constraint in enumerate(constraints) if constraint is not None]
    if not rows:
        return
    width = logits.shape[1]
    refused = torch.from_numpy(~np.stack([constraint.allowed(width) for constraint in constraints if constraint is not None]))
    if len(rows) == len(logits):
        logits.masked_fill_(refused.to(logits.device), -torch.inf)
    else:
        for i, row in zip(rows, refused.to(logits.device), strict=True):
            logits[i].masked_fill_(row, -torch.inf)
