"""Closed forms: Gaussians with full covariances for ReverseKL and log-ratio Likelihood, disjoint supports for the rest.

Between Gaussians q = N(m_0, S_0) and q_1 = N(m_1, S_1) every tilt q^{1+a} q_1^{-a}/Z is Gaussian as long as ::

    P(a) = (1 + a) S_0⁻¹ - a S_1⁻¹  is positive definite,

so the whole problem reduces to one monotone equation for a, and value, multiplier and target follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import eigh, solve_triangular
from scipy.optimize import brentq

from duality._arrays import to_numpy, vector
from duality.ratios import EPS
from duality.solution import InfeasibleError

# A product of k + 1 matrices rounds entry (i, j) by at most k d eps sqrt(c_ii c_jj), whatever the order of its sums
# (Higham 2002, §3.5, and Cauchy-Schwarz): entries that nearly vanish have no digits of their own. This is k d = 4096.
SYMMETRIC = 4096 * EPS


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, covariance) on R^d.

    Args:
        mean: `(d,)`; a number means d = 1.
        covariance: `(d, d)`, symmetric positive definite; a number v means v times the identity.

    Raises:
        ValueError: for shapes that do not fit, or a covariance that is not symmetric positive definite. Both are judged
            after the coordinates are scaled to unit variance, so that units do not matter.
    """

    mean: np.ndarray
    covariance: np.ndarray

    def __post_init__(self) -> None:
        mean = vector("mean", self.mean)
        covariance = to_numpy("covariance", self.covariance)
        if covariance.ndim == 0:
            covariance = covariance * np.eye(mean.size)
        if covariance.shape != (mean.size, mean.size):
            raise ValueError(f"covariance: shape {covariance.shape} given, a number or {(mean.size,) * 2} is needed")
        variances = np.diagonal(covariance)
        if not np.isfinite(covariance).all() or (variances <= 0).any():
            raise ValueError(f"covariance: not positive definite: finite and variances > 0 are needed, got {variances}")
        scale = np.sqrt(variances)
        correlation = covariance / scale / scale[:, None]
        skew = float(np.abs(correlation - correlation.T).max())
        if skew > SYMMETRIC:
            raise ValueError(
                f"covariance: not symmetric: c_ij and c_ji differ by up to {skew:.3g} of sqrt(c_ii c_jj), more than the"
                f" {SYMMETRIC:.1g} that rounding explains; (c + c.T) / 2 is symmetric"
            )
        least = float(np.linalg.eigvalsh((correlation + correlation.T) / 2)[0])
        # Above d (d + 1) eps Cholesky succeeds in every order of its sums (Demmel; Higham 2002, theorem 10.7); below,
        # whether it does is a matter of the processor.
        if least <= mean.size * (mean.size + 1) * EPS:
            raise ValueError(
                "covariance: not positive definite to working precision"
                f" (least eigenvalue of its correlation matrix: {least:.3g})"
            )
        covariance = (covariance + covariance.T) / 2
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log density at points `(..., d)`, `(...)`."""
        factor = np.linalg.cholesky(self.covariance)
        z = np.linalg.solve(factor, (np.asarray(x) - self.mean)[..., None])[..., 0]
        half_log_det = float(np.log(np.diagonal(factor)).sum())
        return np.asarray(-0.5 * (z**2).sum(axis=-1) - half_log_det - 0.5 * self.mean.size * np.log(2 * np.pi))


def divergence(p: Gaussian, q: Gaussian) -> float:
    """`KL(p‖q) = ( tr(S_q⁻¹ S_p) - d - log det(S_q⁻¹ S_p) + |m_p - m_q|²_{S_q⁻¹} ) / 2`, nats.

    By the generalised eigenvalues k of (S_p, S_q): sum(k - 1 - log k), each term of which is nonnegative.
    """
    k = eigh(p.covariance, q.covariance, eigvals_only=True)
    shift = p.mean - q.mean
    return 0.5 * (float((k - 1 - np.log(k)).sum()) + float(shift @ np.linalg.solve(q.covariance, shift)))


@dataclass(frozen=True, eq=False)
class GaussianSolution:
    """Optimal target, its tilt a, multiplier, value (nats) and level; domain_end is the supremum of a."""

    target: Gaussian
    tilt: float
    multiplier: float
    value: float
    level: float
    domain_end: float


def domain_end(q: Gaussian, q_1: Gaussian) -> float:
    """sup{a : (1 + a) S_0⁻¹ - a S_1⁻¹ > 0} = 1/(k - 1), with k > 1 the largest eigenvalue of S_1⁻¹ against S_0⁻¹.

    inf where q_1 is nowhere narrower than q (k ≤ 1). At a finite end Z(a) turns infinite: the dual domain of ReverseKL
    ends at lam = a/(1 + a) < 1, and as a approaches it the variance of the target, and with it KL(p‖q_1), grows without
    bound. Every level is attained before the end.
    """
    k = float(eigh(q.covariance, q_1.covariance, eigvals_only=True).max())
    return 1.0 / (k - 1.0) if k > 1.0 + _rounding(q_1) else np.inf


def _rounding(g: Gaussian) -> float:
    """By how much generalised eigenvalues near 1 against g's covariance may be off: d eps times its condition.

    The condition is that of the correlations: neither Cholesky nor triangular solves notice the units of coordinates.
    """
    scale = np.sqrt(np.diagonal(g.covariance))
    return 16 * g.mean.size * EPS * float(np.linalg.cond(g.covariance / scale / scale[:, None]))


def tilted(q: Gaussian, q_1: Gaussian, a: float) -> Gaussian:
    """q^{1+a} q_1^{-a} / Z: precision P = (1+a) S_0⁻¹ - a S_1⁻¹, mean P⁻¹((1+a) S_0⁻¹ m_0 - a S_1⁻¹ m_1).

    Raises:
        ValueError: where a is not inside [0, domain_end).
    """
    end = domain_end(q, q_1)
    if not 0 <= a < end:
        raise ValueError(f"a: {a} given, but the tilt is a density only for 0 ≤ a < {end:.6g}")
    inverse_0, inverse_1 = np.linalg.inv(q.covariance), np.linalg.inv(q_1.covariance)
    precision = (1 + a) * inverse_0 - a * inverse_1
    precision = (precision + precision.T) / 2
    try:
        np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        raise ValueError(f"a: {a} given, where rounding leaves no positive definite precision") from None
    covariance = np.linalg.inv(precision)
    # In the frame of m_0, so that a common shift of both means costs no digits.
    shift = -a * covariance @ inverse_1 @ (q_1.mean - q.mean)
    return Gaussian(q.mean + shift, (covariance + covariance.T) / 2)


def reverse_kl(q: Gaussian, q_1: Gaussian, level: float) -> GaussianSolution:
    """min KL(p‖q) subject to KL(p‖q_1) ≥ level, by the a at which KL(tilted(a)‖q_1) = level.

    For equal covariances with `|mu|² = (m_1 - m_0)·S⁻¹(m_1 - m_0)`: `a = sqrt(2 level)/|mu| - 1`,
    `V = (sqrt(2 level) - |mu|)²/2` and p = N(m_0 - a (m_1 - m_0), S).

    Raises:
        ValueError: for a negative level, or q = q_1 (every tilt is q: no multiplier is determined).
    """
    if not level >= 0:
        raise ValueError(f"level: {level} given, at least 0 nats are needed")

    def reached(a: float) -> float:
        return divergence(tilted(q, q_1, a), q_1)

    a = _increasing_root(reached, level, domain_end(q, q_1))
    return _answer(q, q_1, a, a / (1 + a), reached(a))


def log_ratio_likelihood(q: Gaussian, q_1: Gaussian, level: float) -> GaussianSolution:
    """min KL(p‖q) subject to E_p[log q_1 - log q] ≤ level: the family of `reverse_kl`, with multiplier a itself.

    E_p[rho] = KL(p‖q) - KL(p‖q_1) falls along the tilt. Where the log ratio is bounded below (q_1 wider than q in every
    direction), levels at or below its infimum are infeasible.

    Raises:
        InfeasibleError: with the infimum of the log ratio, where the level is not above it.
    """

    def fallen(a: float) -> float:
        p = tilted(q, q_1, a)
        return divergence(p, q_1) - divergence(p, q)

    end = domain_end(q, q_1)
    if end == np.inf:
        least = _least_log_ratio(q, q_1)
        if level <= least:
            raise InfeasibleError(np.array([level]), np.array([least]))
    a = _increasing_root(fallen, -level, end)
    return _answer(q, q_1, a, a, -fallen(a))


def _answer(q: Gaussian, q_1: Gaussian, a: float, multiplier: float, level: float) -> GaussianSolution:
    target = tilted(q, q_1, a)
    return GaussianSolution(target, a, multiplier, divergence(target, q), level, domain_end(q, q_1))


def _least_log_ratio(q: Gaussian, q_1: Gaussian) -> float:
    """inf_x log q_1(x) - log q(x): finite only if q_1 is wider than q in every direction in which they differ."""
    # In coordinates z that whiten q, x = m_0 + R z: rho = z·(I - K)·z/2 + z·slope + const, K = Rᵀ S_1⁻¹ R.
    root, root_1 = np.linalg.cholesky(q.covariance), np.linalg.cholesky(q_1.covariance)
    seen = solve_triangular(root_1, root, lower=True)
    slope = seen.T @ solve_triangular(root_1, q_1.mean - q.mean, lower=True)
    values, vectors = np.linalg.eigh(np.eye(q.mean.size) - seen.T @ seen)
    along = vectors.T @ slope
    rounding = _rounding(q_1)
    flat = values <= rounding
    # An error of the matrix turns the flat directions towards the next by that error over the distance between them.
    turned = rounding * (1.0 + 1.0 / values[~flat].min(initial=1.0))
    if (np.abs(along[flat]) > turned * float(np.linalg.norm(slope))).any():
        return -np.inf
    x = q.mean - root @ (vectors[:, ~flat] @ (along[~flat] / values[~flat]))
    return float(q_1.log_prob(x) - q.log_prob(x))


def _increasing_root(function: Callable[[float], float], goal: float, end: float) -> float:
    """The a in [0, end) with function(a) = goal for a nondecreasing function; 0 where function(0) ≥ goal."""
    if function(0.0) >= goal:
        return 0.0
    low = 0.0
    for k in range(1, 1000):
        high = 2.0 ** (k - 10) if end == np.inf else end * (1 - 2.0**-k)
        try:
            reached = function(high) if high < end else None
        except ValueError:  # the tilt has run out of digits
            reached = None
        if reached is None:
            break
        if reached >= goal:
            rtol = 4 * EPS
            return float(brentq(lambda a: function(a) - goal, low, high, xtol=1e-300, rtol=rtol, maxiter=1000))
        low = high
    raise ValueError(f"level: {goal} is not reached by any tilt that double precision can tell from the end {end}")


@dataclass(frozen=True)
class DisjointSolution:
    """Multiplier, value (nats) and the mass that the target leaves to the concept."""

    multiplier: float
    value: float
    mass: float


def _prior(prior: Any) -> float:
    if not 0 < prior < 1:
        raise ValueError(f"prior: {prior} given, but a prior lies strictly inside (0, 1)")
    return float(prior)


def disjoint_forward_kl(prior: float, level: float) -> DisjointSolution:
    """ForwardKL for q = pi q_1 + (1 - pi) q_r, q_1 and q_r apart: p = ((pi - lam) q_1 + (1 - pi) q_r)/(1 - lam).

    The target keeps q_1 with mass e^{-b}: lam = (pi - e^{-b})/(1 - e^{-b}) for b ≥ log(1/pi), else 0, and
    V = pi (log pi + b) + (1 - pi) log((1 - pi)/(1 - e^{-b})).
    """
    pi = _prior(prior)
    if not level >= 0:
        raise ValueError(f"level: {level} given, at least 0 nats are needed")
    mass = min(float(np.exp(-level)), pi)
    if mass == pi:
        return DisjointSolution(0.0, 0.0, pi)
    value = pi * (np.log(pi) + level) + (1 - pi) * (np.log1p(-pi) - np.log1p(-mass))
    return DisjointSolution((pi - mass) / (1 - mass), float(value), mass)


def disjoint_posterior(prior: float, level: float) -> DisjointSolution:
    """Likelihood(posterior) for supports apart: p keeps the concept with mass b, a coin of bias pi bent to bias b.

    V = b log(b/pi) + (1 - b) log((1 - b)/(1 - pi)), lam = log(pi (1 - b) / (b (1 - pi))) for 0 < b ≤ pi.

    Raises:
        InfeasibleError: for b ≤ 0.
    """
    pi = _prior(prior)
    if level <= 0:
        raise InfeasibleError(np.array([level]), np.array([0.0]))
    if level >= pi:
        return DisjointSolution(0.0, 0.0, pi)
    value = level * np.log(level / pi) + (1 - level) * (np.log1p(-level) - np.log1p(-pi))
    multiplier = np.log(pi / level) + np.log1p(-level) - np.log1p(-pi)
    return DisjointSolution(float(multiplier), float(value), float(level))
