"""How fast is `solve`? Against CVXPY at n = 10^4, m = 4, and alone at n = 10^6, m = 4, with its peak memory.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_solve.py            # prints a table; half a minute
OMP_NUM_THREADS=1 python tests/benchmarks/bench_solve.py --no-cvxpy

Times are of the processor, which on one thread are those of the clock where nothing else runs: so the comparison holds
on a busy machine too.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

import duality as du

sys.path.insert(0, str(Path(__file__).parents[1] / "properties"))
from instances import finite_space, own_levels

M = 4


def problems(ratios: du.LogRatios) -> dict[str, du.Problem]:
    """One of each kind, every constraint asked for more than q has."""
    rng = np.random.default_rng(1)
    return {
        "ReverseKL": du.ReverseKL(own_levels(du.ReverseKL(0.0), ratios) * rng.uniform(1.2, 1.8, size=M)),
        "ForwardKL": du.ForwardKL(own_levels(du.ForwardKL(0.0), ratios) * rng.uniform(1.02, 1.1, size=M)),
        "Likelihood": du.Likelihood(own_levels(du.Likelihood(1.0), ratios) * rng.uniform(0.5, 0.9, size=M)),
    }


def seconds(call: Callable[[], object], repetitions: int) -> float:
    """Processor time, the best of several runs: what the machine can do when nothing else disturbs it."""
    best = np.inf
    for _ in range(repetitions):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def against_cvxpy(n: int = 10_000) -> None:
    ratios = finite_space(np.random.default_rng(0), n, M, spread=0.7)
    print(f"n = {n}, m = {M}\n{'':12}{'solve':>10}{'CVXPY':>10}{'ratio':>8}   difference of the values")
    for name, problem in problems(ratios).items():
        ours = seconds(lambda problem=problem: du.solve(problem, ratios), 5)
        theirs = seconds(lambda problem=problem: du.reference.solve(problem, ratios), 3)
        difference = abs(du.solve(problem, ratios).dual - du.reference.solve(problem, ratios).value)
        print(f"{name:12}{ours * 1e3:8.1f}ms{theirs:9.2f}s{theirs / ours:8.0f}   {difference:.1e}")


def alone(n: int = 1_000_000) -> None:
    ratios = finite_space(np.random.default_rng(0), n, M, spread=0.7)
    size = ratios.values.nbytes
    print(
        f"n = {n}, m = {M}, input {size / 2**20:.0f} MiB\n{'':12}{'solve':>10}{'peak':>10}   peak / input   gap    KKT"
    )
    for name, problem in problems(ratios).items():
        duration = seconds(lambda problem=problem: du.solve(problem, ratios), 2)
        tracemalloc.start()
        solution = du.solve(problem, ratios)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(
            f"{name:12}{duration:9.2f}s{peak / 2**20:7.0f}MiB{peak / size:12.1f}"
            f"      {solution.gap:.0e}  {solution.kkt_residual:.0e}   {solution.iterations} steps"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-cvxpy", action="store_true", help="leave out the comparison")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}")
    if not parser.parse_args().no_cvxpy:
        against_cvxpy()
    alone()
