r"""A law on images and data, noised in closed form, and how a base model's prediction moves when the images' masses do.

::

    q_t(x) = sum_i pi_i N(x; s u_i, n² I) + (1 - Pi)/k sum_a N(x; s a, (n² + s² h²) I)

u_i images that were copied, points of mass pi_i; a samples of all else, a density: kernels of width h, chosen by the
leave-one-out likelihood of the samples. s, n signal and noise of a level. A state x comes from an image with odds e^o::

    E[x_0 | x_t = x] = sigma(o) c_I + (1 - sigma(o)) c_R,       c_I, c_R the means given that it does, or does not.

Other masses of the images, the tilt that forgets them (:mod:`duality.point_masses`), change o and c_I, nothing else.

A network that has learned q knows more of the rest than kernels do, so the odds are read off its own prediction x_T,
where it stands between the two means, and a share of it is moved that is the tilt's::

    P  = <x_T - c_R, c_I - c_R>/|c_I - c_R|², kept in [0, 1],      o = logit P,      o' = o + log of the tilt's factor
    x* = x_T + P' (c_I' - c_R) - P (c_I - c_R),                    P' = P sigma(o')/sigma(o)

Beyond `|o| = 3` a prediction does not tell odds any more: the kernels' are taken there, and at least 3. Nowhere do they
differ from the kernels' by more than the standard deviation of the leave-one-out log densities, which is how far
kernels are wrong about a density. Where x_T is E_q[x_0 | x_t], x* is E_p[x_0 | x_t].

Source: Duin, On the choice of smoothing parameters for Parzen estimators (IEEE Trans. Computers 1976), for the width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from diffusion.runtime.precision import doubled

MOST = 1000  # rows that the width is chosen by
TELLING = 3.0  # log odds up to which a prediction tells them


def kernels(rows: Tensor) -> tuple[float, float]:
    """h that maximises ``mean_i l_i``, and the standard deviation of the ``l_i``, nats; samples (k, ...).

    ``l_i = log mean_{j≠i} N(a_i; a_j, h² I)``. Rows that are there twice count once: their likelihood has no bound.
    Raises ``ValueError`` for fewer than two.
    """
    some = torch.unique(doubled(rows.flatten(1)), dim=0)
    some = some[:: -(-len(some) // MOST)]
    if len(some) < 2:
        raise ValueError("rows must hold at least two different samples, to tell how far they lie apart")
    square = torch.cdist(some, some).square().fill_diagonal_(math.inf)
    d = some.shape[1]

    def densities(log_h: float) -> Tensor:
        return (-square / (2 * math.exp(2 * log_h))).logsumexp(1) - d * log_h

    # h² d is of the order of the square distance to the nearest samples.
    centre = 0.5 * math.log(float(square.min(1).values.mean()) / d)
    found = minimize_scalar(
        lambda log_h: -float(densities(log_h).mean()), bounds=(centre - 3, centre + 3), method="bounded"
    )
    return math.exp(float(found.x)), float(densities(float(found.x)).std())


@dataclass(frozen=True)
class Split:
    """``of_images``, ``of_rest`` (n, d): c_I and c_R; ``log_odds`` (n,): o; ``log_parts`` (n, m): which image it is."""

    of_images: Tensor
    of_rest: Tensor
    log_odds: Tensor
    log_parts: Tensor


@dataclass(frozen=True)
class Law:
    """``images`` (m, d), ``rest`` (k, d), double; ``width`` h; ``doubt``: how far its log densities may be wrong."""

    images: Tensor
    rest: Tensor
    width: float
    doubt: float

    def split(self, x: Tensor, signal: Tensor, noise: Tensor, log_masses: Tensor) -> Split:
        """At states (n, d), signal and noise (n, 1), for images with log masses (m,) that leave some for the rest."""
        spread = noise.square() + (signal * self.width).square()
        of_images = self._log_density(x, signal, noise.square(), self.images) + log_masses
        of_rest = self._log_density(x, signal, spread, self.rest) - math.log(len(self.rest)) + left(log_masses)
        pull = signal * self.width**2 / spread
        return Split(
            of_images.softmax(1) @ self.images,
            (1 - pull * signal) * (of_rest.softmax(1) @ self.rest) + pull * x,
            of_images.logsumexp(1) - of_rest.logsumexp(1),
            of_images.log_softmax(1),
        )

    def clean(self, x: Tensor, signal: Tensor, noise: Tensor, log_masses: Tensor) -> Tensor:
        """``E[x_0 | x_t]`` (n, d), arguments as for :meth:`split`."""
        found = self.split(x, signal, noise, log_masses)
        return found.of_rest + found.log_odds.sigmoid()[:, None] * (found.of_images - found.of_rest)

    def moved(self, x: Tensor, signal: Tensor, noise: Tensor, said: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """``x* - x_T`` (n, d) where log masses (m,) go from ``before`` to ``after``; ``said`` (n, d) is x_T."""
        found = self.split(x, signal, noise, before)
        toward = found.of_images - found.of_rest
        square = toward.square().sum(1).clamp_min(torch.finfo(toward.dtype).tiny)
        part = ((said - found.of_rest) * toward).sum(1).div(square).clamp(0.0, 1.0)
        told = torch.logit(part)
        odds = torch.where(told > TELLING, found.log_odds.clamp_min(TELLING), told)
        odds = torch.where(told < -TELLING, found.log_odds.clamp_max(-TELLING), odds)
        within = odds.clamp(found.log_odds - self.doubt, found.log_odds + self.doubt)
        part = torch.where(within == odds, part, within.sigmoid())
        tilted = found.log_parts + (after - before)
        factor = tilted.logsumexp(1) + left(before) - left(after)
        kept = part * (torch.nn.functional.logsigmoid(within + factor) - torch.nn.functional.logsigmoid(within)).exp()
        to_images = tilted.softmax(1) @ self.images - found.of_rest
        return kept[:, None] * to_images - part[:, None] * toward

    def _log_density(self, x: Tensor, signal: Tensor, variance: Tensor, points: Tensor) -> Tensor:
        """(n, k) up to a constant."""
        square = x.square().sum(1, keepdim=True) - 2 * signal * (x @ points.T) + signal**2 * points.square().sum(1)
        return -0.5 * (square.clamp_min(0.0) / variance + x.shape[1] * variance.log())


def left(log_masses: Tensor) -> Tensor:
    """log of what masses leave of one."""
    return torch.log1p(-log_masses.exp().sum())


def law_of(images: Tensor, rest: Tensor, most: int) -> Law:
    """Of images (m, ...) and at most ``most`` of the samples (k, ...), every so many of them.

    Width and doubt are of the samples; where there is but one, of it and the images.
    """
    some = doubled(rest[:: -(-len(rest) // most)].flatten(1))
    u = doubled(images.flatten(1))
    distinct = len(torch.unique(some, dim=0)) > 1
    return Law(u, some, *kernels(some if distinct else torch.cat([some, u])))
