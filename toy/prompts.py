"""Laws under prompts: mixtures whose weights depend on a prompt c, and problems on all prompts at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

import duality as du
from toy.mixtures import Array, GaussianMixture
from toy.quadrature import REACH, Nodes, grid
from toy.solving import Problem, check_masses, check_resolution, check_truncation, log_ratios

Modes = int | Sequence[int]


class PromptedMixture:
    """q_c(x) = sum_k weights_ck N(x; means_k, covariances_k) under prompt c, asked for with probability shares_c.

    Args:
        weights: (C, k), a row of probabilities for each prompt.
        means, covariances: of the modes, which all prompts share; as for ``GaussianMixture``.
        shares: (C,) P(c) > 0, a sum of 1; left out, all prompts are asked for equally often.

    A concept is a mode or several, S: under prompt c it has the prior `pi_c = sum_{k in S} weights_ck`, the law
    `q_{S,c} = sum_{k in S} weights_ck N_k / pi_c`, and the posterior `Pr(S|x, c) = pi_c q_{S,c}(x)/q_c(x)`.

    Raises ``ValueError`` for shapes that disagree, shares that are no probabilities, and what ``GaussianMixture`` does.

    >>> q = PromptedMixture([[0.5, 0.5], [0.1, 0.9]], [-1.0, 1.0], 1.0, shares=[0.2, 0.8])
    >>> [round(float(prior), 3) for prior in (*q.priors(0), q.pooled.weights[0])]
    [0.5, 0.1, 0.18]
    """

    laws: tuple[GaussianMixture, ...]
    shares: Array

    def __init__(
        self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike, shares: ArrayLike | None = None
    ) -> None:
        table = np.array(weights, dtype=np.float64)
        if table.ndim != 2 or not len(table):
            raise ValueError(f"weights: shape (C, k), a row for each prompt, is needed, given {table.shape}")
        given = np.full(len(table), 1 / len(table)) if shares is None else np.array(shares, dtype=np.float64)
        if given.shape != (len(table),) or not np.all(given > 0) or not abs(given.sum() - 1) <= 1e-9:
            raise ValueError(f"shares: {len(table)} probabilities above 0 with a sum of 1 are needed, given {given}")
        self.laws = tuple(GaussianMixture(row, means, covariances) for row in table)
        self.shares = given / given.sum()
        self.shares.flags.writeable = False

    def __len__(self) -> int:
        return len(self.laws)

    @property
    def weights(self) -> Array:
        """(C, k), as given."""
        return np.array([law.weights for law in self.laws])

    @cached_property
    def pooled(self) -> GaussianMixture:
        """sum_c P(c) q_c, what is seen of the samples where nobody looks at the prompts."""
        first = self.laws[0]
        return GaussianMixture(self.shares @ self.weights, first.means, first.covariances)

    def priors(self, modes: Modes) -> Array:
        """pi_c of a concept, (C,)."""
        return np.asarray(self.weights[:, self._chosen(modes)].sum(axis=1))

    def concept(self, modes: Modes, prompt: int) -> GaussianMixture:
        """`q_{S,c}`. Raises ``ValueError`` where the prompt never shows the concept."""
        law, chosen = self.laws[prompt], self._chosen(modes)
        weights = law.weights[chosen]
        if not weights.sum() > 0:
            raise ValueError(f"modes: prompt {prompt} has no weight on {chosen}, so the concept has no law there")
        return GaussianMixture(weights / weights.sum(), law.means[chosen], law.covariances[chosen])

    def nodes(self, per_axis: int | None = None, reach: float = REACH) -> tuple[Nodes, ...]:
        """A grid for each q_c, on one lattice. per_axis, reach, and ``ValueError``, as in ``toy.grid``."""
        return tuple(grid(law, self.pooled, per_axis, reach) for law in self.laws)

    def log_ratios(self, concepts: Sequence[Modes], nodes: Sequence[Nodes] | int | None = None) -> du.LogRatios:
        """`log q_{i,c}/q_c` and Pr(i|x, c) at nodes of every q_c, a group of nodes for each prompt.

        Args:
            concepts: S_1, …, S_m, modes of each.
            nodes: for each prompt those of its q_c (draws of it are nodes, too), or the number per axis of grids.

        Returns ``duality.LogRatios`` whose detectors (n, m) are Pr(i|x, c): for ``Likelihood(kind="detector")`` and
        ``Keep``, each of which may read some of the columns (``Joint(columns=)``). Values (n, m) are there where every
        prompt shows every concept: for ``ReverseKL`` and ``ForwardKL``. Raises ``ValueError`` for modes that q lacks.
        """
        if not concepts:
            raise ValueError("concepts: at least one is needed, given none")
        chosen = [self._chosen(modes) for modes in concepts]
        places = self.nodes(nodes) if nodes is None or isinstance(nodes, int) else tuple(nodes)
        if len(places) != len(self):
            raise ValueError(f"nodes: {len(self)} of them, one for each prompt, are needed, given {len(places)}")
        laws = zip(self.laws, places, strict=True)
        seen = [np.column_stack([law.posterior(at.points)[:, k].sum(axis=1) for k in chosen]) for law, at in laws]
        if min(float(self.priors(modes).min()) for modes in concepts) > 0:
            own = [[self.concept(modes, c) for modes in chosen] for c in range(len(self))]
            parts = [log_ratios(*one) for one in zip(self.laws, own, places, strict=True)]
        else:
            parts = [du.LogRatios(None, at.log_weights, detectors=one) for at, one in zip(places, seen, strict=True)]
        return joined(parts, self.shares, np.concatenate(seen))

    def _chosen(self, modes: Modes) -> list[int]:
        chosen = [int(modes)] if isinstance(modes, int | np.integer) else [int(k) for k in modes]
        count = len(self.laws[0])
        if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= k < count for k in chosen):
            raise ValueError(f"modes: different ones of 0 … {count - 1} are needed, given {modes!r}")
        return chosen


@dataclass(frozen=True, eq=False)
class PromptedSolution:
    """A solution on the distribution of prompts, with the nodes of each q_c that it was found on."""

    solution: du.Solution
    ratios: du.LogRatios
    nodes: tuple[Nodes, ...]
    prompted: PromptedMixture

    @cached_property
    def targets(self) -> tuple[Array, ...]:
        """log masses of p_c at the nodes of each prompt, (n_c,) each with a sum of one, nats."""
        return tuple(under(self.solution.log_weights, self.ratios, c) for c in range(len(self.nodes)))

    @cached_property
    def costs(self) -> Array:
        """KL(p_c||q_c), or KL(q_c||p_c) for FU, (C,) nats; their mean over P is the cost."""
        base = [under(self.ratios.log_weights, self.ratios, c) for c in range(len(self.nodes))]
        return np.array([self.solution.problem.cost(_bare(q), p) for q, p in zip(base, self.targets, strict=True)])

    @cached_property
    def shown(self) -> Array:
        """`E_{p_c}[Pr(i|x, c)]`, (C, m), how much of each concept the target shows under each prompt."""
        assert self.ratios.detectors is not None
        assert self.ratios.groups is not None
        tables = [self.ratios.detectors[self.ratios.groups == c] for c in range(len(self.nodes))]
        return np.array([np.exp(p) @ table for p, table in zip(self.targets, tables, strict=True)])


def solve_prompted(
    problem: Problem,
    prompted: PromptedMixture,
    concepts: Sequence[Modes],
    nodes: Sequence[Nodes] | int | None = None,
) -> PromptedSolution:
    """``duality.solve`` over all prompts, with one multiplier for each level and a normaliser Z_c for each prompt.

    Arguments as in ``PromptedMixture.log_ratios``. Raises ``TruncationError``, ``ResolutionError`` where the nodes of
    some prompt do not see its target (take ``prompted.nodes(per_axis, reach)``), and what ``duality.solve`` raises.
    """
    places = prompted.nodes(nodes) if nodes is None or isinstance(nodes, int) else tuple(nodes)
    ratios = prompted.log_ratios(concepts, places)
    with warnings.catch_warnings():
        # Mixtures are laws. What their masses on these nodes lack is the nodes', and is checked below.
        warnings.simplefilter("ignore", du.MassWarning)
        solution = du.solve(problem, ratios)
    found = PromptedSolution(solution, ratios, places, prompted)
    check_masses(solution, ratios)
    for at, target in zip(places, found.targets, strict=True):
        alone = replace(solution, log_weights=target)
        check_truncation(alone, at)
        check_resolution(alone, at)
    return found


def joined(parts: Sequence[du.LogRatios], shares: ArrayLike, detectors: ArrayLike | None = None) -> du.LogRatios:
    """The log ratios of C prompts as one, in which prompt c is group c and weighs shares_c.

    Args:
        parts: of each prompt, all with the same columns; priors are left out, as they differ.
        detectors: (n, k), of all nodes, one prompt after the other.

    Raises:
        ValueError: some parts are draws and others are not.
    """
    draws = {part.is_draws for part in parts}
    if len(draws) != 1:
        raise ValueError("parts: draws for all prompts, or nodes with weights for all, are needed")
    densities = [part.log_densities for part in parts if part.log_densities is not None]
    return du.LogRatios(
        np.concatenate([part.values for part in parts]) if parts[0].m else None,
        None if draws.pop() else np.concatenate([part.log_weights for part in parts]),
        np.concatenate(densities) if len(densities) == len(parts) else None,
        groups=np.repeat(np.arange(len(parts)), [part.n for part in parts]),
        group_weights=shares,
        detectors=detectors,
    )


def under(log_weights: ArrayLike, ratios: du.LogRatios, prompt: int) -> Array:
    """Log masses of the law of one prompt, with a sum of one, from those of all, (n,) -> (n_c,)."""
    assert ratios.groups is not None
    assert ratios.group_weights is not None
    held = np.asarray(log_weights)[ratios.groups == prompt]
    return np.asarray(held - np.log(ratios.group_weights[prompt]))


def _bare(log_weights: Array) -> du.LogRatios:
    """Nodes with weights of which nothing else is known: all that a cost is computed from."""
    return du.LogRatios(np.zeros(len(log_weights)), log_weights)
