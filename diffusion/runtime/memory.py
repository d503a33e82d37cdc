"""Batch sizes that fit: chosen by a measured probe where a device says what is free, halved where one did not fit.

::

    rows = min( most, numbers in all / numbers of a row )                            first guess
    rows = min( rows, 0.8 free / (peak of two rows - peak of one) )                  on CUDA, by a probe

No result depends on them: every sample has noise of its own (:func:`diffusion.pipelines.base.noise_of`), and a batch
that ran out of memory is gone through again in halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from diffusion.runtime.files import say

Made = TypeVar("Made")

# Numbers in a batch: of samples, and of decoded images. A CPU gains nothing from more, and a GPU is measured.
NUMBERS = {"evaluation": 2**17, "decoding": 2**22}
SHARE = 0.8  # of what is free: allocators waste some
ADVICE = "load the model in half precision, make smaller images, or take a larger device"


@dataclass
class Limit:
    """How many rows of one kind of work a network takes at once; falls when a batch did not fit."""

    kind: str
    rows: int


_LIMITS: WeakKeyDictionary[nn.Module, dict[tuple[str, int], Limit]] = WeakKeyDictionary()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the CPU's allocator, has said that memory is used up."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "DefaultCPUAllocator" in text)
    )


def limit_of(network: nn.Module, kind: str, numbers: int, most: int, probe: Callable[[int], object]) -> Limit:
    """The rows that fit, found out once for a network and kind of work.

    ``numbers``: of one row; ``most``: rows at most; ``probe(rows)``: the work itself, called with one and two rows.
    """
    known = _LIMITS.setdefault(network, {})
    key = (kind, numbers)
    if key not in known:
        device = next(network.parameters()).device
        limit = Limit(kind, max(1, min(most, NUMBERS[kind] // numbers)))
        if device.type == "cuda":
            limit.rows = min(most, measured_rows(device, probe, most))
            say(f"batch size of {kind}: {limit.rows}, by a probe")
        known[key] = limit
    found = known[key]
    return found if found.rows <= most else Limit(kind, most)


def measured_rows(device: torch.device, probe: Callable[[int], object], most: int) -> int:
    """Rows that fit into what is free, by the memory that two rows take beyond one; 1 where two do not fit."""
    peaks = []
    try:
        for rows in (1, 2):
            free_unused(device)
            held = allocated(device)
            probe(rows)
            peaks.append(peak(device) - held)
    except Exception as error:
        if not is_out_of_memory(error) or not peaks:
            raise
        return 1
    each = max(1, peaks[1] - peaks[0])
    beside = max(0, peaks[0] - each)  # what any batch takes
    free_unused(device)
    return max(1, min(most, int((SHARE * free(device) - beside) // each)))


def free_unused(device: torch.device) -> None:
    """Give back what the allocator keeps, and begin a new peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def allocated(device: torch.device) -> int:
    return int(torch.cuda.memory_allocated(device))


def peak(device: torch.device) -> int:
    return int(torch.cuda.max_memory_allocated(device))


def free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0])


def in_halves(run: Callable[[int, int], Made], start: int, stop: int, limit: Limit) -> list[Made]:
    """``[run(start, stop)]``, or the same in halves, and halves of them, where memory was used up.

    ``run`` gives the same rows whatever batch they are in. Raises ``MemoryError`` where one row does not fit.
    """
    try:
        return [run(start, stop)]
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        if stop - start == 1:
            raise MemoryError(f"{limit.kind}: one row does not fit into memory; {ADVICE}") from error
        reason = error
    del reason
    free_unused(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    middle = (start + stop) // 2
    limit.rows = min(limit.rows, middle - start)
    say(f"batch size of {limit.kind}: {limit.rows} from here on, {stop - start} did not fit into memory")
    return [*in_halves(run, start, middle, limit), *in_halves(run, middle, stop, limit)]


def in_batches(run: Callable[[int, int], Made], count: int, limit: Limit) -> list[Made]:
    """``run(start, stop)`` over all of ``count`` rows, as many at a time as fit."""
    made: list[Made] = []
    start = 0
    while start < count:
        stop = min(count, start + limit.rows)
        made += in_halves(run, start, stop, limit)
        start = stop
    return made
