"""What problems are posed on: the densities under each prompt on a grid, and all prompts as one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

import duality as du
import toy
from toy.explorer.levels import Range, ranges
from toy.explorer.scenes import Scene
from toy.mixtures import GaussianMixture
from toy.prompts import joined
from toy.quadrature import Nodes, grid


@dataclass(frozen=True, eq=False)
class Board:
    """The scene of one prompt on a grid; ``kept`` are log ratios of the modes that are to be kept, None for no mode."""

    scene: Scene
    nodes: Nodes
    ratios: du.LogRatios
    kept: du.LogRatios | None = None

    @cached_property
    def all_ratios(self) -> du.LogRatios:
        """The ratios of what is to be unlearned, then of what is to be kept."""
        if self.kept is None:
            return self.ratios
        both = (self.ratios, self.kept)
        densities = [one.log_densities for one in both if one.log_densities is not None]
        values = np.hstack([one.values for one in both])
        return du.LogRatios(values, self.ratios.log_weights, np.hstack(densities))

    @property
    def priors(self) -> np.ndarray:
        """(m + k,) of what is to be unlearned and of what is to be kept, 0 where q has none of it."""
        return np.array([*self.scene.priors, *self.scene.shares])

    @property
    def alone(self) -> Stage:
        """A stage of this prompt alone, on which nothing is to be kept."""
        return Stage((replace(self, kept=None),))

    @property
    def coarse_ratios(self) -> du.LogRatios:
        """All ratios on every second node of each axis."""
        assert self.nodes.coarse is not None  # a grid always has them
        return thinned(self.all_ratios, self.nodes.coarse)


@dataclass(frozen=True, eq=False)
class Stage:
    """The boards of all prompts as one: a group of nodes for each, all asked for equally often.

    Where laws depend on no prompt and nothing is kept, the ratios are those of the one board. Else posteriors, which
    belong to a prompt, are detectors: first those of what is to be unlearned, then of what is to be kept.
    """

    boards: tuple[Board, ...]
    _ranges: dict[str, tuple[Range, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def plain(self) -> bool:
        """Whether there is but one law, of which nothing is to be kept."""
        return len(self.boards) == 1 and self.boards[0].kept is None

    @cached_property
    def ratios(self) -> du.LogRatios:
        """All ratios, on all nodes."""
        return self._joined([board.all_ratios for board in self.boards])

    @cached_property
    def coarse(self) -> du.LogRatios:
        """The ratios on every second node of each axis, for curves that are only looked at."""
        return self._joined([board.coarse_ratios for board in self.boards])

    @cached_property
    def unlearned(self) -> du.LogRatios:
        """What is to be unlearned alone, on all nodes."""
        if self.plain:
            return self.ratios
        m = len(self.boards[0].scene.priors)
        values, seen, densities = self.ratios.values, self.ratios.detectors, self.ratios.log_densities
        assert seen is not None
        assert densities is not None
        groups, shares = self.ratios.groups, self.ratios.group_weights
        weights = self.ratios.log_weights
        return du.LogRatios(values[:, :m], weights, densities[:, :m], None, groups, shares, seen[:, :m])

    def ranges(self, key: str) -> tuple[Range, ...]:
        """The ranges of levels under a key of ``LEVEL_KEYS``."""
        if key not in self._ranges:
            self._ranges[key] = ranges(key, self.unlearned)
        return self._ranges[key]

    def _joined(self, parts: list[du.LogRatios]) -> du.LogRatios:
        """The ratios of all boards as one, a group for each."""
        if self.plain:
            return parts[0]
        seen = [posteriors(board.priors, part.values) for board, part in zip(self.boards, parts, strict=True)]
        return joined(parts, np.full(len(parts), 1 / len(parts)), np.concatenate(seen))


def posteriors(priors: np.ndarray, values: np.ndarray) -> np.ndarray:
    """priors_i e^{rho_i}, (m,) and (n, m) -> (n, m), at most 1 also where a prior is next to nothing."""
    with np.errstate(divide="ignore"):  # a prior of exactly zero is allowed: its posterior is zero
        return np.asarray(np.exp(np.minimum(values + np.log(priors), 0.0)))


def board(places: Scene, size: int, reach: float, covered: tuple[GaussianMixture, ...] = ()) -> Board:
    """A scene on a grid of so many nodes per axis; ``covered`` is what else the grid is to cover."""
    nodes = grid(places.pretrained, (*places.unlearn, *places.keeping, *covered), size, reach)
    # Priors at their ends 0 and 1 are for `problem_of` to refuse; the other problems have no use for them.
    usable = np.clip(places.priors, 1e-12, 1 - 1e-12)
    kept = toy.log_ratios(places.pretrained, places.keeping, nodes) if places.keeping else None
    return Board(places, nodes, toy.log_ratios(places.pretrained, places.unlearn, nodes, priors=usable), kept)


def thinned(ratios: du.LogRatios, kept: np.ndarray) -> du.LogRatios:
    """The ratios on some of the nodes (n,), as if there were no others."""
    assert ratios.log_densities is not None  # the explorer's ratios always carry them
    weights = ratios.log_weights[kept]
    weights = weights - weights.max() - np.log(np.exp(weights - weights.max()).sum())
    return du.LogRatios(ratios.values[kept], weights, ratios.log_densities[kept], ratios.priors)
