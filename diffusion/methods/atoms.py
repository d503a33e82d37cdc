r"""A law on images and data, noised in closed form: which clean picture its noised states stand for.

    q_t(x) = sum_i pi_i N(x; s u_i, n² I) + (1 - Pi)/k sum_a N(x; s a, (n² + s² h²) I)

    E[x_0 | x_t = x] = sum_i w_i u_i + sum_a w_a ( a + s h²/(n² + s² h²) (x - s a) ),    w the posterior of the parts

u_i images that were copied, points of mass pi_i; a draws of all else, a density: kernels of width h, chosen by the
leave-one-out likelihood of the draws. s, n signal and noise of a level. Other masses of the images are the tilt that
forgets them (:mod:`duality.point_masses`), so the same formula has the exact score before and after.

Source: Duin, On the choice of smoothing parameters for Parzen estimators (IEEE Trans. Computers 1976), for the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

MOST = 1000  # rows that the width is chosen by


def bandwidth(rows: Tensor) -> float:
    """h that maximises ``mean_i log mean_{j≠i} N(a_i; a_j, h² I)`` of draws (k, ...).

    Rows that are there twice count once: their likelihood has no bound. Raises ``ValueError`` for fewer than two.
    """
    some = torch.unique(rows.flatten(1).double(), dim=0)
    some = some[:: -(-len(some) // MOST)]
    if len(some) < 2:
        raise ValueError("rows must hold at least two different draws, to tell how far they lie apart")
    square = torch.cdist(some, some).square().fill_diagonal_(math.inf)
    nearest, d = float(square.min(1).values.mean()), some.shape[1]

    def loss(log_h: float) -> float:
        h2 = math.exp(2 * log_h)
        return float(d * log_h - (-square / (2 * h2)).logsumexp(1).mean())

    # At the optimum h² d lies between the mean square distances to nearest and to farthest draws, shrunk a little.
    centre = 0.5 * math.log(nearest / d)
    return math.exp(float(minimize_scalar(loss, bounds=(centre - 3, centre + 3), method="bounded").x))


@dataclass(frozen=True)
class Law:
    """``images`` (m, d), ``rest`` (k, d), double; ``width`` h."""

    images: Tensor
    rest: Tensor
    width: float

    def clean(self, x: Tensor, signal: Tensor, noise: Tensor, log_masses: Tensor) -> Tensor:
        """``E[x_0 | x_t]`` (n, d) at states (n, d), signal and noise (n, 1), of images with log masses (m,).

        Masses must add up to less than one; the rest has what they leave.
        """
        spread = noise.square() + (signal * self.width).square()
        left = torch.log1p(-log_masses.exp().sum()) - math.log(len(self.rest))
        parts = (
            self._log_density(x, signal, noise.square(), self.images) + log_masses,
            self._log_density(x, signal, spread, self.rest) + left,
        )
        of_images, of_rest = torch.cat(parts, 1).softmax(1).split([len(self.images), len(self.rest)], 1)
        pull = signal * self.width**2 / spread
        near = (1 - pull * signal) * (of_rest @ self.rest) + pull * of_rest.sum(1, keepdim=True) * x
        return of_images @ self.images + near

    def _log_density(self, x: Tensor, signal: Tensor, variance: Tensor, points: Tensor) -> Tensor:
        """(n, k) up to a constant."""
        square = x.square().sum(1, keepdim=True) - 2 * signal * (x @ points.T) + signal**2 * points.square().sum(1)
        return -0.5 * (square.clamp_min(0.0) / variance + x.shape[1] * variance.log())


def law_of(images: Tensor, rest: Tensor, most: int) -> Law:
    """Of images (m, ...) and at most ``most`` of the draws (k, ...), every so many of them.

    The width is of the draws; where there is but one, of it and the images.
    """
    some = rest[:: -(-len(rest) // most)].flatten(1).double()
    u = images.flatten(1).double()
    distinct = len(torch.unique(some, dim=0)) > 1
    return Law(u, some, bandwidth(some if distinct else torch.cat([some, u])))
