"""`solve`: the one verb. Climb the dual, read off the target, certify it from the target alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from duality._arrays import frozen, stack_level, vector
from duality.answers import Answer, read_climb
from duality.dual_protocol import Dual
from duality.forward_kl import ForwardKL
from duality.grouped_duals import dual_of
from duality.likelihood import Likelihood
from duality.newton import MET, SURE, TARGET, Climb, climb
from duality.passes import workers as threads
from duality.problems import Problem
from duality.ratio_tables import EPS
from duality.ratios import LogRatios
from duality.reverse_kl import ReverseKL
from duality.shards import shared, sharing, total
from duality.solution import (
    FEW_DRAWS,
    FewDrawsWarning,
    InfeasibleError,
    SmallGroupsWarning,
    Solution,
    Status,
    computed_later,
)
from duality.uncertainty import Uncertainty, later, reliance
from duality.warm import Start, at_once, nearby


def solve(problem: Problem, ratios: LogRatios, start: Any = None, *, workers: int = 1) -> Solution:
    """`max_{lam ≥ 0} g(lam)`, and with it the density p closest to q at the separation levels of the problem.

    Args:
        problem: `ReverseKL`, `ForwardKL` or `Likelihood`, with a level for each constraint or one for all.
        ratios: log ratios at quadrature nodes or draws of q.
        start: multipliers `(m,)` to climb from, where near ones are known, say from coarser nodes. The answer does not
            depend on them; outside the dual domain they are not used. Left out, the climb starts from 0, or on many
            nodes from the answer on one in sixteen.
        workers: threads that the nodes of `ReverseKL`, `ForwardKL` and `Likelihood` are shared out to.

    Returns:
        The `Solution`: multipliers, target, cost, levels, and the certificate (gap and KKT residual ≤ 1e-10 on
        quadrature; standard errors on draws).

    Raises:
        ValueError: where problem and ratios do not fit together.
        InfeasibleError: where no density meets the levels (never so for ReverseKL or ForwardKL alone); `.least` says
            what can be had, `.conflict` which constraints cannot be had together.

    Warns:
        FewDrawsWarning: where the answer rests on few draws.
        SmallGroupsWarning: where groups have so few draws that the value is biased by more than its standard error.

    Where the ratios are `LogRatios.shared`, every process calls this, and each has the same answer with log weights of
    its own points. What needs to see all points at once is then left out: the least levels that can be had, targets
    beyond what tilts reach (they end INEXACT, with the lower bound), and standard errors of levels (NaN).

    Source: strong duality for these nonconvex problems, arXiv:2605.30825; docs/theory.
    """
    if workers < 1:
        raise ValueError(f"workers: {workers} given, at least 1 is needed")
    if ratios.shards is not None and type(problem) not in (ReverseKL, ForwardKL, Likelihood):
        raise ValueError(f"problem: {type(problem).__name__} given, but points that are shared out are not for it yet")
    with threads(workers), sharing(ratios.shards):
        return _solve(problem, ratios, start)


def _solve(problem: Problem, ratios: LogRatios, start: Any) -> Solution:
    bound = problem.bind(ratios)
    ratios = ratios.remembering()
    if bound.out_of_reach(ratios):
        raise _infeasible(bound, ratios)
    dual = dual_of(bound, ratios)
    first = None
    if start is not None:
        lam = vector("start", start)
        if lam.size != dual.m:
            raise ValueError(f"start: {lam.size} multipliers given for {dual.m} constraints")
        if bound.domain(lam):
            first = Start(np.maximum(dual.from_natural(np.asarray(bound.natural(lam))), dual.lower))
    else:
        first = nearby(bound, ratios, dual)
    return finish(bound, ratios, optimise(bound, ratios, dual, first))


def optimise(
    problem: Problem, ratios: LogRatios, dual: Dual, first: Start | None = None, tolerance: float = TARGET
) -> Answer:
    """The maximum of the dual function, from `first`, and from 0 where the way from `first` does not lead to it.

    tolerance: the relative miss of the levels at which a climb may stop.
    """
    units = problem.units(ratios)
    origin = np.zeros(dual.m)
    found = at_once(dual, units, tolerance, first)
    if found is None and first is not None and inside(dual, first.x):
        found = climb(dual, first.x, units, tolerance, problem.patience, first.bend)
    # What a start leads to is used where it is the maximum beyond doubt, so that it never changes the answer, and where
    # q itself is none: g is concave, so g(lam) ≤ sum lam_i (its miss at 0), which these are larger than.
    if found is None or not found.stationary(units, tolerance) or not _risen(problem, found, tolerance * units):
        found = climb(dual, origin, units, tolerance, problem.patience)
    if found.exhausted:
        return read_climb(found)
    if shared():  # beyond what tilts reach, all nodes would have to be seen at once
        return Problem.answer(problem, ratios, dual, found, tolerance)
    return problem.answer(ratios, dual, found, tolerance)


def _risen(problem: Problem, found: Climb, allowed: np.ndarray) -> bool:
    """Whether the value shows that q misses a level by more than what is allowed `(m,)`."""
    multipliers = problem.multipliers(found.dual.to_natural(found.x))
    return found.at.value > float(allowed @ np.abs(multipliers)) + found.at.noise


def _infeasible(problem: Problem, ratios: LogRatios, least: np.ndarray | None = None) -> InfeasibleError:
    if shared():  # nodes of one process say nothing of the least
        return InfeasibleError(problem.levels, np.full(problem.levels.size, np.nan))
    least = problem.least_levels(ratios) if least is None else least
    return InfeasibleError(problem.levels, least, problem.conflict(ratios))


def inside(dual: Dual, x: np.ndarray) -> bool:
    """Whether a climb may start at x `(m,)`, which keeps its lower bounds: in the domain, and no known row broken."""
    rows, limits = dual.rows()
    return bool((rows @ x <= limits).all()) and dual.cut(x) is None


@dataclass(frozen=True)
class DualPoint:
    """The dual function at given multipliers: value (nats), gradient `(m,)` and Hessian `(m, m)` in lam."""

    value: float
    gradient: np.ndarray
    hessian: np.ndarray


def dual_function(problem: Problem, ratios: LogRatios, multipliers: Any) -> DualPoint:
    """g(lam) = min_p cost(p) + sum_i lam_i miss_i(p), miss_i = b_i - level_i (level_i - b_i for Likelihood).

    By weak duality no density that meets the levels costs less, at *any* lam: a certificate that needs no optimality.
    The gradient is miss(p_lam), b_i - KL(p_lam‖q_i) and its like.

    Args:
        problem: one level for each constraint, or one for all.
        ratios: as for `solve`.
        multipliers: lam `(m,)`, or a number for m = 1.

    Returns:
        Value, gradient and Hessian; value -inf and gradient NaN outside the dual domain.
    """
    bound = problem.bind(ratios)
    lam = vector("multipliers", multipliers)
    if lam.size != bound.levels.size:
        raise ValueError(f"multipliers: {lam.size} given for {bound.levels.size} constraints")
    outside = DualPoint(-np.inf, np.full(lam.size, np.nan), np.full((lam.size, lam.size), np.nan))
    if not bound.domain(lam):
        return outside
    dual = dual_of(bound, ratios)
    x = dual.from_natural(np.asarray(bound.natural(lam)))
    at = dual.evaluate(x)
    # A concept that is absent on positive mass has KL(q‖q_i) = inf: any multiplier for it makes Z infinite.
    if not np.isfinite(at.value) or (np.isinf(at.misses) & (lam > 0)).any():
        return outside
    return DualPoint(at.value, at.misses, dual.hessian(x))


def finish(problem: Problem, ratios: LogRatios, answer: Answer, tolerance: float = 0.0) -> Solution:
    """The solution that an answer is, judged by its target alone, or InfeasibleError."""
    found, units = answer.climb, problem.units(ratios)
    met, sure = max(MET, tolerance) * units, max(SURE, tolerance)
    miss = float((np.maximum(found.at.misses, 0.0) / units).max())
    if found.exhausted or (np.isfinite(found.dual.ceiling) and miss > MET):
        # Past the ceiling infeasibility is certain; short of it, a climb that was stopped may only be unfinished.
        least = problem.least_levels(ratios) if not shared() else np.full(units.size, np.nan)
        if found.exhausted or (problem.slack(least) < -MET * units).any():
            raise _infeasible(problem, ratios, least)
    log_weights, lam = answer.log_weights, answer.multipliers
    primal, levels, slack, squares = problem.reached(ratios, log_weights)
    wrong = np.where(answer.active, np.abs(slack), np.maximum(-slack, 0.0))
    if (wrong > met).any() and not shared():
        met = met + problem.resolution(ratios, log_weights)
    bound = primal
    # Levels that are met say little of the value where multipliers are large: bounds apart by more than is promised are
    # not the optimum, and neither is a level missed by more, but for what rounding leaves of it.
    rounded = met - max(MET, tolerance) * units
    apart = abs(primal - answer.value) - float(np.abs(lam) @ rounded)
    if not (wrong > met).any():
        status = Status.OPTIMAL if answer.active.any() else Status.INACTIVE
        if (wrong > sure * units + rounded).any() or not apart <= sure * (1.0 + abs(answer.value)):
            status = Status.INEXACT
    else:
        shown = (Problem.shown if shared() else type(problem).shown)(problem, ratios, log_weights, lam)
        bound = shown.bound
        proved = bound - answer.value <= MET * (1.0 + abs(answer.value)) and not (shown.wrong > met).any()
        status = Status.NOT_ATTAINED if answer.limit and proved else Status.INEXACT
        wrong = shown.wrong if status is Status.NOT_ATTAINED else wrong
    if answer.limit and status is not Status.OPTIMAL and problem.emptied(answer.natural):
        primal, levels = float("nan"), np.full(lam.size, np.nan)
    sample_size = 1.0 / squares
    errors: Callable[[], Uncertainty] | None = None
    primal_stderr, bias = float("nan"), float("nan")
    if ratios.is_draws:
        effective = sample_size
        if answer.smooth:
            rests = reliance(ratios, found, sample_size)
            effective, primal_stderr = rests.effective, rests.value
            errors = later(problem, ratios, found, log_weights)
            if ratios.grouped or shared():
                known = errors()
                errors = lambda: known  # noqa: E731
            if ratios.grouped:
                bias = known.excess + found.dual.log_mean_bias(found.x)  # type: ignore[attr-defined]
        if status is Status.NOT_ATTAINED:  # multipliers are an extreme of the draws: no normal law holds for them
            errors = None
        if effective < FEW_DRAWS:
            warnings.warn(FewDrawsWarning(effective, int(total(ratios.n))), stacklevel=stack_level())
        if ratios.grouped and not bias <= max(primal_stderr, ratios.n * EPS * (1 + abs(answer.value))):
            single = float(ratios.partition.shares[ratios.partition.sizes == 1].sum())
            warnings.warn(SmallGroupsWarning(bias, primal_stderr, single), stacklevel=stack_level())
    unknown = frozen(np.full(lam.size, np.nan))
    solution = Solution(
        problem=problem,
        multipliers=frozen(lam),
        natural=frozen(answer.natural),
        primal=primal,
        dual=answer.value,
        bound=bound,
        levels=frozen(levels),
        status=status,
        log_weights=frozen(log_weights),
        kkt_residual=float((wrong / units).max()),
        effective_sample_size=sample_size,
        multipliers_stderr=unknown,
        levels_stderr=unknown,
        primal_stderr=primal_stderr,
        primal_bias=bias,
        critical_levels=levels if status is Status.NOT_ATTAINED else None,
        iterations=answer.iterations,
    )
    return solution if errors is None else computed_later(solution, errors)
