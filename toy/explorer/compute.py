"""From a view's state to its numbers: nodes, solution, dual function, trade-off curve. No browser, no Panel."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from threadpoolctl import ThreadpoolController

import duality as du
import toy
from toy.dual import domain_end
from toy.explorer.curves import Curve, dual_curve, frontier_curve
from toy.explorer.levels import Range, ranges, suggested
from toy.explorer.state import EntryError, Scene, State, scene
from toy.quadrature import REACH, Nodes, grid
from toy.solving import ResolutionError, ToySolution, TruncationError, check_masses, check_resolution, check_truncation

# Intervals per narrowest standard deviation of the first grid. toy.grid's own default doubles it; a grid of half as
# many per axis solves four times as fast, its error is checked just the same, and it is refined where it fails.
_DENSITY = 2.9
_LEAST, _MOST = 61, 401
_LARGE = 25_000  # nodes from which it pays to solve on every second node of each axis first
# Nodes with less mass than this (log) under q and every q_i are left out of curves that are only looked at. Tilts with
# w <= 1 cannot make much of them; those by log ratios can, as the target may leave the neighbourhood of q.
_FAINT, _FAINTER = -30.0, -95.0


@dataclass(frozen=True, eq=False)
class Board:
    """A scene on a grid: what every problem posed on it shares. ``coarse`` is the sub-lattice of twice the spacing."""

    scene: Scene
    nodes: Nodes
    ratios: du.LogRatios
    _ranges: dict[str, tuple[Range, ...]] = field(default_factory=dict, init=False, repr=False)

    def ranges(self, key: str) -> tuple[Range, ...]:
        """The ranges of levels under a key of ``LEVEL_KEYS``."""
        if key not in self._ranges:
            self._ranges[key] = ranges(key, self.ratios)
        return self._ranges[key]

    @cached_property
    def coarse(self) -> du.LogRatios:
        """The ratios on every second node of each axis, for curves of tilts that are bounded by 1."""
        return self._thinned(_FAINT)

    @cached_property
    def coarse_and_wide(self) -> du.LogRatios:
        """The same for tilts by log ratios."""
        return self._thinned(_FAINTER)

    def _thinned(self, least: float) -> du.LogRatios:
        ratios = self.ratios
        assert self.nodes.coarse is not None  # a grid always has them
        assert ratios.log_densities is not None
        heaviest = ratios.log_weights + np.maximum(ratios.values.max(axis=1), 0.0)
        kept = self.nodes.coarse & (heaviest > least)
        weights = ratios.log_weights[kept]
        weights = weights - weights.max() - np.log(np.exp(weights - weights.max()).sum())
        return du.LogRatios(ratios.values[kept], weights, ratios.log_densities[kept], ratios.priors)


@dataclass(frozen=True, eq=False)
class View:
    """A state with its numbers.

    errors : place -> what is wrong there, empty where all is well. answer, dual, frontier : None where the problem has
    no answer. end : end of the dual domain along the chosen multiplier. truncation, resolution : estimated errors of
    the grid (mass at its edge; relative error of mass and cost).
    """

    state: State
    errors: dict[str, str] = field(default_factory=dict)
    board: Board | None = None
    ranges: tuple[Range, ...] = ()
    levels: tuple[float, ...] = ()
    answer: ToySolution | None = None
    dual: Curve | None = None
    frontier: Curve | None = None
    end: float = float("inf")
    truncation: float = 0.0
    resolution: float = 0.0


class Engine:
    """Solves views one after the other and remembers what the next one can use: grids and ratios of the modes."""

    def __init__(self) -> None:
        self._boards: dict[tuple[object, ...], Board] = {}
        # Per problem, by how much the last grid that served was finer and wider than the first guess: dragging a mode
        # asks for the same again.
        self._strain: dict[str, tuple[float, float]] = {}
        self._last: tuple[object, View] | None = None
        self._threads = ThreadpoolController()

    def forget(self) -> None:
        """Start afresh, for modes that have nothing to do with the last ones."""
        self._boards.clear()
        self._strain.clear()
        self._last = None

    def view(self, state: State, curves: bool = True) -> View:
        """Everything about a state; never raises for entries that make no sense, but says so in ``errors``."""
        try:
            places = scene(state.modes)
        except EntryError as error:
            return View(state, {error.place: str(error)})
        # Thousands of products of small matrices: threads that wait for each other take longer than they save,
        # the more so where something else runs beside the explorer.
        asked = (state.modes, state.key, state.levels.get(state.key), state.concept, curves)
        if self._last is not None and self._last[0] == asked:
            # What the numbers do not depend on has changed: the noise level, the open section and the like.
            return replace(self._last[1], state=state)
        with self._threads.limit(limits=1, user_api="blas"):
            view = self._solved(state, places, curves)
        self._last = ((*asked[:2], view.levels or asked[2], *asked[3:]), view)
        return view

    def _solved(self, state: State, places: Scene, curves: bool) -> View:
        key = state.key
        finer, wider = self._strain.get(key, (1.0, 1.0))
        try:
            first = _first_size(places, REACH)
            reach = REACH * wider
            size = min(_odd(finer * wider * first), _MOST)
            board = self._board(state, places, size, reach)
            state_ranges = board.ranges(key)
        except ValueError as error:
            return View(state, {"problem": str(error)})
        levels = state.levels.get(key) or suggested(state_ranges)
        blank = View(state, {}, board, state_ranges, levels)
        try:
            check_concepts(state, places)
            problem = problem_of(state, places, levels)
            while True:
                try:
                    return self._finish(blank, board, problem, curves)
                except (TruncationError, ResolutionError, du.InfeasibleError) as error:
                    # What a lattice cannot reach a larger one may: log ratios are unbounded, the lattice's are not.
                    if isinstance(error, ResolutionError):
                        size = _odd(1.45 * size)  # twice the nodes; the error falls exponentially in their number
                    else:
                        size, reach = _odd(1.5 * size), 1.5 * reach
                    if size > _MOST or reach > 31:
                        raise
                    board = self._board(state, places, size, reach)
                    blank = replace(blank, board=board)
                    self._strain[key] = size * REACH / (first * reach), reach / REACH
        except EntryError as error:
            return replace(blank, errors={error.place: str(error)})
        except du.InfeasibleError as error:
            return replace(blank, errors={"level": _infeasible(state, error)})
        except ValueError as error:
            return replace(blank, errors={"level" if str(error).startswith("levels") else "problem": str(error)})

    def _finish(self, blank: View, board: Board, problem: du.Problem, curves: bool) -> View:
        solution = solved(problem, board)
        truncation = check_truncation(solution, board.nodes)
        check_masses(solution, board.ratios)
        resolution = check_resolution(solution, board.nodes)
        answer = ToySolution(solution, board.ratios, board.nodes, board.scene.pretrained, board.scene.unlearn)
        found = replace(blank, answer=answer, truncation=truncation, resolution=resolution)
        if not curves:
            return found
        index = blank.state.concept
        lam = np.asarray(solution.multipliers)
        end = domain_end(problem, board.scene.pretrained, board.scene.unlearn, board.ratios, lam, index)
        looked_at = board.coarse_and_wide if blank.state.key in ("RU", "LU log-ratio") else board.coarse
        dual = dual_curve(problem, looked_at, solution, index, end)
        frontier = frontier_curve(solution, looked_at, blank.levels, blank.ranges[index], index)
        return replace(found, end=end, dual=dual, frontier=frontier)

    def _board(self, state: State, places: Scene, size: int, reach: float) -> Board:
        key = (state.modes, size, reach)
        if key not in self._boards:
            if len(self._boards) >= 6:  # a grid of ratios is a few MB; dragging makes a new one at each step
                self._boards.pop(next(iter(self._boards)))
            nodes = grid(places.pretrained, places.unlearn, size, reach)
            # Priors at their ends 0 and 1 are for `problem_of` to refuse; the other problems have no use for them.
            usable = np.clip(places.priors, 1e-12, 1 - 1e-12)
            self._boards[key] = Board(
                places, nodes, toy.log_ratios(places.pretrained, places.unlearn, nodes, priors=usable)
            )
        return self._boards[key]


def solved(problem: du.Problem, board: Board) -> du.Solution:
    """The solution on a board's grid; where that is large, from the multipliers that a quarter of its nodes gives."""
    start = None
    if board.ratios.n > _LARGE:
        with contextlib.suppress(du.InfeasibleError):
            near = du.solve(problem, board.coarse_and_wide)
            start = near.multipliers if near.attained else None
    return du.solve(problem, board.ratios, start)


def check_concepts(state: State, places: Scene) -> None:
    """``EntryError`` at the concept that the chosen problem cannot be posed on."""
    for i, prior in enumerate(places.priors):
        part = places.unlearn[i]
        if len(part) == len(places.pretrained) and repr(part) == repr(places.pretrained):
            raise EntryError(f"concept {i + 1}", f"q_{i + 1} is q itself: there is nothing to tell them apart by")
        if state.key == "LU posterior" and prior <= 0:
            raise EntryError(
                f"concept {i + 1}",
                f"q_{i + 1} has a mode that q lacks, so no share of q is concept {i + 1} and its posterior means "
                "nothing: take the density or the log ratio, or give that mode a weight in q",
            )


def problem_of(state: State, places: Scene, levels: tuple[float, ...]) -> du.Problem:
    """The problem of a view. Raises ``EntryError`` at the level, or the concept, that makes no sense."""
    for i, level in enumerate(levels):
        if not np.isfinite(level):
            raise EntryError(f"level {i + 1}", f"level {i + 1}: a finite number is needed")
        if level < 0 and state.key in ("RU", "FU"):
            raise EntryError(
                f"level {i + 1}",
                f"level {i + 1}: a Kullback-Leibler divergence is never negative; ask for 0 nats or more",
            )
        if level <= 0 and state.key in ("LU posterior", "LU density"):
            what = "a mean posterior lies between 0 and 1" if state.kind == "posterior" else "a density is above 0"
            raise EntryError(
                f"level {i + 1}",
                f"level {i + 1}: {what}, so no target has {level:g}; the least is 0, in the limit: ask for more than 0",
            )
    values = np.array(levels)
    if state.problem == "RU":
        return du.ReverseKL(values)
    if state.problem == "FU":
        return du.ForwardKL(values)
    if state.kind == "posterior":
        return du.Likelihood(values, priors=np.array(places.priors))
    return du.Likelihood(values, kind=state.kind)


def _first_size(places: Scene, reach: float) -> int:
    """Nodes per axis for the narrowest mode in the box of all."""
    mixtures = (places.pretrained, *places.unlearn)
    deviations = [np.sqrt(np.diagonal(one.covariances, axis1=1, axis2=2)) for one in mixtures]
    lower = np.min([(one.means - reach * sd).min(axis=0) for one, sd in zip(mixtures, deviations, strict=True)], axis=0)
    upper = np.max([(one.means + reach * sd).max(axis=0) for one, sd in zip(mixtures, deviations, strict=True)], axis=0)
    # Spacings differ by axis: a mode's width is measured in the units of the box.
    widths = upper - lower
    narrowest = min(
        float(np.linalg.eigvalsh(one.covariances / np.outer(widths, widths))[:, 0].min()) ** 0.5 for one in mixtures
    )
    wanted = int(_DENSITY / max(narrowest, 1e-9))
    if wanted > 2 * _MOST:
        raise EntryError(
            "problem",
            "a mode is too narrow for the distance between the modes: the page would need more than "
            f"{_MOST} nodes per axis. Widen it, or move the modes closer",
        )
    return _odd(min(max(wanted, _LEAST), _MOST))


def _odd(size: float) -> int:
    """Odd, so that every second node spans the same box."""
    return int(size) // 2 * 2 + 1


def _infeasible(state: State, error: du.InfeasibleError) -> str:
    asked = ", ".join(f"{level:.6g}" for level in error.levels)
    least = ", ".join(f"{level:.6g}" for level in error.least)
    return (
        f"No density has a mean likelihood of at most {asked}. The least that can be had on this grid is {least}, and "
        "that only in the limit: ask for a little more."
    )
