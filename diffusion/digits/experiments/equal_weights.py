r"""Reverse KL levels of three digits: solved multipliers beside equal weights, at several scales of the weight.

::

    solved    min KL(p | q)   s. t.   KL(p | q_i) >= b_i
    equal     lam_i = c for all i,    c = each of some multiples of the solved mean, and the least that keeps all levels

At the target, by the ratios of the pipeline's own samples; no network is fitted. Of every row: the levels reached, by
concept, its cost, and the effective number of samples behind it, n_eff = (sum w)^2/sum w^2. That of the least equal
weight less the solved one's is bootstrapped over the samples, both solved anew on each copy, so that their common noise
drops out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

import duality as du
from diffusion.api import open_at_law
from diffusion.digits.prompts import prompts_for
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.ratios.estimate import estimate_ratios
from diffusion.runtime.cache import Cache, default_folder
from diffusion.tasks.config import Config, RatiosConfig
from diffusion.tasks.levels import levels, resolved

SCALES = (0.25, 0.5, 1.0, 2.0)
EDGE = 1e-6  # of the domain's end, where equal weights add up to one


@dataclass(frozen=True)
class Row:
    """What some multipliers reach: levels (m,), cost, effective number of samples."""

    name: str
    multipliers: np.ndarray
    levels: np.ndarray
    cost: float
    effective: float

    def kept(self, asked: np.ndarray) -> int:
        """How many levels are kept, to within the solver's tolerance."""
        return int((self.levels >= asked * (1 - 1e-6)).sum())


def row(name: str, problem: du.ReverseKL, ratios: du.LogRatios, multipliers: np.ndarray) -> Row:
    """At the given multipliers (m,)."""
    ((cost, reached),) = du.fixed_weights(problem, ratios, [multipliers])
    log_weights = np.asarray(problem.log_weight(ratios.values, multipliers), dtype=np.float64)
    weights = np.exp(log_weights - log_weights.max())
    return Row(name, multipliers, reached, cost, float(weights.sum() ** 2 / (weights**2).sum()))


def least_equal(problem: du.ReverseKL, ratios: du.LogRatios) -> float | None:
    """The least equal weight at which every level is kept; None where none inside the domain keeps them."""

    def worst(weight: float) -> float:
        ((_, reached),) = du.fixed_weights(problem, ratios, [weight])
        return float((reached / problem.levels).min()) - 1

    m, last = len(problem.levels), (1 - EDGE) / len(problem.levels)
    # The worst level need not rise with the weight all along: the first crossing on a grid, made exact.
    grid = np.linspace(0, last, 64 * m)
    signs = np.array([worst(weight) for weight in grid])
    if signs[0] >= 0:
        return 0.0
    above = np.flatnonzero(signs >= 0)
    return None if not len(above) else float(brentq(worst, grid[above[0] - 1], grid[above[0]], xtol=1e-12))


def compared(problem: du.ReverseKL, ratios: du.LogRatios, scales: Sequence[float] = SCALES) -> list[Row]:
    """The solved row, equal ones at multiples of the solved mean inside the domain, and the least that keeps all."""
    solution = du.solve(problem, ratios)
    found, m = [row("solved", problem, ratios, solution.multipliers)], len(problem.levels)
    for scale in scales:
        weight = scale * float(solution.multipliers.mean())
        if weight * m < 1 - EDGE:
            found.append(row(f"equal, {scale:g} x the solved mean", problem, ratios, np.full(m, weight)))
    smallest = least_equal(problem, ratios)
    if smallest is not None:
        found.append(row("equal, the least that keeps all", problem, ratios, np.full(m, smallest)))
    return found


def dearer(problem: du.ReverseKL, values: np.ndarray, copies: int, seed: int) -> np.ndarray:
    """(copies,) cost of the least equal weight less that of the solved one, on samples of the samples; NaN where no
    equal weight keeps the levels."""
    generator, out = np.random.default_rng(seed), np.full(copies, np.nan)
    for k in range(copies):
        ratios = du.LogRatios(values[generator.integers(len(values), size=len(values))])
        weight = least_equal(problem, ratios)
        if weight is not None:
            ((cost, _),) = du.fixed_weights(problem, ratios, [weight])
            out[k] = cost - du.solve(problem, ratios).primal
    return out


def lines(rows: Sequence[Row], asked: np.ndarray, names: Sequence[str]) -> list[str]:
    """A table."""
    head = f"{'':<34}" + "".join(f"{name[-12:]:>14}" for name in names) + f"{'cost':>10}{'kept':>6}{'n_eff':>8}"
    out = [head, f"{'asked':<34}" + "".join(f"{level:>14.3f}" for level in asked)]
    for each in rows:
        numbers = "".join(f"{level:>14.3f}" for level in each.levels)
        out.append(f"{each.name:<34}{numbers}{each.cost:>10.4f}{each.kept(asked):>6}{each.effective:>8.0f}")
        out.append(f"{'':<34}" + "".join(f"{lam:>14.4f}" for lam in each.multipliers) + "  multipliers")
    return out


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """What both studies are asked: concepts, levels, samples, a seed."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--concept", nargs="+", default=[f"a handwritten {word}" for word in ("seven", "three", "one")])
    parser.add_argument("--level", nargs="+", default=["1.1x", "1.2x", "1.3x"], help="as for --level of unlearn")
    parser.add_argument("--samples", type=int, default=2000, help="of the empty prompt, to solve on")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def budget_of(given: argparse.Namespace) -> RatiosConfig:
    """Of the survey."""
    return RatiosConfig(
        num_samples=given.samples, concept_samples=240, retained_samples=400, elbo_samples=10, seed=given.seed
    )


def problem_on(base: Denoiser, config: Config, given: argparse.Namespace) -> tuple[du.ReverseKL, du.LogRatios]:
    """The problem in numbers, and the ratios of the pipeline's own samples."""
    cache = Cache(default_folder(), fingerprint(base.pipeline))
    ratios = estimate_ratios(base, prompts_for(given.concept), config.ratios, config.sampling, cache).ratios
    problem = resolved(levels(du.ReverseKL, given.level), ratios)
    assert isinstance(problem, du.ReverseKL)
    return problem, ratios


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = parser_of(__doc__)
    parser.add_argument("--copies", type=int, default=50, help="of the bootstrap")
    given = parser.parse_args(words)
    base, config = open_at_law("digits", Config(ratios=budget_of(given)), of_ratios=True)
    problem, ratios = problem_on(base, config, given)
    rows = compared(problem, ratios)
    print("\n".join(lines(rows, problem.levels, given.concept)))
    found = dearer(problem, np.asarray(ratios.values), given.copies, given.seed)
    some = found[np.isfinite(found)]
    if len(some) > 1:
        more = f"{rows[-1].cost - rows[0].cost:.4f} ± {some.std(ddof=1):.4f} nats more"
        counted = f"{(some > 0).sum()} of {len(some)} bootstrap copies ({given.copies - len(some)} have none)"
        print(f"the least equal weight that keeps all costs {more}, in {counted}")


if __name__ == "__main__":
    main()
