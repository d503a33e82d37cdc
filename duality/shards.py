"""Nodes that are spread over processes: sums are reduced over these, and nodes stay where they are.

Every pass over the nodes ends in a state of a few numbers (g, its gradient, m² numbers of curvature). Where the nodes
are shared out, each process makes the pass over its own; the states are then exchanged and merged in the order of the
processes, so that all of them go on from the same numbers, to the last bit, and take the same steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

State = TypeVar("State")


@dataclass(frozen=True)
class Shards:
    """Processes that have a part of the points each.

    Args:
        rank: which of them this is, 0 … count - 1.
        count: how many there are.
        all_reduce: a float64 vector of this process to the sum over all processes, `(k,)` -> `(k,)`; every process
            calls it as often as the others, in the same order. `of_torch` makes it of torch.distributed.

    Raises:
        ValueError: for a rank or a count that is none.
    """

    rank: int
    count: int
    all_reduce: Callable[[np.ndarray], np.ndarray]

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.rank < self.count:
            raise ValueError(f"rank: {self.rank} of {self.count} given, one of 0 … count - 1 is needed")

    @classmethod
    def of_torch(cls, group: Any = None) -> Shards:
        """The processes of torch.distributed, or those of one of its groups; gloo sums on the CPU, NCCL on the GPU."""
        import torch
        from torch import distributed

        device = "cuda" if distributed.get_backend(group) == "nccl" else "cpu"

        def summed(values: np.ndarray) -> np.ndarray:
            tensor = torch.from_numpy(values).to(device)
            distributed.all_reduce(tensor, group=group)
            return np.asarray(tensor.cpu().numpy())

        return cls(distributed.get_rank(group), distributed.get_world_size(group), summed)

    def gather(self, values: np.ndarray) -> np.ndarray:
        """The vectors `(k,)` of all processes `(count, k)`: a sum in which each has a row of its own."""
        rows = np.zeros((self.count, values.size))
        rows[self.rank] = values
        return np.asarray(self.all_reduce(rows.ravel())).reshape(rows.shape)


_shards: ContextVar[Shards | None] = ContextVar("shards", default=None)


@contextmanager
def sharing(shards: Shards | None) -> Iterator[None]:
    """Passes within are over the nodes of all processes; nothing changes for None."""
    if shards is None:
        yield
        return
    token = _shards.set(shards)
    try:
        yield
    finally:
        _shards.reset(token)


def shared() -> bool:
    """Whether the nodes at hand are a part only."""
    return _shards.get() is not None


def total(value: float) -> float:
    """The sum over processes."""
    shards = _shards.get()
    return value if shards is None else float(shards.gather(np.array([value])).sum())


def least_of(value: float) -> float:
    """The least over processes."""
    shards = _shards.get()
    return value if shards is None else float(shards.gather(np.array([value])).min())


def log_total(value: float) -> float:
    """log of the sum of e^value over processes."""
    shards = _shards.get()
    return value if shards is None else float(np.logaddexp.reduce(shards.gather(np.array([value]))[:, 0]))


def merged(state: State) -> State:
    """The states of all processes as one."""
    shards = _shards.get()
    if shards is None or shards.count == 1:
        return state
    rows = shards.gather(np.array(_numbers(state)))
    states = [deepcopy(state) for _ in rows]
    for each, row in zip(states, rows, strict=True):
        _fill(each, list(row))
    for other in states[1:]:
        states[0].merge(other)  # type: ignore[attr-defined]
    return states[0]


def _numbers(state: Any) -> list[float]:
    """All numbers in the attributes of a state, in their order."""
    found: list[float] = []
    for value in vars(state).values():
        if isinstance(value, np.ndarray):
            found += value.ravel().tolist()
        elif isinstance(value, (int, float)):
            found.append(float(value))
        elif value is not None:
            found += _numbers(value)
    return found


def _fill(state: Any, row: list[float]) -> None:
    """The inverse: takes the numbers off the front of a row."""
    for name, value in vars(state).items():
        if isinstance(value, np.ndarray):
            taken, row[:] = row[: value.size], row[value.size :]
            setattr(state, name, np.array(taken).reshape(value.shape))
        elif isinstance(value, (int, float)):
            setattr(state, name, type(value)(row.pop(0)))
        elif value is not None:
            _fill(value, row)
