"""Theorems about many constraints at once, the shape of the dual function, and the independent reference."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

import duality as du
from duality.primal_dual import Ascent, ExactPlayer, PrimalDual
from toy.dual import dual_value
from toy.mixtures import Array
from toy.verification import instances
from toy.verification.table import levels_of, theorem, with_levels
from toy.verification.theorems import certificate

MOST = 32


@theorem(
    "many constraints",
    "zero gap with 4 to 32 constraints, collinear, repeated and idle ones among them",
    1e-10,
    every=5,
)
def many_constraints(generator: np.random.Generator) -> float:
    case = instances.instance(generator, int(4 * (MOST / 4) ** generator.random()))
    if generator.random() < 0.3:
        case = repeated(case, generator)
    return certificate(case)


def repeated(case: instances.Instance, generator: np.random.Generator) -> instances.Instance:
    """Some constraints stated twice, up to 32 in all; the second statement asks for the same or for less.

    The optimum stays: the value cannot fall when constraints are added, and the old target meets them.
    """
    m = len(case.multipliers)
    extra = generator.choice(m, size=min(m, MOST - m), replace=False)
    if extra.size == 0:
        return case
    columns = np.append(np.arange(m), extra)
    ease = np.where(generator.random(extra.size) < 0.5, 0.0, 0.2) * np.abs(case.problem.levels[extra])
    levels = np.append(case.problem.levels, case.problem.levels[extra] - case.problem.direction * ease)
    given = case.ratios
    ratios = du.LogRatios(
        given.values[:, columns],
        given.log_weights,
        None if given.log_densities is None else given.log_densities[:, columns],
        None if given.priors is None else given.priors[columns],
    )
    multipliers = np.append(case.multipliers, np.zeros(extra.size))
    problem: du.Problem
    if isinstance(case.problem, du.Likelihood):
        priors = None if case.problem.priors is None else case.problem.priors[columns]
        problem = du.Likelihood(levels, kind=case.problem.kind, priors=priors)
    else:
        problem = with_levels(case.problem, levels)
    return case._replace(problem=problem, ratios=ratios, multipliers=multipliers)


# 1e-7: the least levels come from a linear program, whose solver stops at that feasibility tolerance.
@theorem("least levels", "levels that conflict are refused with the least that can be had jointly", 1e-7, every=10)
def least_levels(generator: np.random.Generator) -> float:
    q = generator.dirichlet(np.full(31, 2.0))
    table = generator.normal(size=(31, 2))
    own, lowest = q @ table, table.min(axis=0)
    # Each level alone can be had; as both come near their minima, which lie on different nodes, they cannot be jointly.
    levels, share = own, 0.0
    for step in 0.5 ** np.arange(1.0, 12.0):
        levels = lowest + step * (own - lowest)
        share = _least_share(table, levels, own)
        if share > 0.02:
            break
    else:
        return 0.0  # one node is least for both: no levels conflict
    ratios = du.LogRatios(table, np.log(q))
    scale = 1 + float(np.abs(table).max())
    try:
        du.solve(du.Likelihood(levels, kind="log-ratio"), ratios)
    except du.InfeasibleError as error:
        exact = levels + share * (own - levels)
        just_above = exact + 0.01 * (own - exact)
        found = du.solve(du.Likelihood(just_above, kind="log-ratio"), ratios)
        return max(float(np.abs(error.least - exact).max()), float(-found.slack.min())) / scale
    return 1.0


def _least_share(table: Array, levels: Array, own: Array) -> float:
    """The smallest s >= 0 with E_p[l] <= b + s (e - b) for some p, over all pairs of nodes (two suffice for m = 2)."""
    excess = (table - levels) / (own - levels)  # max_i of this, at p, is the share that p needs
    one, two = excess[:, None, :], excess[None, :, :]
    # On the segment t one + (1-t) two the larger of two lines is least at an end or where they cross.
    slope = one - two
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = (two[..., 1] - two[..., 0]) / (slope[..., 0] - slope[..., 1])
    t = np.clip(np.where(np.isfinite(crossing), crossing, 0.0), 0.0, 1.0)[..., None]
    return max(float((t * one + (1 - t) * two).max(axis=-1).min()), 0.0)


# 1e-5: central differences of the value at steps of 1e-5 of lam lose ten digits and more.
@theorem("gradient", "dg/dlam_i is what the tilt misses of level i, and g is concave: against differences", 1e-5)
def gradient(generator: np.random.Generator) -> float:
    case = instances.instance(generator)
    lam = case.multipliers * generator.uniform(0.5, 0.95)
    there = du.dual_function(case.problem, case.ratios, lam)
    active = np.flatnonzero(lam > 0)
    error = abs(there.value - dual_value(case.problem, case.ratios, lam)) / (1 + abs(there.value))
    steps = 1e-4 * lam[active]
    for i, step in zip(active, steps, strict=True):
        up, down = lam.copy(), lam.copy()
        up[i] += step
        down[i] -= step
        rise = dual_value(case.problem, case.ratios, up) - dual_value(case.problem, case.ratios, down)
        scale = step * (1 + abs(there.gradient[i])) + 1e-9 * (1 + abs(there.value))
        error = max(error, abs(rise / 2 - step * there.gradient[i]) / scale)
    bent = float(np.linalg.eigvalsh(there.hessian).max()) / float(np.abs(there.hessian).max())
    return max(error, bent)


# Below the solution the dual slope falls, so the rate 1/h with h the larger curvature of the two ends never overshoots,
# and where h varies by a factor of c between them the miss shrinks by 1 - 1/c or better a round.
@theorem(
    "alternation", "lam <- [lam + rate miss]_+ with an exact player ends at the multipliers of the dual", 1e-6, every=10
)
def alternation(generator: np.random.Generator) -> float:
    made = instances.toy(generator, 1)
    case = instances.KINDS[int(generator.integers(5))](generator, made.ratios)
    start = float(generator.uniform(0.9, 0.99)) * case.multipliers
    bends = [
        -float(du.dual_function(case.problem, case.ratios, lam).hessian[0, 0]) for lam in (start, case.multipliers)
    ]
    player = ExactPlayer(case.problem, case.ratios)
    path = PrimalDual(case.problem, player, Ascent(1 / max(bends)), start).run(60)
    return float(abs(path.multipliers[-1, 0] / case.multipliers[0] - 1))


if find_spec("cvxpy") is not None:
    # 1e-5: the interior point method gives about eight digits, but where it gives up the reference accepts constraints
    # met to 1e-7, which multipliers of up to a hundred turn into 1e-5 of the value (seen: 4e-7). Ratios of some nats on
    # nodes that all have mass, and not the lattices above: where q is 1e-40, the cone programs lose more digits than
    # there are to compare.
    @theorem("CVXPY", "the value is that of the independent CVXPY form, on finite spaces", 1e-5, every=50)
    def reference(generator: np.random.Generator) -> float:
        m = int(generator.integers(1, 5))
        log_q = _normalised(generator.normal(size=60))
        log_parts = _normalised(log_q[:, None] + generator.uniform(0.3, 1.5) * generator.normal(size=(60, m)))
        ratios = du.LogRatios(log_parts - log_q[:, None], log_q, log_parts, np.full(m, 0.9 / m))
        kinds: tuple[du.Problem, ...] = (
            du.ReverseKL(np.ones(m)),
            du.ForwardKL(np.ones(m)),
            *(du.Likelihood(np.ones(m), kind=kind) for kind in ("posterior", "density", "log-ratio")),
        )
        blank = kinds[int(generator.integers(len(kinds)))].bind(ratios)
        # What some density reaches, with a little to spare, can be had.
        reached = levels_of(blank, ratios, _normalised(log_q + generator.normal(size=60)))
        problem = with_levels(blank, reached - blank.direction * 0.01 * np.abs(reached))
        given, found = du.reference.solve(problem, ratios), du.solve(problem, ratios)
        return abs(given.value - found.dual) / (1 + abs(given.value))


def _normalised(log_masses: Array) -> Array:
    top = log_masses.max(axis=0)
    return log_masses - top - np.log(np.exp(log_masses - top).sum(axis=0))
