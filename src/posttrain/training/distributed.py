"""The only file that knows of several processes: who am I, sum this, wait for the others.

Data parallel: every process holds the whole model, takes its share of a step's micro-batches, and gradients and counts are summed
before the one division. Start with ``torchrun --nproc-per-node 2 -m posttrain ...``; a single process needs nothing.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from posttrain.errors import InfrastructureError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run: ``size`` of them, this one is ``rank``."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes: its own CUDA device where there is one, else the CPU."""
        if torch.cuda.is_available():
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("cpu")

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its sum over all processes; a process without micro-batches adds zeros."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)

    def gather(self, value: T) -> list[T]:
        """The value of every process, in rank order; the same list everywhere."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return [entry for entry in values if entry is not None]

    def together(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives in every process, in rank order. When it raises in one, all stop: that one with its own error, the others
        with an InfrastructureError that quotes it. Between two of these no process may wait for another."""
        if self.size == 1:
            return [work()]
        value, own = None, None
        try:
            value = work()
        except Exception as error:
            own = error
        outcomes: list[Any] = [None] * self.size
        dist.all_gather_object(outcomes, (value, f"{type(own).__name__}: {own}" if own else ""))
        if own is not None:
            raise own
        for rank, (_, problem) in enumerate(outcomes):
            if problem:
                raise InfrastructureError(f"process {rank} of {self.size} stopped: {problem}", hint="mend that and run the same again")
        return [value for value, _ in outcomes]

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def open_world() -> Iterator[World]:
    """The processes torchrun started (found by its environment), or this one alone. Nested use joins the open group."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    owner = not dist.is_initialized()
    if owner:
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        if owner:
            dist.destroy_process_group()
