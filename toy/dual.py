"""The dual function straight from its formula, and the ends of its domain: for plots, and to check the solver by.

This is written from the table of the theory alone and shares nothing with the solver, which climbs in other
coordinates, centred and scaled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

import duality as du
from toy.mixtures import Array, GaussianMixture
from toy.solving import Problem


def log_mean_exp(log_weights: Array, exponent: Array) -> float:
    """log sum_j exp(log_weights_j + exponent_j); -inf where every term vanishes."""
    total = log_weights + exponent
    top = float(total.max())
    return top if not np.isfinite(top) else top + float(np.log(np.exp(total - top).sum()))


def dual_value(problem: Problem, ratios: du.LogRatios, multipliers: ArrayLike) -> float:
    """g(lam), nats; -inf outside the dual domain.

    ::

        RU   lam·b - (1-L) log E_q[exp(-sum_i a_i rho_i)],  a_i = lam_i/(1-L), L = sum_i lam_i
        FU   -E_q[u log u] + Z log Z + lam·b - sum_i lam_i E_q[e^rho_i rho_i],  u = 1 - sum_i lam_i e^rho_i, Z = E_q[u]
        LU   -log E_q[exp(-sum_i lam_i l_i)] - lam·b

    FU's is KL(q||p) + sum_i lam_i (b_i - KL(q_i||p)) at p = q u/Z, written without log u where u vanishes.

    Args:
        multipliers: (m,), >= 0.

    Raises:
        ValueError: a shape that does not fit.
    """
    lam = np.atleast_1d(np.asarray(multipliers, dtype=np.float64))
    if lam.shape != (ratios.m,):
        raise ValueError(f"multipliers: shape ({ratios.m},) is needed, given {lam.shape}")
    return float(dual_values(problem, ratios, lam[None])[0])


def dual_values(problem: Problem, ratios: du.LogRatios, multipliers: ArrayLike) -> Array:
    """``dual_value`` at k multipliers, (k, m) -> (k,); what does not depend on them is computed once.

    Raises ``ValueError`` for a shape that does not fit.
    """
    table = np.asarray(multipliers, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != ratios.m:
        raise ValueError(f"multipliers: shape (k, {ratios.m}) is needed, given {table.shape}")
    bound = problem.bind(ratios)
    weights, rho, levels = ratios.log_weights, ratios.values, bound.levels
    if isinstance(bound, du.ReverseKL):

        def value(lam: Array) -> float:
            left, used = 1 - lam.sum(), lam > 0
            if left <= 0:
                return -np.inf
            return float(lam @ levels - left * log_mean_exp(weights, -(rho[:, used] @ (lam[used] / left))))

    elif isinstance(bound, du.ForwardKL):
        mass, ratio, under = np.exp(weights), np.exp(rho), np.exp(weights[:, None] + rho)
        own = np.where(under > 0, under * np.where(under > 0, rho, 0.0), 0.0).sum(axis=0)

        def value(lam: Array) -> float:
            share = ratio @ lam
            if np.any(share[mass > 0] > 1):
                return -np.inf
            u = 1 - share
            log_u = np.log1p(-np.minimum(share, 1 - 1e-300), where=u > 0, out=np.zeros_like(u))
            total = float(mass @ u)
            return float(-mass @ (u * log_u) + total * np.log(total) + lam @ (levels - own))

    elif isinstance(bound, du.Likelihood):
        unwanted = np.asarray(bound.likelihoods(bound.inputs(ratios)))

        def value(lam: Array) -> float:
            used = lam > 0
            return float(-log_mean_exp(weights, -(unwanted[:, used] @ lam[used])) - lam @ levels)

    else:
        raise ValueError(f"problem: ReverseKL, ForwardKL or Likelihood is needed, given {type(problem).__name__}")
    return np.array([-np.inf if np.any(lam < 0) else value(lam) for lam in table])


def domain_end(
    problem: Problem,
    pretrained: GaussianMixture,
    unlearn: Sequence[GaussianMixture],
    ratios: du.LogRatios,
    multipliers: ArrayLike,
    index: int = 0,
) -> float:
    """The largest lam_index inside the dual domain, the other multipliers held as given; inf for bounded likelihoods.

    RU: sum lam < 1, and Z finite: along every direction v, with s(v) = min_k v^T C_k^-1 v the rate at which a
    mixture's tail falls, (1 + sum_i a_i) s_q(v) > sum_i a_i s_i(v). FU: sum_i lam_i e^rho_i <= 1 at every node.
    LU with the log ratio: as RU, with a = lam. In dimension 1 and 2 (directions are swept); inf is never exceeded.
    """
    lam = np.array(np.atleast_1d(multipliers), dtype=np.float64)
    lam[index] = 0.0
    if isinstance(problem, du.ForwardKL):
        share = np.exp(ratios.values)
        held = np.exp(ratios.log_weights) > 0
        with np.errstate(divide="ignore", over="ignore"):  # where q_i is next to nothing it bounds nothing
            return float(((1 - share @ lam) / share[:, index])[held].min())
    reverse = isinstance(problem, du.ReverseKL)
    if not reverse and getattr(problem, "kind", None) != "log-ratio":
        return float("inf")
    base = _tail_rates(pretrained)
    excess = np.stack([_tail_rates(part) - base for part in unlearn], axis=-1)
    # In tilts a: base > excess·a. For RU a = lam/(1 - L), so base (1 - L) > excess·lam: linear in lam again.
    slope = excess + (base[:, None] if reverse else 0.0)
    room = base - slope @ lam
    rising = slope[:, index] > 0
    return float((room[rising] / slope[rising, index]).min()) if rising.any() else float("inf")


def places_along(lam: float, slack: float, end: float, points: int = 161) -> Array:
    """Multipliers (k,) worth a picture of g along one of them: from 0 beyond lam*, or to the domain's end close by.

    Where the constraint is inactive g falls from the start at the rate of its slack: about one nat of it. Towards the
    right end the places get denser, as g may plunge there.

    Args:
        lam, slack: of the optimum.
        end: of the domain.
    """
    right = min(end, 1 / max(slack, 1e-6)) if lam == 0 else (end if end < 8 * lam else 2.2 * lam)
    dense = right * (1 - np.logspace(-1.7, -8, max(points // 4, 8)))
    return np.unique(np.concatenate([np.linspace(0, right, points), dense, [lam]]))


def limits_of(values: Array, best: tuple[float, float], above: float) -> tuple[float, float]:
    """The visible range of g (k,), with its maximum (lam*, value) and some room above, as a part of the range.

    A deep plunge at the end of the domain would flatten the rest: as much is shown below g(0) as there is above it.
    """
    lam, value = best
    top = max(value, float(values.max()))
    bottom = max(float(values.min()), float(values[0]) - 1.2 * (top - float(values[0])) if lam > 0 else -np.inf)
    span = max(top - bottom, 1e-9)
    return bottom - 0.06 * span, top + above * span


def _tail_rates(mixture: GaussianMixture) -> Array:
    """s(v) = min_k v^T C_k^-1 v for unit vectors v over a half circle (the two ends of a line in dimension 1)."""
    d = mixture.dimension
    if d > 2:
        raise ValueError(f"pretrained: directions are swept in dimension 1 and 2, given {d}")
    angle = np.pi * np.arange(720) / 720
    directions = np.ones((1, 1)) if d == 1 else np.column_stack([np.cos(angle), np.sin(angle)])
    used = mixture.weights > 0
    whitened = np.einsum("kij,vj->vki", mixture.whitenings[used], directions)
    return np.square(whitened).sum(axis=2).min(axis=1)
