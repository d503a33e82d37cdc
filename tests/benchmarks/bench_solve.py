"""How fast `duality.solve` is, and how exact, beside what others would do, all in one run.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_solve.py                    # the table: some minutes
OMP_NUM_THREADS=1 python tests/benchmarks/bench_solve.py --sizes 1e4 --m 4   # a part of it
python tests/benchmarks/bench_solve.py --levels --json levels.json           # 32 concepts far beyond what q has

Times are of the processor, medians of five, which on one thread are those of the clock where nothing else runs: so the
comparison holds on a busy machine too. The general optimisers stop at their own tolerances, which are far from ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from others import cones, general

import duality as du

sys.path.insert(0, str(Path(__file__).parents[1] / "properties"))
from instances import finite_space, own_levels

KINDS = {"ReverseKL": du.ReverseKL, "Likelihood": du.Likelihood, "ForwardKL": du.ForwardKL}
CONES = 10_000  # points, beyond which trust-constr and the cone solvers take minutes


def problem_of(name: str, ratios: du.LogRatios) -> du.Problem:
    """Every constraint asked for more than q has."""
    low, high = {"ReverseKL": (1.2, 1.8), "ForwardKL": (1.02, 1.1), "Likelihood": (0.5, 0.9)}[name]
    times = np.random.default_rng(1).uniform(low, high, size=ratios.m)
    return KINDS[name](own_levels(KINDS[name](1.0), ratios) * times)


def seconds(call: Callable[[], Any], repetitions: int = 5) -> float:
    """Processor time, the median of several runs."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return float(np.median(times))


def peak(call: Callable[[], Any]) -> int:
    """The most memory that is allocated at one time, bytes."""
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def compared(n: int, m: int, draws: bool, slow: bool) -> list[dict[str, Any]]:
    """One line for each kind of problem."""
    ratios = finite_space(np.random.default_rng(0), n, m, spread=0.7)
    if draws:  # the same table with equal weights: ratios are then none of laws, which the solver would say
        ratios = du.LogRatios(ratios.values, priors=ratios.priors).normalise()
    lines = []
    for name in KINDS:
        problem = problem_of(name, ratios)
        found = du.solve(problem, ratios)
        line: dict[str, Any] = {"problem": name, "n": n, "m": m, "draws": draws, "steps": found.iterations}
        line["solve"] = seconds(lambda problem=problem: du.solve(problem, ratios))
        line["read"] = seconds(lambda: ratios.values.sum(axis=0))
        line["L-BFGS-B"] = seconds(lambda problem=problem: general(problem, ratios, "L-BFGS-B"))
        line["L-BFGS-B error"] = abs(general(problem, ratios, "L-BFGS-B") - found.dual)
        line["peak / input"] = peak(lambda problem=problem: du.solve(problem, ratios)) / ratios.values.nbytes
        line["gap"], line["kkt"] = found.gap, found.kkt_residual
        if slow and n <= CONES:
            line["trust-constr"] = seconds(lambda problem=problem: general(problem, ratios, "trust-constr"), 1)
            for solver in ("CLARABEL", "SCS"):
                line[solver] = seconds(lambda p=problem, s=solver: cones(p, ratios, s), 1)
        lines.append(line)
        print(row(line), flush=True)
    return lines


def row(line: dict[str, Any]) -> str:
    """A line of the table, times in milliseconds."""
    said = f"{line['problem']:11}{line['n']:>9}{line['m']:>4}{'  draws' if line['draws'] else '       '}"
    said += f"{line['solve'] * 1e3:>10.2f}{line['L-BFGS-B'] * 1e3:>10.2f}{line['solve'] / line['L-BFGS-B']:>7.2f}"
    said += f"{line['read'] * 1e3:>9.3f}{line['peak / input']:>7.1f}{line['gap']:>9.0e}{line['L-BFGS-B error']:>9.0e}"
    for other in ("trust-constr", "CLARABEL", "SCS"):
        said += f"{line[other] * 1e3:>10.0f}" if other in line else ""
    return said


HEAD = (
    f"{'':11}{'n':>9}{'m':>4}{'':7}{'solve':>10}{'L-BFGS-B':>10}{'ratio':>7}{'read':>9}{'peak':>7}{'gap':>9}{'theirs':>9}"
    f"{'tr-constr':>10}{'Clarabel':>10}{'SCS':>10}"
)


def beyond(seeds: int, n: int = 100_000, m: int = 32) -> list[dict[str, Any]]:
    """m concepts of a mixture of twice as many in the plane, at 1.5, 2 and 4 times what q has (a part, Likelihood)."""
    lines = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        k = 2 * m
        weights, means = rng.dirichlet(np.full(k, 3.0)), 2 * rng.normal(size=(k, 2))
        widths, chosen = rng.uniform(0.55, 1.3, size=k), rng.choice(k, size=n, p=weights)
        x = means[chosen] + widths[chosen, None] * rng.normal(size=(n, 2))
        parts = -0.5 * ((x[:, None] - means) ** 2).sum(axis=-1) / widths**2 - 2 * np.log(widths)
        top = parts.max(axis=1)
        log_q = top + np.log(np.exp(parts - top[:, None]) @ weights)
        ratios = du.LogRatios(parts[:, :m] - log_q[:, None], priors=weights[:m])
        for name, kind in KINDS.items():
            own = own_levels(kind(1.0), ratios)
            for times in (1.5, 2.0, 4.0):
                problem = kind(own / times if name == "Likelihood" else own * times)
                start = time.process_time()
                found = du.solve(problem, ratios)
                spent = time.process_time() - start
                line = {"problem": name, "n": n, "m": m, "seed": seed, "times": times, "solve": spent}
                lines.append(line | {"status": found.status.name, "gap": found.gap, "kkt": found.kkt_residual})
                print(f"{name:11}{seed:>3}{times:>5}{spent:>8.2f} s  {found.status.name:13}{found.gap:.0e}", flush=True)
    return lines


def machine() -> str:
    """What it ran on, in a line."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e4,1e5,1e6", help="numbers of points")
    parser.add_argument("--m", default="1,4,16", help="numbers of constraints")
    parser.add_argument("--draws", action="store_true", help="equal weights: with standard errors")
    parser.add_argument("--no-cones", action="store_true", help="leave out trust-constr, Clarabel and SCS")
    parser.add_argument("--levels", type=int, nargs="?", const=3, help="the levels beyond, on so many seeds, instead")
    parser.add_argument("--json", type=Path, help="the figures as JSON")
    given = parser.parse_args()
    print(machine())
    figures: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if given.levels:
            figures = beyond(given.levels)
        else:
            print(HEAD)
            for n in given.sizes.split(","):
                for m in given.m.split(","):
                    figures += compared(int(float(n)), int(m), given.draws, not given.no_cones)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
