"""Where q is evaluated: lattices that know their own errors, or draws.

Why the trapezoid rule on a lattice. Its error for a Gaussian N(m, C) with spacings h is known exactly: by Poisson
summation it is sum over k != 0 of exp(-2 pi^2 k^T H^-1 C H^-1 k), H = diag(h), so a spacing of .7 standard deviations
already gives 4e-18; the targets are analytic tilts of such densities. Its nodes carry weights q(x) h^d in log space,
so that a target may live where q is 1e-300 as long as the lattice reaches there. And the rule checks itself: the
target's mass on the outer layer says what is cut off, the same rule at twice the spacing says what is unresolved.

Two lattices: ``grid`` covers all components by one box (right when their widths are alike); ``component_nodes`` gives
every component of q its own lattice in its whitened coordinates (right for near-singular covariances and far modes).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toy.mixtures import Array, GaussianMixture, as_mixtures

# Half-width of a lattice in standard deviations: 9 leaves 2e-19 of a Gaussian outside.
REACH = 9.0
# Aliasing exponent 2 pi^2 k^T H^-1 C H^-1 k: at 40 the rule is exact to e^-40 = 4e-18, at 640 (a quarter of that
# spacing) so are functions four times narrower than the components: the room that tilts need.
_RESOLVED, _COMFORTABLE = 40.0, 640.0
_LEAST_PER_AXIS, _MOST_NODES = 81, 2_000_000


@dataclass(frozen=True, eq=False)
class Nodes:
    """E_q[f] = sum_j exp(log_weights_j) f(points_j).

    Attributes:
        points: (n, d).
        log_weights: (n,), log of weights that sum to one; None where the points are equal draws of q.
        edge: (n,) bool, the outer layer of the lattice (a twentieth of its width on each side).
        coarse: (n,) bool, the sub-lattice of twice the spacing.
        axes: per coordinate, for a tensor grid. edge, coarse are None for draws.
    """

    points: Array
    log_weights: Array | None = None
    edge: np.ndarray | None = None
    coarse: np.ndarray | None = None
    axes: tuple[Array, ...] | None = None

    def __len__(self) -> int:
        return len(self.points)

    @property
    def dimension(self) -> int:
        """d, the dimension of the space."""
        return int(self.points.shape[1])


def grid(
    pretrained: GaussianMixture,
    unlearn: GaussianMixture | Sequence[GaussianMixture] = (),
    per_axis: int | None = None,
    reach: float = REACH,
) -> Nodes:
    """Tensor trapezoid rule for q on the box that covers ``reach`` standard deviations of every component.

    Args:
        pretrained: the mixture q.
        unlearn: the q_i, covered too (FU integrates under them).
        per_axis: nodes per coordinate; None takes as many as the narrowest component asks for (at least 81, at most 2e6
            in all).

    Raises ``ValueError`` where the spacing does not resolve a component of q or of a q_i (it says how many nodes
    would), or the dimension is above 3 (take ``draws``).
    """
    mixtures = (pretrained, *(as_mixtures(unlearn) if unlearn != () else ()))
    d = pretrained.dimension
    if d > 3:
        raise ValueError(f"pretrained: a grid needs dimension 1 to 3, given {d}: take toy.draws")
    lower, upper = _box(mixtures, reach)
    if per_axis is None:
        most = int(_MOST_NODES ** (1 / d))
        per_axis = min(max(_LEAST_PER_AXIS, _nodes_needed(mixtures, upper - lower, _COMFORTABLE)), most)
    _check_per_axis(per_axis)
    needed = _nodes_needed(mixtures, upper - lower, _RESOLVED)
    if per_axis < needed:
        raise ValueError(
            f"per_axis: {needed} nodes per coordinate are needed to resolve the narrowest component over a box of "
            f"widths {np.array2string(upper - lower, precision=3)}, given {per_axis}"
            + ("" if needed**d <= _MOST_NODES else "; toy.component_nodes follows each component instead")
        )
    axes = tuple(np.linspace(lo, hi, per_axis) for lo, hi in zip(lower, upper, strict=True))
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, d)
    log_weights = pretrained.log_prob(points) + np.log((upper - lower) / (per_axis - 1)).sum()
    return Nodes(points, _normalised(log_weights), *_marks(per_axis, d), axes)


def component_nodes(pretrained: GaussianMixture, per_axis: int = 81, reach: float = REACH) -> Nodes:
    """Trapezoid rule for q, component by component: x = m_k + C_k^(1/2) z, weight w_k phi(z) h^d.

    Exact for any covariances and distances as far as q is concerned; where a wide component overlaps a much narrower
    one, ``check_resolution`` tells whether the wide lattice sees it. Raises ``ValueError`` for a dimension above 3,
    or for a spacing that does not resolve the standard normal.
    """
    d = pretrained.dimension
    if d > 3:
        raise ValueError(f"pretrained: a lattice needs dimension 1 to 3, given {d}: take toy.draws")
    _check_per_axis(per_axis)
    _check_reach(reach)
    standard = GaussianMixture([1.0], np.zeros((1, d)), 1.0)
    needed = _nodes_needed((standard,), np.full(d, 2 * reach), _RESOLVED)
    if per_axis < needed:
        raise ValueError(f"per_axis: {needed} nodes per coordinate resolve a component, given {per_axis}")
    axis = np.linspace(-reach, reach, per_axis)
    z = np.stack(np.meshgrid(*[axis] * d, indexing="ij"), axis=-1).reshape(-1, d)
    used = np.flatnonzero(pretrained.weights > 0)
    points = np.concatenate([pretrained.means[k] + z @ pretrained.roots[k].T for k in used])
    log_weights = np.add.outer(np.log(pretrained.weights[used]), standard.log_prob(z)).ravel()
    edge, coarse = _marks(per_axis, d)
    return Nodes(
        points,
        _normalised(log_weights + d * np.log(axis[1] - axis[0])),
        np.tile(edge, len(used)),
        np.tile(coarse, len(used)),
    )


def draws(pretrained: GaussianMixture, n: int, generator: np.random.Generator) -> Nodes:
    """n independent draws of q as nodes of equal weight: answers then carry a standard error."""
    return Nodes(pretrained.sample(n, generator))


def _box(mixtures: Sequence[GaussianMixture], reach: float) -> tuple[Array, Array]:
    _check_reach(reach)
    if len({mixture.dimension for mixture in mixtures}) > 1:
        raise ValueError("unlearn: mixtures of the dimension of the pretrained one are needed")
    lows, highs = [], []
    for mixture in mixtures:
        used = mixture.weights > 0
        spread = reach * np.sqrt(np.diagonal(mixture.covariances[used], axis1=1, axis2=2))
        lows.append((mixture.means[used] - spread).min(axis=0))
        highs.append((mixture.means[used] + spread).max(axis=0))
    return np.min(lows, axis=0), np.max(highs, axis=0)


def _nodes_needed(mixtures: Sequence[GaussianMixture], widths: Array, exponent: float) -> int:
    """Least odd number of nodes per axis for which every component's aliasing exponent reaches ``exponent``."""
    # k^T H^-1 C H^-1 k grows with the square of the number of intervals.
    # The q_i are often components of q: each covariance is looked at once.
    covariances = {c.tobytes(): c for m in mixtures for c in m.covariances[m.weights > 0]}.values()
    least = min(_least_form(c / np.outer(widths, widths)) for c in covariances)
    intervals = int(np.ceil(np.sqrt(exponent / (2 * np.pi**2 * max(least, 1e-300)))))
    return intervals + 1 + intervals % 2


def _least_form(form: Array) -> float:
    """min k^T A k over integer vectors k != 0 for positive definite A, (d, d), searched over `|k| <= 64`.

    Given all coordinates but the last, the best last one is the real minimiser rounded either way; that follows a
    thin ridge at any angle. (In three dimensions the other two run to 8.)
    """
    d = len(form)
    bound = 64 if d < 3 else 8
    free = np.array(list(itertools.product(range(-bound, bound + 1), repeat=d - 1)), dtype=np.float64)
    best = -(free @ form[:-1, -1]) / form[-1, -1]
    k = np.concatenate([np.column_stack([free, np.floor(best) + offset]) for offset in (0.0, 1.0)])
    k = np.vstack([k[np.any(k != 0, axis=1)], np.eye(d)])
    return float(np.einsum("fi,ij,fj->f", k, form, k).min())


def _marks(per_axis: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(per_axis)
    layer = max(1, per_axis // 20)
    outer = (index < layer) | (index >= per_axis - layer)
    edge = np.zeros((per_axis,) * d, dtype=bool)
    coarse = np.ones((per_axis,) * d, dtype=bool)
    for axis in range(d):
        shape = [1] * d
        shape[axis] = per_axis
        edge |= outer.reshape(shape)
        coarse &= (index % 2 == 0).reshape(shape)
    return edge.ravel(), coarse.ravel()


def _normalised(log_weights: Array) -> Array:
    """Log weights that sum to one; an error where the rule did not see all of q to begin with."""
    top = log_weights.max()
    log_sum = top + np.log(np.exp(log_weights - top).sum())
    # 1e-9: above truncation and aliasing (below 1e-16 for the defaults) and summation error, below all that is asked.
    if not abs(np.expm1(log_sum)) <= 1e-9:
        raise ValueError(
            f"nodes: they see {np.exp(log_sum):.12g} of q's mass instead of 1: "
            + ("a larger reach is needed" if log_sum < 0 else "more nodes per axis are needed")
        )
    return log_weights - log_sum


def _check_per_axis(per_axis: int) -> None:
    if isinstance(per_axis, bool) or not isinstance(per_axis, int | np.integer) or per_axis < 3:
        raise ValueError(f"per_axis: a number of nodes of at least 3 is needed, given {per_axis!r}")


def _check_reach(reach: float) -> None:
    if not (np.isfinite(reach) and reach > 0):
        raise ValueError(f"reach: a number of standard deviations > 0 is needed, given {reach!r}")
