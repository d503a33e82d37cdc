"""Standard errors by the delta method, for answers that rest on draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from duality.dual_protocol import Dual
from duality.exponential_dual import ExponentialDual
from duality.mixture_dual import MixtureDual
from duality.newton import Climb
from duality.problems import Problem
from duality.pulls import PullSums, added_up
from duality.ratios import LogRatios
from duality.shards import shared, total
from duality.tensor_mixture import TensorMixture
from duality.tensor_tilt import TensorTilt
from duality.two_stage import influence, levels_stderr


@dataclass(frozen=True)
class Uncertainty:
    """Standard errors of an answer from draws.

    Attributes:
        multipliers: `(m,)`.
        levels: `(m,)`, of the levels that the target has under q itself, not under the draws of it.
        excess: what maximising over the multipliers adds to the value on average, to leading order, nats.
    """

    multipliers: np.ndarray
    levels: np.ndarray
    excess: float


@dataclass(frozen=True)
class Reliance:
    """What an answer from draws rests on.

    Attributes:
        effective: the smallest, over the active constraints and the target itself, of the numbers of draws of equal
            influence that would carry the same information.
        value: standard error of the optimal value, nats.
    """

    effective: float
    value: float


def reliance(ratios: LogRatios, climb: Climb, sample_size: float) -> Reliance:
    """`effective` and `value` of `delta_method`, in one pass; sample_size: 1/sum p²."""
    sums, n = _pull_sums(climb.dual, climb.x, ratios, products=False)
    sizes, squares = sums.sizes[climb.active], sums.squares[climb.active]
    equal = np.where(squares > 0, sizes**2 / np.where(squares > 0, squares, 1.0), 0.0)
    return Reliance(min(sample_size, float(equal.min(initial=np.inf))), sums.deviation(n) / float(np.sqrt(n)))


def _pull_sums(dual: Dual, x: np.ndarray, ratios: LogRatios, products: bool) -> tuple[PullSums, int]:
    """The sums over draws, or groups of them, and how many there are."""
    if not ratios.grouped and isinstance(dual, (ExponentialDual, MixtureDual)):
        if isinstance(dual, (TensorTilt, TensorMixture)):
            return dual.pull_sums(x), int(total(ratios.partition.order.size))
        kind = ExponentialDual if isinstance(dual, ExponentialDual) else MixtureDual
        if type(dual).influence is kind.influence:
            n = ratios.partition.order.size
            return added_up(dual.pulls(x), n, dual.m, products), int(total(n))
    pull, conditions = influence(dual, x, ratios)
    columns = conditions.T
    return added_up(lambda part: (pull[part], columns[:, part]), pull.size, dual.m, products), pull.size


def delta_method(problem: Problem, ratios: LogRatios, climb: Climb, log_weights: np.ndarray) -> Uncertainty:
    """stderr(lam) = sqrt(diag(J H⁻¹ S H⁻¹ Jᵀ)/n), stderr(V) = sd(pull)/sqrt(n), stderr(level_i) = sd(psi_i)/sqrt(n).

    Over n draws the active multipliers solve stationarity conditions that are means of `conditions_j`, with
    covariance S and derivative -H (the curvature), so that they scatter as H⁻¹ times that mean; J carries the
    coordinates of the climb to multipliers. The value is a maximum, so by the envelope theorem it moves by the mean of
    `pull_j` alone. Constraints with a multiplier of zero are taken to keep it. Where duplicated constraints make H
    singular, the pseudo-inverse gives the errors of the combination that is determined.

    A level of the tilt at *given* multipliers is off, on the draws, by the mean of psi_ij (`Problem.level_influence`).
    The multipliers that were solved for differ from any given ones by 1/sqrt(n), which changes that mean by 1/n: to
    first order the solved target's level under q is what the draws say, with that error, active or not.

    Args:
        problem: for J and psi.
        ratios: the draws, and whether they, or groups of them, are the independent units.
        climb: the maximiser on them.
        log_weights: `(n,)` log masses of the target.
    """
    levels = np.full(climb.x.size, np.nan) if shared() else levels_stderr(problem, ratios, log_weights)
    dual, x, active, curvature = climb.dual, climb.x, climb.active, climb.at.curvature
    errors, excess = np.zeros(x.size), 0.0
    if active.any():
        sums, n = _pull_sums(dual, x, ratios, products=True)
        inverse = np.linalg.pinv(curvature[np.ix_(active, active)], rcond=1e-12, hermitian=True)
        jacobian = problem.jacobian(dual.to_natural(x)) * (
            dual.to_natural(np.ones(x.size)) - dual.to_natural(np.zeros(x.size))
        )
        carry = jacobian[np.ix_(active, active)] @ inverse
        covariance = carry @ sums.products[np.ix_(active, active)] @ carry.T / n**2
        errors[active] = np.sqrt(np.diagonal(covariance))
        # The maximum of a function that is off by h·(lam - lam*) exceeds the value at lam* by h·H⁻¹h/2.
        excess = -0.5 * float((dual.hessian(x)[np.ix_(active, active)] * covariance).sum())
    return Uncertainty(errors, levels, excess)


#: Entries of a table, below which the dual function is kept for standard errors; above, it is made again for them.
SMALL = 1_000_000


def later(problem: Problem, ratios: LogRatios, climb: Climb, log_weights: np.ndarray) -> Callable[[], Uncertainty]:
    """`delta_method`, for when it is asked for; until then little more than the ratios is held on to."""
    ratios = ratios.remembering()  # with nothing remembered
    at_origin = not climb.dual.lower.any()
    if ratios.grouped or shared() or not at_origin or ratios.n * climb.dual.m <= SMALL:
        return lambda: delta_method(problem, ratios, climb, log_weights)
    natural, rest = climb.dual.to_natural(climb.x), (climb.active, climb.pressure, climb.iterations)

    def again() -> Uncertainty:
        known = ratios.remembering()
        dual = problem.dual(known)
        x = dual.from_natural(natural)
        return delta_method(problem, known, Climb(dual, x, dual.evaluate(x), *rest, False), log_weights)

    return again
