"""Whole reverse paths of mixtures with exact kernels: the lifting of each problem from points to paths.

q(x_s | x_t) of a mixture is a mixture of Gaussians in closed form (a Kalman step per component), so paths can be
drawn and weighed without any discretisation error. That the path ratio depends on x_0 alone is then a statement about
numbers that were computed without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from toy.mixtures import Array, GaussianMixture, as_mixtures


class Paths(NamedTuple):
    """Reverse paths of q and their log ratios.

    Attributes:
        states: (s, n, d) from the noisiest level to the data.
        log_ratios: (n, m), log dQ_i/dQ of the whole path, nats.
    """

    states: Array
    log_ratios: Array


class ReverseKernel:
    """q(x_s | x_t) = sum_k Pr(k | x_t) N(x_s; m_k + G_k (x_t - r m_k), C_k - G_k r C_k), r = sqrt(alpha_t/alpha_s).

    m_k, C_k are component k at level alpha_s, G_k = r C_k (r^2 C_k + (1 - r^2) I)^-1.

    Args:
        mixture: q at the data.
        alpha_bar, next_alpha_bar: 0 < alpha_bar < next_alpha_bar <= 1, the levels of x_t and x_s.
    """

    def __init__(self, mixture: GaussianMixture, alpha_bar: float, next_alpha_bar: float) -> None:
        if not 0 < alpha_bar < next_alpha_bar <= 1:
            raise ValueError(
                f"alpha_bar, next_alpha_bar: 0 < alpha_bar < next_alpha_bar <= 1 is needed, "
                f"given {alpha_bar} and {next_alpha_bar}"
            )
        self._root = np.sqrt(alpha_bar / next_alpha_bar)
        self._after = mixture.noised(next_alpha_bar)
        self._now = mixture.noised(alpha_bar)
        identity = np.eye(mixture.dimension)
        covariances = self._after.covariances
        total = self._root**2 * covariances + (1 - self._root**2) * identity
        self._gains = self._root * np.swapaxes(np.linalg.solve(total, covariances), 1, 2)
        # Joseph's form: symmetric and positive definite whatever the rounding.
        left = identity - self._root * self._gains
        gained = (1 - self._root**2) * self._gains @ np.swapaxes(self._gains, 1, 2)
        spread = left @ covariances @ np.swapaxes(left, 1, 2) + gained
        self._spread = GaussianMixture._trusted(mixture.weights, np.zeros_like(mixture.means), spread)

    def log_prob(self, x_s: Array, x_t: Array) -> Array:
        """log q(x_s | x_t), (n, d) and (n, d) -> (n,), nats."""
        with np.errstate(divide="ignore"):
            logits = np.log(self._now.posterior(x_t))
        for k in range(len(self._now)):
            whitened = (x_s - self._mean(k, x_t)) @ self._spread.whitenings[k].T
            logits[:, k] += self._spread.log_normalisers[k] - 0.5 * np.square(whitened).sum(axis=1)
        top = logits.max(axis=1)
        return top + np.log(np.exp(logits - top[:, None]).sum(axis=1))

    def sample(self, x_t: Array, generator: np.random.Generator) -> Array:
        """One draw of x_s for every x_t, (n, d)."""
        cumulative = np.cumsum(self._now.posterior(x_t), axis=1)
        labels = (generator.random(len(x_t))[:, None] > cumulative[:, :-1]).sum(axis=1)
        normals = generator.standard_normal(x_t.shape)
        out = np.empty_like(x_t)
        for k in range(len(self._now)):
            mine = labels == k
            out[mine] = self._mean(k, x_t[mine]) + normals[mine] @ self._spread.roots[k].T
        return out

    def _mean(self, k: int, x_t: Array) -> Array:
        return self._after.means[k] + (x_t - self._root * self._after.means[k]) @ self._gains[k].T


def sample_paths(
    pretrained: GaussianMixture,
    unlearn: GaussianMixture | Sequence[GaussianMixture],
    levels: Array,
    n: int,
    generator: np.random.Generator,
) -> Paths:
    """n exact reverse paths of q along increasing alpha_bar levels (s,), with ::

        log dQ_i/dQ = log q_i,T(x_T)/q_T(x_T) + sum_t log q_i(x_s|x_t)/q(x_s|x_t).

    Theorem (lifting): this equals rho_i(x_0). Raises ``ValueError`` for levels that do not increase inside (0, 1].
    """
    parts = as_mixtures(unlearn)
    given = np.asarray(levels, dtype=np.float64)
    if given.ndim != 1 or given.size < 2:
        raise ValueError(f"levels: at least two increasing levels are needed, given shape {given.shape}")
    first = float(given[0])
    noisiest = pretrained.noised(first)
    x = noisiest.sample(n, generator)
    start = noisiest.log_prob(x)
    log_ratios = np.stack([part.noised(first).log_prob(x) - start for part in parts], axis=1)
    states = [x]
    for now, after in itertools.pairwise(given.tolist()):
        kernel = ReverseKernel(pretrained, now, after)
        following = kernel.sample(x, generator)
        base = kernel.log_prob(following, x)
        for i, part in enumerate(parts):
            log_ratios[:, i] += ReverseKernel(part, now, after).log_prob(following, x) - base
        x = following
        states.append(x)
    return Paths(np.array(states), log_ratios)
