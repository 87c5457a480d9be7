"""One request on its way through the batch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from posttrain.generation.protocol import RowConstraint
from posttrain.generation.sampling import UniformStream
from posttrain.generation.slots import Extent
from posttrain.generation.text import TextStream
from posttrain.records import SamplingSettings


@dataclass(eq=False, slots=True)
class Row:
    """One request. ``tokens``: prompt ids and then the generated ones; ``limit``: how many may be generated.

    ``on_end`` is called once, when the row leaves: finished, cancelled, or with ``error``.
    """

    tokens: list[int]
    sampling: SamplingSettings
    limit: int
    constraint: RowConstraint | None = None
    stream: TextStream | None = None
    on_end: Callable[["Row"], None] | None = None
    num_prompt: int = 0
    logprobs: list[float] = field(default_factory=list)
    submitted: float = 0.0
    started: float = 0.0
    seconds: float = 0.0
    finish_reason: str = ""
    is_cancelled: bool = False
    error: Exception | None = None
    uniforms: UniformStream | None = None
    extent: Extent | None = None
    donor: Extent | None = None
    """A running request that is about to compute the beginning of this one: ``num_shared`` tokens."""
    num_shared: int = 0
    num_copied: int = 0
    num_computed: int = 0
    num_forced: int = 0

    def __post_init__(self) -> None:
        self.num_prompt = len(self.tokens)
        self.submitted = time.perf_counter()
        if self.sampling.temperature > 0:
            self.uniforms = UniformStream(self.sampling.seed)

    @property
    def generated(self) -> list[int]:
        """Ids generated so far, the ending one included."""
        return self.tokens[self.num_prompt :]

    @property
    def is_over(self) -> bool:
        """Nothing is left to do."""
        return bool(self.finish_reason) or self.is_cancelled or self.error is not None

    def take(self, token: int, end_ids: frozenset[int]) -> None:
        """Add a token and decide whether the row is finished."""
        self.tokens.append(token)
        if token in end_ids or (self.stream is not None and self.stream.push(token)):
            self.finish_reason = "stop"
        elif len(self.tokens) - self.num_prompt >= self.limit:
            self.finish_reason = "length"

    @property
    def place(self) -> tuple[int, int]:
        """(size, start) of the row's extent."""
        return (self.extent.size, self.extent.start) if self.extent is not None else (0, 0)
