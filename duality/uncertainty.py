"""Standard errors by the delta method, for answers that rest on draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.newton import Climb
from duality.problems import Problem
from duality.ratios import LogRatios
from duality.two_stage import influence, levels_stderr


@dataclass(frozen=True)
class Uncertainty:
    """Standard errors of an answer from draws.

    Attributes:
        multipliers: `(m,)`.
        levels: `(m,)`, of the levels that the target has under q itself, not under the draws of it.
        value: of the optimal value, nats.
        excess: what maximising over the multipliers adds to the value on average, to leading order, nats.
        effective: the smallest, over the active constraints and the target itself, of the numbers of draws of equal
            influence that would carry the same information.
    """

    multipliers: np.ndarray
    levels: np.ndarray
    value: float
    excess: float
    effective: float


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
    masses = np.exp(log_weights)
    sample_size = 1.0 / float(masses @ masses)
    levels = levels_stderr(problem, ratios, log_weights)
    dual, x, active, curvature = climb.dual, climb.x, climb.active, climb.at.curvature
    pull, conditions = influence(dual, x, ratios)
    n = pull.size
    errors = np.zeros(x.size)
    effective, excess = sample_size, 0.0
    if active.any():
        used = conditions[:, active]
        magnitude = np.abs(used)
        squares = (used**2).sum(axis=0)
        equal = np.where(squares > 0, magnitude.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0), 0.0)
        effective = min(effective, float(equal.min()))
        inverse = np.linalg.pinv(curvature[np.ix_(active, active)], rcond=1e-12, hermitian=True)
        jacobian = problem.jacobian(dual.to_natural(x)) * (
            dual.to_natural(np.ones(x.size)) - dual.to_natural(np.zeros(x.size))
        )
        carry = jacobian[np.ix_(active, active)] @ inverse
        covariance = carry @ (used.T @ used) @ carry.T / n**2
        errors[active] = np.sqrt(np.diagonal(covariance))
        # The maximum of a function that is off by h·(lam - lam*) exceeds the value at lam* by h·H⁻¹h/2.
        excess = -0.5 * float((dual.hessian(x)[np.ix_(active, active)] * covariance).sum())
    return Uncertainty(errors, levels, float(pull.std() / np.sqrt(n)), excess, effective)
