r"""The Lagrangian of each problem as a loss of the student's raw output f, in two terms that both have a gradient.

T the frozen base model, y the denoising target of a sample x_0, r_i = e^{rho_i(x_0)}, rbar_i = e^{rho_i,t(x_t)}, all at
the same state x_t; products are over the entries of a state, means over rows and entries.

::

    ForwardKL    retention    |f - T|^2                                                        = KL(q‖p)
                 constraint   -sum_i lam_i ( r_i |f - T|^2 - 2 (r_i - rbar_i) <f - T, y - T> )  = -lam·KL(q_i‖p) + const

    Likelihood   retention    w |f - T|^2                      w = e^{-lam·l(rho)}, wbar = E_q[w | x_t]
                 constraint   -2 (w - wbar) <f - T, y - T>

    ReverseKL    retention    |f - T|^2                        at noised samples of the student itself
                 constraint   -sum_i lam_i |f - T_i|^2,        T_i = T - (T(x_t|"") - T(x_t|u_i))

ForwardKL is the paper's Lagrangian in score form, by samples of q: `E_{q_i}[·] = E_q[r_i ·]`, and since y - T has mean
zero under q, T and rbar_i only take noise out. Likelihood's is KL(p‖p_lam) up to a constant; the loss is the other
direction of the same divergence, `E_q[w |y - f|^2]` with T and wbar as control variates, whose minimiser is p_lam too.
ReverseKL's is the paper's: KL(p‖q) - lam·KL(p‖q_i) by scores along the student's own paths, with the dependence of the
paths on the student left out of the gradient, as there. Its minimiser at a state is ESD's constant guidance, exact for
equal-covariance Gaussians; the dual step measures levels on the student itself, and so meets them all the same.
All are up to the weighting of noise levels (uniform in t, raw output), which moves no minimiser.

Source: theory, "One function defines everything" and "Fitting a network"; the paper arXiv:2605.30825, whose scripts
compute the retention term without gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.runtime.precision import doubled


@dataclass(frozen=True)
class Seen:
    """What is known at a batch of states (n, ...), none of it with a gradient."""

    said: Tensor  # T (n, ...)
    y: Tensor  # (n, ...)
    rho: Tensor  # (n, m) log ratios of the clean samples
    rho_t: Callable[[], Tensor]  # (n, m) log ratios at the states, by the classifier
    towards: Callable[[], list[Tensor]]  # T_i, m times (n, ...)


Terms = tuple[Tensor, Tensor]


class Lagrangian(Protocol):
    """``terms(f, seen, multipliers)``: retention and constraint, two scalars to be added.

    ``on_student``: states are noised samples of the student (else of q). ``of_q``: levels and cost are means under q
    (else under the student). ``integrated``: levels take integrals over noise, not the classifier alone; their
    multipliers are bounded by the dual domain.
    """

    on_student: ClassVar[bool]
    of_q: ClassVar[bool]
    integrated: ClassVar[bool]

    def terms(self, f: Tensor, seen: Seen, multipliers: np.ndarray) -> Terms: ...


@dataclass(frozen=True)
class ForwardLagrangian:
    problem: du.ForwardKL
    on_student: ClassVar[bool] = False
    of_q: ClassVar[bool] = True
    integrated: ClassVar[bool] = True

    def terms(self, f: Tensor, seen: Seen, multipliers: np.ndarray) -> Terms:
        moved, noise = f - seen.said, seen.y - seen.said
        lam = torch.tensor(multipliers, dtype=f.dtype, device=f.device)
        mass = (seen.rho.to(f).exp() * lam).sum(1)  # sum_i lam_i r_i (n,), at most 1 inside the dual domain
        mean_mass = (seen.rho_t().to(f).exp() * lam).sum(1).clamp_max(1.0)
        constraint = _times(mass, moved.square()) - 2 * _times(mass - mean_mass, moved * noise)
        return moved.square().mean(), -constraint.mean()


@dataclass(frozen=True)
class LikelihoodLagrangian:
    problem: du.Likelihood
    on_student: ClassVar[bool] = False
    of_q: ClassVar[bool] = False
    integrated: ClassVar[bool] = False

    def terms(self, f: Tensor, seen: Seen, multipliers: np.ndarray) -> Terms:
        moved, noise = f - seen.said, seen.y - seen.said
        w = self.problem.log_weight(doubled(seen.rho), multipliers).exp().to(f)
        rho_t = doubled(seen.rho_t())
        natural = torch.tensor(self.problem.natural(multipliers), dtype=torch.float64, device=rho_t.device)
        wbar = self.problem.noised_tilt(rho_t, natural).exp().to(f)
        return _times(w, moved.square()).mean(), -2 * _times(w - wbar, moved * noise).mean()


@dataclass(frozen=True)
class ReverseLagrangian:
    problem: du.ReverseKL
    on_student: ClassVar[bool] = True
    of_q: ClassVar[bool] = False
    integrated: ClassVar[bool] = True

    def terms(self, f: Tensor, seen: Seen, multipliers: np.ndarray) -> Terms:
        away = [
            float(lam) * (f - goal).square().mean()
            for lam, goal in zip(multipliers, seen.towards(), strict=True)
            if lam > 0
        ]
        return (f - seen.said).square().mean(), -sum(away, start=torch.zeros((), dtype=f.dtype, device=f.device))


def lagrangian_of(problem: du.Problem) -> Lagrangian:
    """The Lagrangian of a problem. ValueError for likelihoods that a network does not give (densities)."""
    if isinstance(problem, du.ForwardKL):
        return ForwardLagrangian(problem)
    if isinstance(problem, du.ReverseKL):
        return ReverseLagrangian(problem)
    if isinstance(problem, du.Likelihood) and problem.kind != "density":
        return LikelihoodLagrangian(problem)
    raise ValueError(f"problem: {problem!r} has no Lagrangian on a network: its log ratios are known, densities not")


def _times(weights: Tensor, values: Tensor) -> Tensor:
    return weights.view(-1, *(1,) * (values.ndim - 1)) * values
