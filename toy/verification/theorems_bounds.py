"""Values bounded from both sides, where many concepts are asked for more than tilts or densities reach.

The lower bound is the dual function at the solver's multipliers, the upper one is what its target proves; both are
computed here from their definitions, so that nothing rests on what the solver says of itself.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import LinearConstraint, linprog, minimize

import duality as du
from duality.newton import MET
from toy.dual import dual_value, log_mean_exp
from toy.mixtures import Array
from toy.solving import Problem
from toy.verification import instances
from toy.verification.table import cost_of, levels_of, theorem, with_levels

MOST = 32
RAISED = 1e-12  # see `forward_bound`
TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def asked(generator: np.random.Generator, blank: Problem, ratios: du.LogRatios) -> Problem:
    """Levels at 1, 1.5, 2 or 4 times what q has, each within a tenth."""
    own = levels_of(blank, ratios, ratios.log_weights)
    times = float(generator.choice([1.0, 1.5, 2.0, 4.0])) * generator.uniform(0.9, 1.1, size=ratios.m)
    return with_levels(blank, np.maximum(own * times, 0.0))


def concepts(generator: np.random.Generator) -> int:
    """2 to 8, and one time in ten up to 32."""
    return int(generator.integers(2, 9)) if generator.random() < 0.9 else int(generator.integers(9, MOST + 1))


def quietly(problem: Problem, ratios: du.LogRatios, start: Array | None = None) -> du.Solution:
    """The solution, without the warning that it rests on few draws: at these levels it may."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return du.solve(problem, ratios) if start is None else du.solve(problem, ratios, start)


def reverse_value(problem: Problem, ratios: du.LogRatios, lam: Array) -> float:
    """g(lam) of RU, also at sum lam = 1, where it is lam·b + min lam·rho."""
    if lam.sum() < 1 - 1e-12:
        return dual_value(problem, ratios, lam)
    lam = lam / lam.sum()
    return float(lam @ problem.levels + (ratios.values @ lam).min())


def reverse_bound(problem: Problem, ratios: du.LogRatios, log_p: Array) -> float:
    """max(KL(p||q), max_i b_i + E_p[rho_i]), at which densities without atoms have all levels: V is no larger."""
    reached = problem.levels + np.exp(log_p) @ ratios.values
    return max(cost_of(problem, ratios, log_p), float(reached.max()))


def forward_bound(problem: Problem, ratios: du.LogRatios, log_p: Array) -> float:
    """KL(q||p) and what the missing levels cost on null sets: min q·d with sum_j q_ij d_j >= missing, d >= 0.

    p is raised to 1e-12 q first: what lies deeper is bought at the same price, and rounding may have made it too deep.
    """
    log_p = np.maximum(log_p, ratios.log_weights + np.log(RAISED))
    log_p = log_p - log_mean_exp(log_p, np.zeros(len(log_p)))
    missing = problem.levels - levels_of(problem, ratios, log_p)
    size = np.exp(ratios.values.max(axis=0))
    rows, wanted = np.exp(ratios.values) / size, missing / size
    found = linprog(np.ones(ratios.n), A_ub=-rows.T, b_ub=-wanted, bounds=(0, None), options=TIGHT)
    # What the program leaves is bought at the node where the column is 1, so that the bound is one to the last digit.
    short = np.maximum(wanted - np.maximum(found.x, 0) @ rows, 0)
    return cost_of(problem, ratios, log_p) + float(np.maximum(found.x, 0).sum() + short.sum())


def apart(problem: Problem, found: du.Solution, lower: float, upper: float) -> float:
    """How far the bounds, and the solver's figures, are from each other, relative; 1 where it does not vouch for it."""
    if found.status is du.Status.INEXACT:
        return 1.0
    ends = np.array([lower, upper, found.dual, found.bound])
    return float(ends.max() - ends.min()) / (1 + abs(lower))


# 1e-7: what is promised of a value. Rounding leaves 1e-11, the linear program of the other row 1e-10 of its data.
@theorem(
    "RU bounded", "many concepts at 1 to 4 times their levels: the target's bound is the dual value", 1e-7, every=5
)
def reverse_bounded(generator: np.random.Generator) -> float:
    ratios = instances.drawn(generator, concepts(generator), int(generator.choice([200, 500, 1000, 2000])))
    problem = asked(generator, du.ReverseKL(np.ones(ratios.m)), ratios)
    found = quietly(problem, ratios)
    log_p = np.asarray(found.log_weights)
    lower = reverse_value(problem, ratios, np.asarray(found.multipliers))
    return apart(problem, found, lower, reverse_bound(problem, ratios, log_p))


@theorem(
    "FU bounded", "many concepts at 1 to 4 times their levels: the target's bound is the dual value", 1e-7, every=10
)
def forward_bounded(generator: np.random.Generator) -> float:
    ratios = instances.drawn(generator, concepts(generator), int(generator.choice([200, 500, 1000])))
    problem = asked(generator, du.ForwardKL(np.ones(ratios.m)), ratios)
    found = quietly(problem, ratios)
    lam = np.asarray(found.multipliers)
    lam = lam * min(1.0, (1 - 1e-15) / max(float((np.exp(ratios.values) @ lam).max()), 1e-300))
    return apart(
        problem, found, dual_value(problem, ratios, lam), forward_bound(problem, ratios, np.asarray(found.log_weights))
    )


@theorem(
    "independent optimiser", "neither SLSQP on g nor a linear program at L = 1 finds a larger value", 1e-7, every=10
)
def no_optimiser_does_better(generator: np.random.Generator) -> float:
    ratios = instances.drawn(generator, int(generator.integers(2, 7)), 150)
    reverse = bool(generator.random() < 0.5)
    blank: Problem = du.ReverseKL(np.ones(ratios.m)) if reverse else du.ForwardKL(np.ones(ratios.m))
    problem = asked(generator, blank, ratios)
    rows = np.ones((1, ratios.m)) if reverse else np.exp(ratios.values)
    largest = 1 - 1e-6 if reverse else 1 - 1e-9
    best = -np.inf
    for _ in range(2):
        start = generator.dirichlet(np.ones(ratios.m)) * float(generator.uniform(0.1, 0.9))
        start = start / (rows @ start).max() * float(generator.uniform(0.1, 0.9))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of clipped values: its answer is judged by g, not by its word
            given = minimize(
                lambda lam: -_inside(problem, ratios, lam),
                start,
                jac=lambda lam: -_slope(problem, ratios, lam),
                bounds=[(0, 1)] * ratios.m,
                constraints=LinearConstraint(rows, ub=largest),
                method="SLSQP",
                options={"maxiter": 200},
            )
        lam = np.clip(given.x, 0, None)
        lam = lam * min(1.0, largest / max(float((rows @ lam).max()), 1e-300))
        best = max(best, dual_value(problem, ratios, lam))
    if reverse:
        best = max(best, _at_one(problem, ratios))
    return max(best - quietly(problem, ratios).dual, 0.0) / (1 + abs(best))


def _inside(problem: Problem, ratios: du.LogRatios, lam: Array) -> float:
    value = dual_value(problem, ratios, np.clip(lam, 0, None))
    return value if np.isfinite(value) else -1e6


def _slope(problem: Problem, ratios: du.LogRatios, lam: Array) -> Array:
    gradient = du.dual_function(problem, ratios, np.clip(lam, 0, None)).gradient
    return np.where(np.isfinite(gradient), gradient, 0.0)


def _at_one(problem: Problem, ratios: du.LogRatios) -> float:
    """max lam·b + min_j lam·rho_j over the simplex, all nodes in one program; the value of its lam, not its word."""
    table = ratios.values + problem.levels
    columns = np.hstack([-table, np.ones((ratios.n, 1))])
    found = linprog(
        np.append(np.zeros(ratios.m), -1.0),
        A_ub=columns,
        b_ub=np.zeros(ratios.n),
        A_eq=np.append(np.ones(ratios.m), 0.0)[None, :],
        b_eq=[1.0],
        bounds=[(0, None)] * ratios.m + [(None, None)],
    )
    lam = np.clip(found.x[:-1], 0, None)
    return reverse_value(problem, ratios, lam / lam.sum())


def posed(generator: np.random.Generator) -> tuple[Problem, du.LogRatios]:
    """RU or FU with 2 to 8 concepts on 300 draws."""
    ratios = instances.drawn(generator, int(generator.integers(2, 9)), 300)
    blank: Problem = (du.ReverseKL, du.ForwardKL)[int(generator.integers(2))](np.ones(ratios.m))
    return asked(generator, blank, ratios), ratios


ATTAINED_OR_NOT = {du.Status.OPTIMAL, du.Status.NOT_ATTAINED}


def _unresolved(problem: Problem, ratios: du.LogRatios, lam: Array) -> bool:
    """Whether rounding decides if FU's value is attained, since it decides how small the factor u = 1 - lam·r is.

    A node of q_i's mass s with factor u adds s log(1/u) to KL(q_i‖p). u is a sum of m + 1 numbers up to 1, known to
    (m + 1) eps: where s (m + 1) eps/u is more than what counts as a miss, one multiplier has targets that meet the
    level and targets that do not.
    """
    if not isinstance(problem, du.ForwardKL):
        return False
    u = np.maximum(1.0 - np.exp(ratios.values) @ lam, np.finfo(float).tiny)
    share = np.exp(ratios.log_weights[:, None] + ratios.values)
    return bool((share * (ratios.m + 1) * np.finfo(float).eps / u[:, None]).max() > MET)


@theorem("any start", "a start, or a walk along levels, changes the way and not the answer", 1e-9, every=20)
def any_start(generator: np.random.Generator) -> float:
    problem, ratios = posed(generator)
    cold = quietly(problem, ratios)
    start = generator.dirichlet(np.ones(ratios.m)) * generator.uniform(0, 0.99)
    if isinstance(problem, du.ForwardKL):
        start = start * np.exp(-ratios.values.max(axis=0))
    warm = quietly(problem, ratios, start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        walked = du.frontier(problem, ratios, problem.levels * np.array([0.7, 1.2, 0.95, 1.0])[:, None])[-1]
    found = {warm.status, walked.status, cold.status}
    if len(found) > 1 and not (found == ATTAINED_OR_NOT and _unresolved(problem, ratios, cold.multipliers)):
        return 1.0
    return max(abs(warm.dual - cold.dual), abs(walked.dual - cold.dual)) / (1 + abs(cold.dual))


# 1e-8: c is moved by a relative 1e-6 to both sides of V, a hundred times what either solve may be off by.
@theorem("RU by cost", "V_RU(b) = min{c : V_LU(c - b) <= c}: LU at levels c - b, on both sides of c = V", 1e-8, every=5)
def reverse_by_cost(generator: np.random.Generator) -> float:
    ratios = instances.drawn(generator, int(generator.integers(1, 7)), int(generator.choice([100, 300])))
    problem = asked(generator, du.ReverseKL(np.ones(ratios.m)), ratios)
    value = quietly(problem, ratios).dual
    step = 1e-6 * (1 + value)
    above = quietly(du.Likelihood(value + step - problem.levels, kind="log-ratio"), ratios).dual
    error = max(above - (value + step), 0.0) / (1 + value)
    if value - step <= 0:
        return error
    try:
        below = quietly(du.Likelihood(value - step - problem.levels, kind="log-ratio"), ratios).dual
    except du.InfeasibleError:
        return error
    return max(error, (value - step - below) / (1 + value))


# 1e-8: as for the other Gaussians; the target is taken at a cost 1e-12 above its threshold.
@theorem(
    "RU opposite Gaussians", "sum w_i mu_i = 0: lam* = w, V = w·(b - |mu|²/2), the target a shifted q", 1e-8, every=5
)
def opposite_gaussians(generator: np.random.Generator) -> float:
    d = int(generator.integers(1, 3))
    weights = generator.dirichlet(np.full(d + 1, 3.0)) * 0.7 + 0.3 / (d + 1)
    means = generator.normal(size=(d + 1, d)) * 0.5
    means[-1] = -(weights[:-1] @ means[:-1]) / weights[-1]
    half = 0.5 * np.square(means).sum(axis=1)
    levels = half + generator.uniform(0.0, 0.2, size=d + 1)
    # The most even target with E_p[rho_i] = c - b_i is N(x, I) with mu_i·x = c - b_i + |mu_i|²/2, and costs |x|²/2.
    value = float(weights @ (levels - half))
    centre = np.linalg.lstsq(means, value - levels + half, rcond=None)[0]
    cost = 0.5 * float(centre @ centre)
    # Farther levels move V and leave the target: as far as it takes for the target to cost less than V.
    more = max(cost - value, 0.0) + float(generator.uniform(0.1, 4.0))
    line = np.linspace(-12, 12, 241 if d == 1 else 61)  # seven deviations beyond the farthest target that is looked at
    x = np.stack(np.meshgrid(*[line] * d, indexing="ij"), axis=-1).reshape(-1, d)
    log_weights = -0.5 * np.square(x).sum(axis=1)
    log_weights -= log_mean_exp(log_weights, np.zeros(len(x)))
    if float(np.abs(centre).max()) > 5 or np.linalg.cond(means.T * weights) > 1e8:
        return 0.0  # the lattice would end before the target, or the concepts lie on a line
    found = quietly(du.ReverseKL(levels + more), du.LogRatios(x @ means.T - half, log_weights))
    if found.status is not du.Status.NOT_ATTAINED:
        return 1.0
    reached = cost - (value - levels)
    # The target is the one at a cost up to e = 1e-12 (of V and the levels) above the threshold: mu_i·x may exceed what
    # it is in the limit by e, and, as sum w_i mu_i = 0, fall short of it by e/w_i. The centre moves by no more than the
    # length of these over the least singular value of the means; cost and levels by |centre| times that.
    above = 1e-12 * (1 + value + more + float(levels.max() + more))
    shift = above * float(np.linalg.norm(1 / weights)) / float(np.linalg.svd(means, compute_uv=False)[-1])
    moved = shift * (1 + float(np.linalg.norm(centre)))
    off = max(abs(found.primal - cost) / (1 + cost), float(np.abs(found.levels - reached).max()))
    return max(
        abs(found.dual - value - more) / (1 + value + more),
        float(np.abs(found.multipliers - weights).max()) if np.linalg.matrix_rank(means, 0.05) == d else 0.0,
        max(off - moved, 0.0),
        found.kkt_residual,
    )
