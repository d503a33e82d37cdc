"""Exact scores of the noised targets: closed form for FU, quadrature for RU and LU, at every alpha_bar.

The forward kernel x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) z is the same for q, q_i and p*, so the optimal
reverse process is the reversal of the noised target: score*_t = score_q,t + grad log E_q[w(rho(x_0)) | x_t].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

import duality as du
from toy.mixtures import Array, GaussianMixture, as_mixtures, check_alpha_bar
from toy.scores import score_of_target
from toy.solving import ToySolution

_EPS = float(np.finfo(np.float64).eps)
# Standard-normal lattice for narrow kernels. Spacing .45 aliases at exp(-2 pi^2 s^2/.45^2) for a posterior of deviation
# s in units of the kernel: 1e-42 at s = 1, 3e-11 at s = .5. Reach 7.65 from where q expects it.
_LOCAL = np.arange(-17, 18) * 0.45
_CHUNK = 4_000_000  # numbers in a temporary array


class NoisedLaw(Protocol):
    """Log density (nats) and score of a law of x_0, noised to alpha_bar: (..., d) -> (...) and (..., d)."""

    def log_prob(self, x: ArrayLike, alpha_bar: float = 1.0) -> Array: ...

    def score(self, x: ArrayLike, alpha_bar: float = 1.0) -> Array: ...


class NoisedMixture:
    """A Gaussian mixture at every noise level: ``mixture.noised(alpha_bar)`` under the two names of ``NoisedLaw``."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture = mixture

    def log_prob(self, x: ArrayLike, alpha_bar: float = 1.0) -> Array:
        """log q_t(x), (..., d) -> (...), nats."""
        return self.mixture.noised(alpha_bar).log_prob(x)

    def score(self, x: ArrayLike, alpha_bar: float = 1.0) -> Array:
        """grad log q_t(x), (..., d) -> (..., d)."""
        return self.mixture.noised(alpha_bar).score(x)


class SignedMixture:
    """p = (q - sum_i lam_i q_i)/(1 - L), L = sum_i lam_i, at every noise level: the target of FU in closed form.

    Noising is linear, so p_t = (q_t - sum_i lam_i q_i,t)/(1 - L). Components that q and q_i share are merged first:
    where a q_i is a part of q what remains is an ordinary mixture, without any cancellation.

    Raises ``ValueError`` where multipliers are negative, sum to one or more, or do not match the q_i.
    """

    def __init__(
        self,
        pretrained: GaussianMixture,
        unlearn: GaussianMixture | Sequence[GaussianMixture],
        multipliers: ArrayLike,
    ) -> None:
        parts = as_mixtures(unlearn)
        lam = np.atleast_1d(np.asarray(multipliers, dtype=np.float64))
        if lam.shape != (len(parts),) or not np.all(lam >= 0) or not lam.sum() < 1:
            raise ValueError(f"multipliers: {len(parts)} numbers >= 0 with a sum below 1 are needed, given {lam}")
        weights, means, covariances = _merged(pretrained, parts, lam)
        weights /= 1 - lam.sum()
        positive, negative = weights > 0, weights < 0
        self.mass = float(weights[positive].sum())
        kept = weights[positive] / self.mass
        self.positive = GaussianMixture(kept / kept.sum(), means[positive], covariances[positive])
        self.negative: GaussianMixture | None = None
        if negative.any():
            removed = weights[negative] / weights[negative].sum()
            self.negative = GaussianMixture(removed, means[negative], covariances[negative])

    def log_prob(self, x: ArrayLike, alpha_bar: float = 1.0) -> Array:
        """log p_t(x), (..., d) -> (...), nats; -inf where rounding leaves nothing."""
        log_positive, share = self._parts(x, alpha_bar)
        with np.errstate(divide="ignore"):
            return log_positive + np.log1p(-np.minimum(share, 1.0))

    def score(self, x: ArrayLike, alpha_bar: float = 1.0) -> Array:
        """`grad log p_t(x) = (s_+ - share s_-)/(1 - share)`, share = removed/kept density, (..., d) -> (..., d)."""
        kept = self.positive.noised(alpha_bar).score(x)
        if self.negative is None:
            return kept
        _, share = self._parts(x, alpha_bar)
        # The gap cannot be resolved below a rounding of one: the score stays finite there.
        gap = np.maximum(1 - share, _EPS)[..., None]
        return kept + (share[..., None] / gap) * (kept - self.negative.noised(alpha_bar).score(x))

    def _parts(self, x: ArrayLike, alpha_bar: float) -> tuple[Array, Array]:
        log_positive = np.log(self.mass) + self.positive.noised(alpha_bar).log_prob(x)
        if self.negative is None:
            return log_positive, np.zeros_like(log_positive)
        # The masses differ by one: what is removed is mass - 1.
        log_negative = np.log(self.mass - 1) + self.negative.noised(alpha_bar).log_prob(x)
        return log_positive, np.exp(log_negative - log_positive)


class TiltedLaw:
    """p = q w(rho; lam)/Z at every noise level, by quadrature: the targets of RU and LU (and FU, as a check).

    Wide kernels: a sum over the solution's grid, which factorises into one matrix product per axis. Narrow kernels:
    a lattice in the noise z around each point, E_z[p_0((x - sqrt(1-alpha_bar) z)/sqrt(alpha_bar))]. Both give the
    score by Tweedie's formula.

    Raises ``ValueError`` where the solution's nodes are no grid (``toy.solve`` with nodes=None makes one).
    """

    def __init__(self, toy: ToySolution) -> None:
        if toy.nodes.axes is None:
            raise ValueError("toy: nodes on a grid are needed, given draws or component nodes: take toy.grid")
        self.toy = toy
        self.axes = toy.nodes.axes
        log_mass = np.asarray(toy.solution.log_weights).reshape([len(axis) for axis in self.axes])
        self._top = float(log_mass.max())
        self._mass = np.exp(log_mass - self._top)
        self._spacing = max(float(axis[1] - axis[0]) for axis in self.axes)
        parts = (toy.pretrained, *toy.unlearn)
        self._narrowest = min(float(np.linalg.eigvalsh(part.covariances)[:, 0].min()) for part in parts) ** 0.5

    def log_prob(self, x: ArrayLike, alpha_bar: float = 1.0) -> Array:
        """log p_t(x), (..., d) -> (...), nats."""
        if check_alpha_bar(alpha_bar) == 1:
            return self.toy.log_target(x)
        return self._evaluate(x, alpha_bar)[0]

    def score(self, x: ArrayLike, alpha_bar: float = 1.0) -> Array:
        """grad log p_t(x), (..., d) -> (..., d)."""
        if check_alpha_bar(alpha_bar) == 1:
            return score_of_target(self.toy, x)
        return self._evaluate(x, alpha_bar)[1]

    def log_prob_and_score(self, x: ArrayLike, alpha_bar: float) -> tuple[Array, Array]:
        """Both at once for alpha_bar < 1, at the price of one."""
        if check_alpha_bar(alpha_bar) == 1:
            return self.log_prob(x), self.score(x)
        return self._evaluate(x, alpha_bar)

    def on_lattice(self, axes: Sequence[Array], alpha_bar: float) -> tuple[Array, Array]:
        """``log_prob_and_score`` at the points of a lattice, (n_1, ..., n_d) and (n_1, ..., n_d, d).

        Wide kernels factorise over the lattice too: one row for each of its n_1 + ... + n_d coordinates.
        """
        x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        if len(axes) != 2 or check_alpha_bar(alpha_bar) == 1 or not self._is_wide(alpha_bar):
            return self.log_prob_and_score(x, alpha_bar)
        (first, top), (second, top_2) = (
            _kernel(ticks, axis, alpha_bar) for ticks, axis in zip(axes, self.axes, strict=True)
        )
        rows = first @ self._mass
        density = rows @ second.T
        mean = np.stack([(first * self.axes[0]) @ self._mass @ second.T, rows @ (second * self.axes[1]).T], axis=-1)
        shift = top[:, None] + top_2
        log_density, score = self._finished(
            x.reshape(-1, 2), alpha_bar, density.ravel(), mean.reshape(-1, 2), shift.ravel()
        )
        return log_density.reshape(density.shape), score.reshape(x.shape)

    def _is_wide(self, alpha_bar: float) -> bool:
        width = np.sqrt((1 - alpha_bar) / alpha_bar) if alpha_bar > 0 else np.inf
        # The product of kernel and target must be resolved by the grid: its deviation is at least that of two
        # Gaussians multiplied; at one spacing the rule errs by exp(-2 pi^2) = 3e-9, at 1.4 by e^-38.
        product = width * self._narrowest / np.hypot(width, self._narrowest) if np.isfinite(width) else np.inf
        return bool(product >= 1.4 * self._spacing)

    def _evaluate(self, x: ArrayLike, alpha_bar: float) -> tuple[Array, Array]:
        points = np.asarray(x, dtype=np.float64)
        flat = points.reshape(-1, len(self.axes))
        evaluate = self._wide if self._is_wide(alpha_bar) else self._narrow
        log_density, score = evaluate(flat, float(alpha_bar))
        return log_density.reshape(points.shape[:-1]), score.reshape(points.shape)

    def _wide(self, x: Array, alpha_bar: float) -> tuple[Array, Array]:
        """p_t(x) = sum_j P_j N(x; sqrt(alpha_bar) x_j, (1-alpha_bar) I), the kernel a product over axes."""
        kernels, shift = [], np.zeros(len(x))
        for a, axis in enumerate(self.axes):
            kernel, top = _kernel(x[:, a], axis, alpha_bar)
            kernels.append(kernel)
            shift += top
        density = _contract(self._mass, kernels)
        mean = np.empty_like(x)
        for a, axis in enumerate(self.axes):
            weighted = [kernel * axis if b == a else kernel for b, kernel in enumerate(kernels)]
            mean[:, a] = _contract(self._mass, weighted)
        return self._finished(x, alpha_bar, density, mean, shift)

    def _finished(self, x: Array, alpha_bar: float, density: Array, mean: Array, shift: Array) -> tuple[Array, Array]:
        """Log density and score from the kernels' sums over the masses and over mass times place."""
        d, variance, root = len(self.axes), 1 - alpha_bar, np.sqrt(alpha_bar)
        # Scaled by its largest terms the sum can still underflow far from the target: those few go the long way.
        lost = density < 1e-280
        safe = np.where(lost, 1.0, density)
        log_density = shift + np.log(safe) + self._top - 0.5 * d * np.log(2 * np.pi * variance)
        score = (root * mean / safe[:, None] - x) / variance
        if lost.any():
            log_density[lost], score[lost] = self._narrow(x[lost], alpha_bar, direct=True)
        return log_density, score

    def _narrow(self, x: Array, alpha_bar: float, direct: bool = False) -> tuple[Array, Array]:
        """Sums in log space, point by point: over the grid where ``direct``, else over noise z around the point."""
        d, variance, root = len(self.axes), 1 - alpha_bar, np.sqrt(alpha_bar)
        if direct:
            nodes, log_mass = self.toy.nodes.points, np.asarray(self.toy.solution.log_weights)
        else:
            nodes = np.stack(np.meshgrid(*[_LOCAL] * d, indexing="ij"), axis=-1).reshape(-1, d)
            log_mass = np.full(len(nodes), d * np.log((_LOCAL[1] - _LOCAL[0]) / np.sqrt(2 * np.pi)))
            # Centred where q expects the noise: the tilt moves its posterior only a little further.
            expected = -np.sqrt(variance) * self.toy.pretrained.noised(alpha_bar).score(x)
        log_density, score = np.empty(len(x)), np.empty_like(x)
        step = max(1, _CHUNK // nodes.size)
        for first in range(0, len(x), step):
            part = x[first : first + step]
            if direct:
                noise = (part[:, None, :] - root * nodes) / np.sqrt(variance)
                log_terms = log_mass - 0.5 * np.square(noise).sum(axis=2) - 0.5 * d * np.log(2 * np.pi * variance)
            else:
                noise = expected[first : first + step, None, :] + nodes
                clean = (part[:, None, :] - np.sqrt(variance) * noise) / root
                log_terms = (
                    log_mass - 0.5 * np.square(noise).sum(axis=2) + self.toy.log_target(clean) - d * np.log(root)
                )
            top = log_terms.max(axis=1, keepdims=True)
            terms = np.exp(log_terms - top)
            total = terms.sum(axis=1)
            log_density[first : first + step] = top[:, 0] + np.log(total)
            # score = -E[z | x_t]/sqrt(1 - alpha_bar)
            score[first : first + step] = -np.einsum("nj,njd->nd", terms, noise) / total[:, None] / np.sqrt(variance)
        return log_density, score


def noised_target(toy: ToySolution) -> NoisedLaw:
    """The exact noised target of a solution: ``SignedMixture`` for FU, ``TiltedLaw`` for RU and LU."""
    solution = toy.solution
    if isinstance(solution.problem, du.ForwardKL):
        return SignedMixture(toy.pretrained, toy.unlearn, solution.multipliers)
    return TiltedLaw(toy)


def _kernel(x: Array, axis: Array, alpha_bar: float) -> tuple[Array, Array]:
    """exp(-(x - sqrt(alpha_bar) y)^2 / 2 (1-alpha_bar)) over its largest term, (n, length of the axis), and the log of
    that term, (n,)."""
    exponent = -np.square(x[:, None] - np.sqrt(alpha_bar) * axis) / (2 * (1 - alpha_bar))
    top = exponent.max(axis=1)
    return np.exp(exponent - top[:, None]), top


def _contract(mass: Array, kernels: Sequence[Array]) -> Array:
    """sum over the grid of mass times one kernel (n, length of the axis) per axis, (n,)."""
    out = kernels[0] @ mass.reshape(len(mass), -1)
    for kernel in kernels[1:]:
        out = np.einsum("na,nar->nr", kernel, out.reshape(len(out), kernel.shape[1], -1))
    return out[:, 0]


def _merged(pretrained: GaussianMixture, parts: Sequence[GaussianMixture], lam: Array) -> tuple[Array, Array, Array]:
    """Signed weights, means and covariances of q - sum_i lam_i q_i, equal components added up."""
    weights = list(pretrained.weights)
    scale = list(pretrained.weights)
    means, covariances = list(pretrained.means), list(pretrained.covariances)
    for part, multiplier in zip(parts, lam, strict=True):
        for weight, mean, covariance in zip(part.weights, part.means, part.covariances, strict=True):
            for j in range(len(weights)):
                if np.array_equal(means[j], mean) and np.array_equal(covariances[j], covariance):
                    weights[j] -= multiplier * weight
                    scale[j] = max(scale[j], multiplier * weight)
                    break
            else:
                weights.append(-multiplier * weight)
                scale.append(multiplier * weight)
                means.append(mean)
                covariances.append(covariance)
    # A difference within some roundings of what was subtracted is zero: at lam_max the component is gone.
    signed = np.where(np.abs(weights) <= 8 * _EPS * np.array(scale), 0.0, weights)
    return signed, np.array(means), np.array(covariances)
