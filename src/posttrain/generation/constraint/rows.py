"""One row's grammar while it is generated: which tokens may follow, which must, and when only the end is left."""

import numpy as np
import torch
from jaxtyping import Float
from llguidance import LLMatcher
from torch import Tensor

from posttrain.errors import ConfigError


class GrammarConstraint:
    """An llguidance matcher as a :class:`~posttrain.generation.protocol.RowConstraint`.

    Every method raises ConfigError where the grammar outgrows the parser's limits (a matcher says so only when asked).
    """

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_finished(self) -> bool:
        """True once the grammar is complete and only the end token may follow, or has followed."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits: Float[Tensor, " vocab"]) -> None:
        """Set the logits of tokens that may not follow to minus infinity, in place; those of ids the tokenizer does not have, too.

        End tokens may follow wherever the grammar could end.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        allowed = np.unpackbits(bits, count=len(logits), bitorder="little")
        logits.masked_fill_(torch.from_numpy(allowed == 0).to(logits.device), -torch.inf)

    def push(self, token: int) -> None:
        """Take ``token``, which must be one that :meth:`mask` allows."""
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """The tokens of text the grammar fixes from here on, already pushed; the end token is not among them."""
        tokens = [int(token) for token in self._matcher.compute_ff_tokens()]
        self._matcher.consume_tokens(tokens)
        self._check()
        return tokens

    def _check(self) -> None:
        if error := self._matcher.get_error():
            raise ConfigError(f"constrained generation stopped: {error.strip().splitlines()[0]}", hint="simplify the schema or grammar")
