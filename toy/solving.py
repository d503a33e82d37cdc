"""From mixtures to an answer: log ratios on nodes, the solve, and the checks that the nodes saw the target."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

import duality as du
from toy.mixtures import Array, GaussianMixture, as_mixtures
from toy.quadrature import REACH, Nodes, grid

Problem = du.Problem


class TruncationError(ValueError):
    """The target has mass where the nodes end. ``.mass``: the share of it on the outer layer."""

    def __init__(self, message: str, mass: float) -> None:
        super().__init__(message)
        self.mass = mass


class ResolutionError(ValueError):
    """The target varies faster than the nodes. ``.error``: estimated relative error of mass and cost."""

    def __init__(self, message: str, error: float) -> None:
        super().__init__(message)
        self.error = error


@dataclass(frozen=True, eq=False)
class ToySolution:
    """A solution together with the mixtures and nodes it belongs to: what plots, samplers and tables start from."""

    solution: du.Solution
    ratios: du.LogRatios
    nodes: Nodes
    pretrained: GaussianMixture
    unlearn: tuple[GaussianMixture, ...]

    def log_ratio(self, x: ArrayLike) -> Array:
        """rho_i(x) = log q_i(x)/q(x), (..., d) -> (..., m), nats."""
        return log_ratios_at(self.pretrained, self.unlearn, x)

    def log_target(self, x: ArrayLike) -> Array:
        """log p*(x) = log q(x) + log w(rho(x)) - log Z, (..., d) -> (...), nats.

        Where no density attains the levels this is the limit density. With draws as nodes Z is an estimate.
        """
        log_q, rho, log_densities = _evaluated(self.pretrained, self.unlearn, x)
        read = np.where(self._reads_densities, log_densities, rho)
        return log_q + np.asarray(self.solution.log_weight(read)) - self.log_normaliser

    def log_weight(self, x: ArrayLike) -> Array:
        """log w(rho(x); lam*), (..., d) -> (...), nats."""
        return np.asarray(self.solution.log_weight(self.inputs(x)))

    def inputs(self, x: ArrayLike) -> Array:
        """What ``Solution.log_weight`` takes at x, (..., d) -> (..., m): log ratios, and log densities for the density
        likelihood, which is a function of log q_i alone."""
        _, rho, log_densities = _evaluated(self.pretrained, self.unlearn, x)
        return np.where(self._reads_densities, log_densities, rho)

    @cached_property
    def _reads_densities(self) -> np.ndarray:
        """(m,) of which constraints the likelihood is the density itself."""
        problem = self.solution.problem
        parts = problem.problems if isinstance(problem, du.Joint) else (problem,)
        return np.repeat([getattr(part, "kind", "") == "density" for part in parts], [p.levels.size for p in parts])

    @cached_property
    def log_normaliser(self) -> float:
        """log Z = log E_q[w], nats, on the nodes."""
        weight = self.log_weight(self.nodes.points) + self.ratios.log_weights
        top = weight.max()
        return float(top + np.log(np.exp(weight - top).sum()))


def log_ratios_at(pretrained: GaussianMixture, unlearn: Sequence[GaussianMixture], x: ArrayLike) -> Array:
    """rho_i(x) = log q_i(x) - log q(x), (..., d) -> (..., m), nats."""
    return _evaluated(pretrained, unlearn, x)[1]


def _evaluated(
    pretrained: GaussianMixture, unlearn: Sequence[GaussianMixture], x: ArrayLike
) -> tuple[Array, Array, Array]:
    """log q (...), rho_i (..., m) as in ``log_ratio``, log q_i (..., m) at x (..., d): each density evaluated once."""
    if any(one.dimension != pretrained.dimension for one in unlearn):
        raise ValueError(f"unlearn: dimension {pretrained.dimension} is needed, given another")
    top, log_sum = pretrained.shifted_log_prob(x)
    parts = [one.shifted_log_prob(x) for one in unlearn]
    rho = np.array([(top_i - top) + (log_sum_i - log_sum) for top_i, log_sum_i in parts])
    log_densities = np.array([top_i + log_sum_i for top_i, log_sum_i in parts])
    return top + log_sum, np.moveaxis(rho, 0, -1), np.moveaxis(log_densities, 0, -1)


def nodes_for(
    pretrained: GaussianMixture,
    unlearn: GaussianMixture | Sequence[GaussianMixture],
    nodes: Nodes | int | None = None,
) -> Nodes:
    """Nodes as given; a whole number is the number per axis of a grid, None leaves it to the components' widths."""
    if isinstance(nodes, Nodes):
        if nodes.dimension != pretrained.dimension:
            raise ValueError(f"nodes: dimension {pretrained.dimension} is needed, given {nodes.dimension}")
        return nodes
    return grid(pretrained, unlearn, nodes)


def log_ratios(
    pretrained: GaussianMixture,
    unlearn: GaussianMixture | Sequence[GaussianMixture],
    nodes: Nodes | int | None = None,
    priors: ArrayLike | None = None,
) -> du.LogRatios:
    """rho_ji = log q_i(x_j) - log q(x_j) at nodes x_j of q, with the nodes' log weights and log q_i(x_j).

    Args:
        pretrained: q.
        unlearn: one mixture, or the q_i.
        nodes: a ``Nodes`` (grid, component_nodes, draws), the number of nodes per axis of a grid, or None for a grid
            that resolves every component.
        priors: (m,), pi_i in (0, 1), for posterior likelihoods.

    Returns ``duality.LogRatios`` with values (n, m), log_weights (n,) (None for draws), log_densities (n, m), nats.
    Raises ``ValueError`` where dimensions differ or the nodes do not resolve q.
    """
    targets = as_mixtures(unlearn)
    places = nodes_for(pretrained, targets, nodes)
    _, rho, log_densities = _evaluated(pretrained, targets, places.points)
    return du.LogRatios(
        rho,
        log_weights=places.log_weights,
        log_densities=log_densities,
        priors=None if priors is None else np.asarray(priors, dtype=np.float64),
    )


def solve(
    problem: Problem,
    pretrained: GaussianMixture,
    unlearn: GaussianMixture | Sequence[GaussianMixture],
    nodes: Nodes | int | None = None,
    priors: ArrayLike | None = None,
) -> ToySolution:
    """``duality.solve`` on nodes that have been shown to see the target: p* = q exp(log w(rho; lam*))/Z.

    Arguments as in ``log_ratios``. With ``nodes=None`` the grid grows, then thickens, until both checks pass.

    Raises ``TruncationError``, ``ResolutionError`` (both ``ValueError``) where given nodes do not see the target, and
    what ``duality.solve`` raises.
    """
    targets = as_mixtures(unlearn)
    reach, per_axis = REACH, nodes if isinstance(nodes, int) else None
    while True:
        places = nodes if isinstance(nodes, Nodes) else grid(pretrained, targets, per_axis, reach)
        ratios = log_ratios(pretrained, targets, places, priors)
        try:
            with warnings.catch_warnings():
                # Mixtures are laws. What their masses on these nodes lack is the nodes', and is checked here.
                warnings.simplefilter("ignore", du.MassWarning)
                solution = du.solve(problem, ratios)
            check_truncation(solution, places)
            check_masses(solution, ratios)
            check_resolution(solution, places)
        except (TruncationError, du.InfeasibleError):
            # What a lattice cannot reach a larger one may: log ratios are unbounded, the lattice's are not.
            # 9, 13.5, 20.25, 30.4, 45.6: beyond that the target has left the neighbourhood of q for good.
            if nodes is not None or reach > 45:
                raise
            reach *= 1.5
        except ResolutionError:
            if nodes is not None or 4 * len(places) > 2_000_000:
                raise
            per_axis = 2 * len(places.axes[0]) - 1 if places.axes else None
        else:
            return ToySolution(solution, ratios, places, pretrained, targets)


def check_truncation(solution: du.Solution, nodes: Nodes, tolerance: float = 1e-9) -> float:
    """Mass of the target on the outer layer of the nodes; ``TruncationError`` where it exceeds the tolerance.

    The layer is a twentieth of the lattice's width. Mass beyond it is less than mass on it as soon as the density
    falls by half across the layer, which a Gaussian does by a factor of 40 at 8 standard deviations. 1e-9: a log
    ratio of 100 nats on the mass left out then changes costs and levels by 1e-7. Draws have no edge, and where nothing
    of q is left (a NaN cost) there is no target: 0 is returned.
    """
    if nodes.edge is None or np.isnan(solution.primal):
        return 0.0
    mass = float(np.exp(np.asarray(solution.log_weights))[nodes.edge].sum())
    if not mass <= tolerance:
        raise TruncationError(
            f"nodes: {mass:.2g} of the target's mass lies on the outer layer (at most {tolerance:.0e} is allowed): "
            "take a larger reach, or a level nearer to what q has",
            mass,
        )
    return mass


def check_masses(solution: du.Solution, ratios: du.LogRatios, tolerance: float = 1e-9) -> float:
    """`max_i |E_q[e^rho_i] - 1|` where the problem integrates under the q_i (FU); ``TruncationError`` beyond tolerance.

    The others need q_i only where their targets live: 0 is returned for them, and for draws.
    """
    if ratios.is_draws or not isinstance(solution.problem, du.ForwardKL):
        return 0.0
    missed = float(np.abs(ratios.masses - 1).max())
    if not missed <= tolerance:
        raise TruncationError(
            f"nodes: they miss {missed:.2g} of the mass of an unlearning density (at most {tolerance:.0e} is allowed): "
            "take nodes that cover the unlearning densities too",
            missed,
        )
    return missed


def check_resolution(solution: du.Solution, nodes: Nodes, tolerance: float = 1e-8) -> float:
    """Estimated relative error of the rule on the target; ``ResolutionError`` where it exceeds the tolerance.

    The sub-lattice of twice the spacing integrates the target's mass, 1, and its cost; let e be the larger relative
    error. The trapezoid rule for an analytic function errs by exp(-c/h) (exp(-c/h^2) for a Gaussian), so at the full
    lattice the error is at most e^2, which is returned. Where log w is -inf on nodes (the limit of FU) cost is left
    out: it has a logarithmic singularity there. Draws, and no target (a NaN cost): 0 is returned.
    """
    if nodes.coarse is None or nodes.log_weights is None or np.isnan(solution.primal):
        return 0.0
    target, base = np.asarray(solution.log_weights), nodes.log_weights
    factor = 2.0**nodes.dimension
    error = abs(factor * np.exp(target[nodes.coarse]).sum() - 1)
    if np.all(np.isfinite(target)):
        forward = isinstance(solution.problem, du.ForwardKL)
        cost = np.exp(base) * (base - target) if forward else np.exp(target) * (target - base)
        error = max(error, abs(factor * cost[nodes.coarse].sum() - cost.sum()) / (1 + abs(cost.sum())))
    estimate = float(error) ** 2
    if not estimate <= tolerance:
        raise ResolutionError(
            f"nodes: the estimated relative error of the rule on the target is {estimate:.2g} (at most "
            f"{tolerance:.0e} is allowed): take more nodes per axis",
            estimate,
        )
    return estimate
