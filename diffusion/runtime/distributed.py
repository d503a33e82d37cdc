r"""Several processes, several parts of a batch: what is computed does not depend on who computes it.

The batch of a step is a function of the seed and the step's number alone. With P = processes · ``accumulate`` parts,
part j holds its rows j, j + P, j + 2P, ..., and ::

    grad loss = (1/P) sum_{j < P} grad loss_j,

because every loss here is a mean over rows, and every part has as many rows of each kind. So the weights after a step
are those of one process on the whole batch, up to the order in which floats are added. Samples are made batch by
batch, and gathered in every process.

Processes are found by accelerate (``accelerate launch``, ``torchrun``, ``mpirun``); on a machine without CUDA, or with
``accelerate launch --cpu``, they meet on the CPU by gloo. Functions below that say *collective* must be called by every
process, in the same order.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """Part ``index`` of ``count`` of a step's batch."""

    index: int = 0
    count: int = 1
    notes: dict[str, float] = field(default_factory=dict, compare=False)

    def rows(self, n: int) -> slice:
        """Which of n rows are this part's. ``ValueError`` where n cannot be split evenly."""
        if n % self.count:
            raise ValueError(
                f"batch: {n} rows of one kind cannot be split evenly over {self.count} parts (processes times "
                "gradient accumulation steps)"
            )
        return slice(self.index, n, self.count)

    def note(self, **terms: Tensor) -> None:
        """Keep scalar terms of the loss, for trackers; the trainer takes their mean over parts."""
        for name, value in terms.items():
            self.notes[name] = float(value.detach())


WHOLE = Part()


@cache
def world() -> Any:
    """accelerate's ``PartialState``: ``num_processes``, ``process_index``, ``is_main_process``, ``device``."""
    from accelerate import PartialState

    launched_on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    state = PartialState(cpu=launched_on_cpu or not torch.cuda.is_available())
    if launched_on_cpu and state.num_processes == 1 and "MASTER_ADDR" in os.environ:
        warnings.warn(
            "accelerate launch --cpu was asked for several processes and started one: it starts several only with "
            "--mpirun_hostfile. torchrun --nproc-per-node does the same without MPI",
            RuntimeWarning,
            stacklevel=2,
        )
    return state


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return bool(world().is_main_process)


def average(values: Sequence[Tensor]) -> None:
    """Each tensor becomes its mean over processes, in place. Collective."""
    if world().num_processes == 1 or not values:
        return
    from accelerate.utils import reduce

    wide = torch.float64 if values[0].dtype == torch.float64 else torch.float32
    flat = torch.cat([value.reshape(-1).to(wide) for value in values])
    mean = reduce(flat.to(world().device), "mean").to(flat.device)
    for value, part in zip(values, mean.split([value.numel() for value in values]), strict=True):
        value.copy_(part.view_as(value))


def broadcast(values: Sequence[Tensor]) -> None:
    """Each tensor becomes the main process's, in place. Collective."""
    if world().num_processes == 1:
        return
    from accelerate.utils import broadcast

    for value in values:
        value.copy_(broadcast(value.detach().to(world().device, copy=True)))


def broadcast_object(value: Item) -> Item:
    """The main process's value in every process, whatever the others had. Collective."""
    if world().num_processes == 1:
        return value
    from accelerate.utils import broadcast_object_list

    held = [value]
    broadcast_object_list(held)
    return held[0]


def map_distributed(count: int, make: Callable[[int], Item]) -> list[Item]:
    """``[make(0), ..., make(count - 1)]``, each made by one process and known to all of them. Collective."""
    state = world()
    if state.num_processes == 1:
        return [make(j) for j in range(count)]
    from accelerate.utils import gather_object

    own = [(j, make(j)) for j in range(state.process_index, count, state.num_processes)]
    return [item for _, item in sorted(gather_object(own), key=lambda pair: pair[0])]
