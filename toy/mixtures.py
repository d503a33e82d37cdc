"""Gaussian mixtures with full covariances, in log space: density, score, draws and the noised law."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toy.mixture_parameters import Array, check_covariances, check_means, check_weights, cholesky, inverse_of_triangles

_LOG_2PI = float(np.log(2 * np.pi))


class GaussianMixture:
    """q(x) = sum_k weights_k N(x; means_k, covariances_k).

    Args:
        weights: (k,) probabilities of the components; they sum to 1 (to 1e-9; the remainder is divided out).
        means: (k, d), or (k,) in one dimension.
        covariances: a scalar v (v I for all), (k,) scalars (v_k I), or (k, d, d) positive definite matrices.

    Densities are with respect to Lebesgue measure on R^d, log densities in nats. Points have shape (..., d).

    Raises ``ValueError`` where shapes disagree, weights are not probabilities, or a covariance is not symmetric
    positive definite to working precision *after* its coordinates are scaled to unit variance: diag(1, 1e-200) is
    a good covariance, a correlation within 1e-14 of one is not.

    >>> q = GaussianMixture([0.5, 0.5], [-1.0, 1.0], 1.0)
    >>> round(float(q.log_prob([[0.0]])[0]), 6)
    -1.418939
    """

    weights: Array
    means: Array
    covariances: Array

    def __init__(self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> None:
        checked = check_weights(weights)
        centres = check_means(means, len(checked))
        self._build(checked, centres, check_covariances(covariances, *centres.shape))

    @classmethod
    def _trusted(cls, weights: Array, means: Array, covariances: Array) -> GaussianMixture:
        """From arrays that come out of a mixture and are well formed: a sampler makes thousands of these."""
        made = cls.__new__(cls)
        made._build(weights, means, covariances)
        return made

    def _build(self, weights: Array, means: Array, covariances: Array) -> None:
        self.weights, self.means, self.covariances = weights, means, covariances
        # Cholesky of the correlation matrix: the result is that of the covariance, but a failure then means
        # "correlations too close to one", whatever the units of the coordinates.
        scale = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
        correlation = covariances / (scale[:, :, None] * scale[:, None, :])
        self._cholesky = scale[:, :, None] * cholesky(correlation)
        log_det = np.log(np.diagonal(self._cholesky, axis1=1, axis2=2)).sum(axis=1)
        self._log_normaliser = -0.5 * self.dimension * _LOG_2PI - log_det
        for array in (self.weights, self.means, self.covariances, self._cholesky):
            array.flags.writeable = False

    @cached_property
    def _whitening(self) -> Array:
        inverse = inverse_of_triangles(self._cholesky)
        inverse.flags.writeable = False
        return inverse

    @property
    def dimension(self) -> int:
        """d, the dimension of the space."""
        return int(self.means.shape[1])

    @property
    def whitenings(self) -> Array:
        """W_k, (k, d, d), lower triangular, with W_k C_k W_k^T = I."""
        return self._whitening

    @property
    def roots(self) -> Array:
        """R_k, (k, d, d), lower triangular, with R_k R_k^T = C_k."""
        return self._cholesky

    @property
    def log_normalisers(self) -> Array:
        """-d/2 log 2 pi - 1/2 log det C_k, (k,), which is log N(m_k; m_k, C_k)."""
        return self._log_normaliser

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        return (
            f"GaussianMixture(weights={self.weights.tolist()}, means={self.means.tolist()}, "
            f"covariances={self.covariances.tolist()})"
        )

    def component_log_prob(self, x: ArrayLike) -> Array:
        """log N(x; means_k, covariances_k) for every component, (..., d) -> (..., k), nats, weights left out."""
        return np.moveaxis(self._log_components(self._points(x), range(len(self))), 0, -1)

    def log_prob(self, x: ArrayLike) -> Array:
        """log q(x), (..., d) -> (...), nats."""
        top, log_sum = self.shifted_log_prob(x)
        return top + log_sum

    def shifted_log_prob(self, x: ArrayLike) -> tuple[Array, Array]:
        """log q(x) = top + log_sum, both (...), nats, with top the largest component's log density.

        Apart, so that differences of two mixtures that share a component are exact to rounding near 1, not to
        rounding of the log densities themselves: FU lives on 1 - lam q_i/q, which may be as small as 1e-16.
        """
        used = np.flatnonzero(self.weights > 0)
        parts = self._log_components(self._points(x), used)
        top = parts.max(axis=0)
        parts -= top
        np.exp(parts, out=parts)
        return top, np.log(np.tensordot(self.weights[used], parts, axes=1))

    def posterior(self, x: ArrayLike) -> Array:
        """Pr(component k | x), (..., d) -> (..., k), sums to one."""
        with np.errstate(divide="ignore"):  # a weight of exactly zero is allowed: its posterior is zero
            shape = (len(self),) + (1,) * (np.ndim(x) - 1)
            logits = self._log_components(self._points(x), range(len(self))) + np.log(self.weights).reshape(shape)
        odds = np.exp(logits - logits.max(axis=0))
        return np.moveaxis(odds / odds.sum(axis=0), 0, -1)

    def score(self, x: ArrayLike) -> Array:
        """grad log q(x) = -sum_k Pr(k|x) C_k^-1 (x - means_k), (..., d) -> (..., d)."""
        points = self._points(x)
        posterior = self.posterior(points)
        out = np.zeros(points.shape)
        for k in range(len(self)):
            whitened = (points - self.means[k]) @ self._whitening[k].T
            out -= posterior[..., k, None] * (whitened @ self._whitening[k])
        return out

    def sample(self, n: int, generator: np.random.Generator) -> Array:
        """n independent draws of q, (n, d), from an explicit generator."""
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n: a number of draws of at least 1 is needed, given {n!r}")
        if not isinstance(generator, np.random.Generator):
            raise ValueError(f"generator: numpy.random.default_rng(seed) is needed, given {generator!r}")
        labels = generator.choice(len(self), size=int(n), p=self.weights)
        normals = generator.standard_normal((int(n), self.dimension))
        return self.means[labels] + np.einsum("nij,nj->ni", self._cholesky[labels], normals)

    def noised(self, alpha_bar: float) -> GaussianMixture:
        """Law of sqrt(alpha_bar) x + sqrt(1 - alpha_bar) z, z ~ N(0, I), x ~ q: means sqrt(alpha_bar) m_k,
        covariances alpha_bar C_k + (1 - alpha_bar) I. alpha_bar in [0, 1], as in diffusers schedulers.
        """
        level = check_alpha_bar(alpha_bar)
        if level == 1:
            return self
        noise = (1 - level) * np.eye(self.dimension)
        return self._trusted(self.weights, np.sqrt(level) * self.means, level * self.covariances + noise)

    def component(self, k: int) -> GaussianMixture:
        """N(means_k, covariances_k), component k on its own."""
        if not -len(self) <= k < len(self):
            raise ValueError(f"k: the mixture has {len(self)} components, given {k}")
        return self._trusted(np.ones(1), self.means[k][None], self.covariances[k][None])

    def without(self, k: int) -> GaussianMixture:
        """The mixture of the other components, weights renormalised: exact forgetting of component k."""
        if not -len(self) <= k < len(self):
            raise ValueError(f"k: the mixture has {len(self)} components, given {k}")
        rest = np.arange(len(self)) != k % len(self)
        if len(self) < 2 or self.weights[rest].sum() == 0:
            raise ValueError("k: nothing is left without the only component that has weight")
        weights = self.weights[rest] / self.weights[rest].sum()
        return GaussianMixture(weights, self.means[rest], self.covariances[rest])

    def mapped(self, matrix: ArrayLike, shift: ArrayLike) -> GaussianMixture:
        """Law of A x + c: matrix A (d, d), invertible, and shift c (d,)."""
        a = np.asarray(matrix, dtype=np.float64)
        c = np.asarray(shift, dtype=np.float64)
        d = self.dimension
        if a.shape != (d, d) or c.shape != (d,):
            raise ValueError(f"matrix, shift: shapes {(d, d)} and {(d,)} are needed, given {a.shape} and {c.shape}")
        covariances = a @ self.covariances @ a.T
        return GaussianMixture(self.weights, self.means @ a.T + c, 0.5 * (covariances + np.swapaxes(covariances, 1, 2)))

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain lists under the constructor's names, for JSON; ``GaussianMixture(**d)`` is the way back."""
        return {
            "weights": self.weights.tolist(),
            "means": self.means.tolist(),
            "covariances": self.covariances.tolist(),
        }

    def _log_components(self, points: Array, chosen: Sequence[int] | NDArray[np.intp]) -> Array:
        """log N(x; means_k, covariances_k) for the chosen k, (..., d) -> (number chosen, ...).

        Components come first and coordinates are taken one by one: sums over a last axis of two or three numbers
        take several times as long as everything else here. Where there are many, a matrix product is the faster.
        """
        d = self.dimension
        columns = np.ascontiguousarray(points.reshape(-1, d).T)
        out = np.empty((len(chosen), columns.shape[1]))
        for row, k in zip(out, chosen, strict=True):
            centred = columns - self.means[k][:, None]
            if d > 3:
                whitened = self._whitening[k] @ centred
            else:
                whitened = centred * self._whitening[k].diagonal()[:, None]
                for i, j in itertools.combinations(range(d), 2):
                    whitened[j] += self._whitening[k][j, i] * centred[i]
            np.einsum("in,in->n", whitened, whitened, out=row)
        out *= -0.5
        out += self._log_normaliser[np.asarray(chosen, dtype=int)][:, None]
        return out.reshape(len(chosen), *points.shape[:-1])

    def _points(self, x: ArrayLike) -> Array:
        points = np.asarray(x, dtype=np.float64)
        if points.ndim == 0 or points.shape[-1] != self.dimension:
            raise ValueError(
                f"x: points of shape (..., {self.dimension}) are needed, given shape {points.shape}"
                + (" (one-dimensional points: x[..., None])" if self.dimension == 1 else "")
            )
        return points


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d) of a law."""

    mean: Array
    covariance: Array


def moments(mixture: GaussianMixture) -> Moments:
    """Mean sum_k w_k m_k and covariance sum_k w_k (C_k + m_k m_k^T) - mean mean^T of a mixture."""
    mean = mixture.weights @ mixture.means
    centred = mixture.means - mean
    within = np.einsum("k,kij->ij", mixture.weights, mixture.covariances)
    return Moments(mean, within + np.einsum("k,ki,kj->ij", mixture.weights, centred, centred))


def log_ratio(pretrained: GaussianMixture, unlearn: GaussianMixture, x: ArrayLike) -> Array:
    """rho(x) = log q_i(x) - log q(x), (..., d) -> (...), nats, exact to rounding near 1 where both share a component.

    Raises ``ValueError`` where the dimensions differ.
    """
    if pretrained.dimension != unlearn.dimension:
        raise ValueError(f"unlearn: dimension {pretrained.dimension} is needed, given {unlearn.dimension}")
    top, log_sum = pretrained.shifted_log_prob(x)
    top_i, log_sum_i = unlearn.shifted_log_prob(x)
    return (top_i - top) + (log_sum_i - log_sum)


def as_mixtures(unlearn: GaussianMixture | Sequence[GaussianMixture]) -> tuple[GaussianMixture, ...]:
    """One mixture or a sequence of them, as a tuple. Raises ``ValueError`` where it is empty or holds anything else."""
    out = (unlearn,) if isinstance(unlearn, GaussianMixture) else tuple(unlearn)
    if not out or not all(isinstance(one, GaussianMixture) for one in out):
        raise ValueError(f"unlearn: one GaussianMixture or a sequence of them is needed, given {unlearn!r}")
    return out


def check_alpha_bar(alpha_bar: float) -> float:
    """alpha_bar as a float in [0, 1], or a ``ValueError`` that says what was given."""
    level = float(alpha_bar)
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"alpha_bar: a number in [0, 1] is needed, given {alpha_bar!r}")
    return level
