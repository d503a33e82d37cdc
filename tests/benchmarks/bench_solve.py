"""How fast `duality.solve` is, and how exact, beside what others would do, all in one run.

python tests/benchmarks/bench_solve.py --json tests/benchmarks/solve.json   # the table: some minutes
python tests/benchmarks/bench_solve.py --sizes 1e4 --m 4                     # a part of it
python tests/benchmarks/bench_solve.py --levels --json levels.json           # 32 concepts far beyond what q has
python tests/benchmarks/bench_solve.py --large 1e7 --m 8 --workers 2         # wall seconds, on threads
python tests/benchmarks/bench_solve.py --file 1e8 --m 4 --folder F           # in single precision in a file
python tests/benchmarks/figures.py                                           # the JSON into the documentation

Times are of the processor, medians of five runs in which ours and theirs take turns, on one thread: where nothing else
runs these are those of the clock, and the comparison holds on a busy machine too, where all of them are longer. The
general optimisers stop at their own tolerances, which are far from ours; "driven" is L-BFGS-B told to go on until
levels are met as closely as ours are, or rounding ends it.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is loaded: its own threads would only wait for each other

import numpy as np
from others import DRIVEN, cones, general

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


def seconds(calls: dict[str, Callable[[], Any]], repetitions: int = 5) -> dict[str, float]:
    """Processor times, medians of several runs in which the calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: float(np.median(each)) for name, each in times.items()}


@contextmanager
def clock(line: dict[str, Any]) -> Iterator[None]:
    """Wall and processor seconds of what is within, into a line."""
    wall, processor = time.perf_counter(), time.process_time()
    yield
    line["wall"], line["processor"] = time.perf_counter() - wall, time.process_time() - processor


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
        # What a LogRatios computes once, its masses, is paid by the first solve alone.
        calls = {
            "solve": lambda problem=problem: du.solve(problem, ratios),
            "first": lambda problem=problem: du.solve(problem, anew(ratios)),
            "L-BFGS-B": lambda problem=problem: general(problem, ratios, "L-BFGS-B"),
            "driven": lambda problem=problem: general(problem, ratios, "L-BFGS-B", DRIVEN),
            "read": lambda: ratios.values.sum(axis=0),
        }
        line |= seconds(calls)
        for name_of, options in (("L-BFGS-B", None), ("driven", DRIVEN)):
            theirs = general(problem, ratios, "L-BFGS-B", options)
            line[f"{name_of} error"], line[f"{name_of} miss"] = abs(theirs.value - found.dual), theirs.miss
        line["peak / input"] = peak(lambda problem=problem: du.solve(problem, ratios)) / ratios.values.nbytes
        line["gap"], line["kkt"] = found.gap, found.kkt_residual
        if slow and n <= CONES and m == 4:
            slow_ones = {"trust-constr": lambda problem=problem: general(problem, ratios, "trust-constr")}
            for solver in ("CLARABEL", "SCS"):
                slow_ones[solver] = lambda p=problem, s=solver: cones(p, ratios, s)
            line |= seconds(slow_ones, 1)
        lines.append(line)
        print(row(line), flush=True)
    return lines


def anew(ratios: du.LogRatios) -> du.LogRatios:
    """The same ratios, as if nobody had computed anything of them."""
    again = ratios.remembering()
    for name in ("log_masses", "log_powers", "group_log_masses", "partition", "peak"):
        again.__dict__.pop(name, None)
    return again


def large(n: int, m: int, workers: int, folder: Path | None) -> list[dict[str, Any]]:
    """Draws by the ten million: wall and processor seconds of one solve each; in a file where a folder is given."""
    rng = np.random.default_rng(0)
    kind = np.float64 if folder is None else np.float32
    if folder is None:
        table = np.empty((n, m), order="F")
    else:
        table = np.memmap(folder / "ratios.dat", dtype=kind, mode="w+", shape=(n, m))
    for start in range(0, n, 1_000_000):
        part = table[start : start + 1_000_000]
        part[...] = 0.5 * rng.normal(size=part.shape) - 0.125  # of mass one under the law itself
    if folder is not None:
        table = np.memmap(folder / "ratios.dat", dtype=kind, mode="r", shape=(n, m))
    line: dict[str, Any] = {"problem": "LogRatios", "n": n, "m": m, "file": folder is not None}
    with clock(line):
        ratios = du.LogRatios(table, priors=0.5 / m)
    lines = [line]
    del table
    # About what q has: KL(q||q_i) = 1/8, E_q[Pr(i|x)] = prior.
    for problem in (du.ReverseKL(0.3), du.Likelihood(0.35 / m), du.ForwardKL(0.135)):
        line = {"problem": type(problem).__name__, "n": n, "m": m, "workers": workers, "file": folder is not None}
        with clock(line):
            found = du.solve(problem, ratios, workers=workers)
        lines.append(line | {"status": found.status.name, "gap": found.gap, "kkt": found.kkt_residual})
        del found
    for line in lines:
        print(f"{line['problem']:11}{n:>11}{m:>4}{line['wall']:>9.2f} s{line['processor']:>9.2f} s", flush=True)
    return lines


def row(line: dict[str, Any]) -> str:
    """A line of the table, times in milliseconds."""
    said = f"{line['problem']:11}{line['n']:>9}{line['m']:>4}{'  draws' if line['draws'] else '       '}"
    said += f"{line['solve'] * 1e3:>10.2f}{line['first'] * 1e3:>10.2f}{line['L-BFGS-B'] * 1e3:>10.2f}"
    said += (
        f"{line['driven'] * 1e3:>10.2f}{line['solve'] / line['L-BFGS-B']:>7.2f}{line['solve'] / line['driven']:>7.2f}"
    )
    said += f"{line['read'] * 1e3:>9.3f}{line['peak / input']:>7.1f}{line['gap']:>9.0e}{line['kkt']:>9.0e}"
    for name in ("L-BFGS-B", "driven"):
        said += f"{line[f'{name} error']:>9.0e}{line[f'{name} miss']:>9.0e}"
    for other in ("trust-constr", "CLARABEL", "SCS"):
        said += f"{line[other] * 1e3:>10.0f}" if other in line else ""
    return said


HEAD = (
    f"{'':11}{'n':>9}{'m':>4}{'':7}{'solve':>10}{'first':>10}{'L-BFGS-B':>10}{'driven':>10}{'ratio':>7}"
    f"{'driven':>7}{'read':>9}{'peak':>7}{'gap':>9}{'miss':>9}{'theirs':>9}{'miss':>9}{'driven':>9}{'miss':>9}"
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
    parser.add_argument("--large", help="a number of draws: wall seconds of one solve of each kind, instead")
    parser.add_argument("--file", help="the same from a file in single precision, in --folder")
    parser.add_argument("--folder", type=Path, help="where the file goes")
    parser.add_argument("--workers", type=int, default=1, help="threads, for --large and --file")
    parser.add_argument("--json", type=Path, help="the figures as JSON")
    given = parser.parse_args()
    print(machine())
    figures: list[dict[str, Any]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if given.levels:
            figures = beyond(given.levels)
        elif given.large or given.file:
            size = int(float(given.large or given.file))
            figures = large(size, int(given.m), given.workers, given.folder if given.file else None)
        else:
            print(HEAD)
            for n in given.sizes.split(","):
                for m in given.m.split(","):
                    figures += compared(int(float(n)), int(m), given.draws, not given.no_cones)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1) + "\n")
