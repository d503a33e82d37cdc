"""`verify`: every theorem on fresh random instances, with its worst error, tolerance and time.

An instance is made from (seed, theorem, number) alone, so the worst one of any run can be looked at again:
``replay(name, seed, number)``.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from toy.mixtures import Array
from toy.verification import (  # they enter their theorems into the table
    theorems,  # noqa: F401
    theorems_bounds,  # noqa: F401
    theorems_closed,  # noqa: F401
    theorems_costs,  # noqa: F401
    theorems_diffusion,  # noqa: F401
    theorems_groups,  # noqa: F401
    theorems_joint,  # noqa: F401
    theorems_quotient,  # noqa: F401
)
from toy.verification.table import THEOREMS

CHUNK = 250


@dataclass(frozen=True)
class TheoremResult:
    """What became of one theorem.

    name, statement; instances, how many; worst, the summary of their errors (the largest, unless the theorem is about
    a frequency); tolerance; seconds of computing time; passed = worst <= tolerance; worst_instance, for ``replay``;
    message, of the first exception, empty where there was none.
    """

    name: str
    statement: str
    instances: int
    worst: float
    tolerance: float
    seconds: float
    passed: bool
    worst_instance: int
    message: str


def verify(
    instances: int = 10_000,
    seed: int = 0,
    jobs: int = 1,
    only: Sequence[str] = (),
    progress: Callable[[TheoremResult], None] | None = None,
) -> list[TheoremResult]:
    """Check every theorem of the table on ``instances`` random instances each.

    Args:
        instances: per theorem, at least 1; one that takes long is given a fixed share of it.
        seed: whole number >= 0; with it every instance is determined.
        jobs: processes (above 1 a script must call this under ``if __name__ == "__main__":``, as any spawned pool
            asks).
        only: names, all by default.
        progress: called with each result as it is known.

    Raises ``ValueError`` for counts below one or names that are not in the table.
    """
    if instances < 1 or jobs < 1 or seed < 0:
        raise ValueError(f"instances, jobs, seed: at least 1, 1, 0 are needed, given {instances}, {jobs}, {seed}")
    unknown = [name for name in only if name not in THEOREMS]
    if unknown:
        raise ValueError(f"only: known theorems are {', '.join(THEOREMS)}; given {', '.join(unknown)}")
    names = list(only) or list(THEOREMS)
    counts = {name: -(-instances // THEOREMS[name].every) for name in names}
    tasks = [(name, seed, k, min(k + CHUNK, counts[name])) for name in names for k in range(0, counts[name], CHUNK)]
    results: list[TheoremResult] = []
    errors: list[Array] = []
    seconds, message = 0.0, ""
    with _mapped(jobs) as run:
        for (name, _, _, last), (part, spent, said) in zip(tasks, run(tasks), strict=True):
            errors.append(part)
            seconds, message = seconds + spent, message or said
            if last == counts[name]:
                results.append(_result(name, np.concatenate(errors), seconds, message))
                if progress is not None:
                    progress(results[-1])
                errors, seconds, message = [], 0.0, ""
    return results


def left_out() -> list[str]:
    """One sentence for each theorem that this installation cannot check."""
    if "CVXPY" in THEOREMS:
        return []
    return ["CVXPY: not checked; it needs pip install 'unlearning-duality[reference]'"]


def replay(name: str, seed: int, number: int) -> float:
    """The error of one instance, exceptions let through: to look at what ``worst_instance`` names."""
    if name not in THEOREMS:
        raise ValueError(f"name: known theorems are {', '.join(THEOREMS)}; given {name!r}")
    return THEOREMS[name].check(_generator(name, seed, number))


def table(results: Iterable[TheoremResult]) -> str:
    """Theorem, instances, worst error, tolerance, time and verdict, one line each."""
    lines = [f"{'theorem':<22}{'instances':>10}{'worst error':>13}{'tolerance':>11}{'seconds':>9}  verdict"]
    for one in results:
        verdict = "pass" if one.passed else f"FAIL (instance {one.worst_instance}) {one.message}".rstrip()
        lines.append(
            f"{one.name:<22}{one.instances:>10}{one.worst:>13.2e}{one.tolerance:>11.0e}{one.seconds:>9.1f}  {verdict}"
        )
    return "\n".join(lines)


def _result(name: str, errors: Array, seconds: float, message: str) -> TheoremResult:
    entry = THEOREMS[name]
    # An exception stands as an infinite error and NaN as well: neither may hide in a summary.
    errors = np.where(np.isnan(errors), np.inf, errors)
    summary = entry.summary(errors) if np.all(np.isfinite(errors)) else float("inf")
    return TheoremResult(
        name,
        entry.statement,
        len(errors),
        summary,
        entry.tolerance,
        round(seconds, 3),
        bool(summary <= entry.tolerance),
        int(np.argmax(errors)),
        message,
    )


def _generator(name: str, seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode()), number])


def _chunk(task: tuple[str, int, int, int]) -> tuple[Array, float, str]:
    """Errors of instances first .. last - 1 of a theorem, the time they took, the first exception's words."""
    name, seed, first, last = task
    errors, message = np.empty(last - first), ""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(first, last):
            try:
                errors[number - first] = THEOREMS[name].check(_generator(name, seed, number))
            except Exception as error:  # whatever went wrong, the theorem was not shown on this instance
                errors[number - first] = np.inf
                message = message or f"instance {number}: {type(error).__name__}: {error}"
    return errors, time.process_time() - start, message


class _mapped:
    """A context that maps chunks in order: in this process, or over several."""

    def __init__(self, jobs: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            # Fresh interpreters: forking one that has threads (BLAS, torch) is not safe.
            self._pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))

    def __enter__(self) -> Callable[[Sequence[tuple[str, int, int, int]]], Iterator[tuple[Array, float, str]]]:
        return self._run

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _run(self, tasks: Sequence[tuple[str, int, int, int]]) -> Iterator[tuple[Array, float, str]]:
        return iter(map(_chunk, tasks)) if self._pool is None else self._pool.map(_chunk, tasks)
