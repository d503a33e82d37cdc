"""From a view's state to its numbers: nodes, solution, dual function, trade-off curve. No browser, no Panel."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace

import numpy as np
from threadpoolctl import ThreadpoolController

import duality as du
from toy.dual import domain_end
from toy.explorer.boards import Stage, board, posteriors
from toy.explorer.curves import dual_curve, frontier_curve
from toy.explorer.levels import suggested
from toy.explorer.posed import check_concepts, joint, parts_of, problem_of, under
from toy.explorer.scenes import Scene, scenes
from toy.explorer.state import EntryError, State
from toy.explorer.views import Kept, View, Whole, looked_at
from toy.mixtures import GaussianMixture
from toy.quadrature import REACH
from toy.solving import ResolutionError, ToySolution, TruncationError, check_masses, check_resolution, check_truncation

# Intervals per narrowest standard deviation of the first grid. toy.grid's own default doubles it; a grid of half as
# many per axis solves four times as fast, its error is checked just the same, and it is refined where it fails.
_DENSITY = 2.9
_LEAST, _MOST = 61, 401
_LEFT = (
    "The target leaves the neighbourhood of q, beyond the widest grid that this page can afford: ask for a level "
    "nearer to what q has."
)
_LOST = (
    "The numbers of this view are beyond what can be solved in double precision, as where a concept or a mode that is "
    "kept is next to nothing under some prompt: move the modes closer, or give it more weight."
)
_TOO_FINE = (
    "The target varies faster than the finest grid that this page can afford, {} nodes per axis, can show: ask for "
    "less, widen the modes, or move them closer."
)
_LARGE = 25_000  # nodes from which it pays to solve on every second node of each axis first


class Engine:
    """Solves views one after the other and remembers what the next one can use: grids and ratios of the modes."""

    def __init__(self) -> None:
        self._stages: dict[tuple[object, ...], Stage] = {}
        # Per problem, by how much the last grid that served was finer and wider than the first guess: dragging a mode
        # asks for the same again.
        self._strain: dict[str, tuple[float, float]] = {}
        self._last: tuple[object, View] | None = None
        self._threads = ThreadpoolController()

    def forget(self) -> None:
        """Start afresh, for modes that have nothing to do with the last ones."""
        self._stages.clear()
        self._strain.clear()
        self._last = None

    def view(self, state: State, curves: bool = True) -> View:
        """Everything about a state; never raises for entries that make no sense, but says so in ``errors``."""
        try:
            places = scenes(state)
        except EntryError as error:
            return View(state, {error.place: str(error)})
        # Thousands of products of small matrices: threads that wait for each other take longer than they save,
        # the more so where something else runs beside the explorer.
        asked = (state.modes, state.prompts, state.key, state.levels.get(state.key), state.concept, curves)
        if self._last is not None and self._last[0] == asked:
            # What the numbers do not depend on has changed: the prompt, the noise level, the open section and the like.
            return looked_at(self._last[1], state)
        with self._threads.limit(limits=1, user_api="blas"), warnings.catch_warnings():
            # Mixtures are laws. What their masses on a grid lack is the grid's, and is checked.
            warnings.simplefilter("ignore", du.MassWarning)
            view = self._solved(state, places, curves)
        self._last = ((*asked[:3], view.levels or asked[3], *asked[4:]), view)
        return view

    def _solved(self, state: State, places: tuple[Scene, ...], curves: bool) -> View:
        key = state.key
        finer, wider = self._strain.get(key, (1.0, 1.0))
        try:
            first = max(_first_size(one, REACH) for one in places)
            reach = REACH * wider
            most = _odd(_MOST * len(places) ** -0.3)  # five prompts: twice the nodes of one
            size = min(_odd(finer * wider * first), most)
            stage = self._stage(state, places, size, reach)
            state_ranges = stage.ranges(key)
        except ValueError as error:
            text = _TOO_FINE.format(_MOST) if str(error).startswith("per_axis") else str(error)
            return View(state, {"problem": text})
        levels = state.levels.get(key) or suggested(state_ranges)
        blank = View(state, {}, stage, state_ranges, levels)
        try:
            check_concepts(state, places)
            while True:
                try:
                    return self._finish(blank, curves)
                except (TruncationError, ResolutionError, du.InfeasibleError) as error:
                    # What a lattice cannot reach a larger one may: log ratios are unbounded, the lattice's are not.
                    if isinstance(error, ResolutionError):
                        size = _odd(1.45 * size)  # twice the nodes; the error falls exponentially in their number
                    else:
                        size, reach = _odd(1.5 * size), 1.5 * reach
                    # Levels that conflict do so on a wider grid as well, or are all but impossible there.
                    conflict = isinstance(error, du.InfeasibleError) and bool(state.keeping)
                    if conflict or size > most or reach > 31:
                        raise
                    blank = replace(blank, stage=self._stage(state, places, size, reach))
                    self._strain[key] = size * REACH / (first * reach), reach / REACH
        except EntryError as error:
            return replace(blank, errors={error.place: str(error)})
        except du.InfeasibleError as error:
            return replace(blank, errors={"level": _infeasible(state, error)})
        except TruncationError:
            return replace(blank, errors={"level": _LEFT})
        except ResolutionError:
            return replace(blank, errors={"problem": _TOO_FINE.format(most)})
        except np.linalg.LinAlgError:
            return replace(blank, errors={"problem": _LOST})
        except ValueError as error:
            text = _TOO_FINE.format(most) if str(error).startswith("per_axis") else str(error)
            return replace(blank, errors={"level" if text.startswith("levels") else "problem": text})

    def _finish(self, blank: View, curves: bool) -> View:
        stage, state = blank.stage, blank.state
        assert stage is not None
        problem = problem_of(state, stage, blank.levels)
        solution = solved(problem, stage)
        check_masses(solution, stage.ratios)
        answers, errors = [], []
        for number, one in enumerate(stage.boards):
            alone = under(solution, stage, number)
            errors.append((check_truncation(alone, one.nodes), check_resolution(alone, one.nodes)))
            parts = (*one.scene.unlearn, *one.scene.keeping)
            answers.append(ToySolution(alone, one.all_ratios, one.nodes, one.scene.pretrained, parts))
        truncation, resolution = np.max(errors, axis=0).tolist()
        whole = None if stage.plain else _whole(state, stage, solution, tuple(answers))
        found = replace(blank, answer=answers[state.prompt], whole=whole, truncation=truncation, resolution=resolution)
        if not curves:
            return found
        end = min(_end(state, answer) for answer in answers)
        dual = dual_curve(problem, stage.coarse, solution, state.concept, end)
        frontier = frontier_curve(solution, stage.coarse, blank.ranges[state.concept], state.concept)
        return replace(found, end=end, dual=dual, frontier=frontier)

    def _stage(self, state: State, places: tuple[Scene, ...], size: int, reach: float) -> Stage:
        # How much of a mode is kept changes no density, and a weight under the last prompt that there is not, neither.
        seen = [
            replace(one, keep=float(one.keep > 0), other=one.other if state.prompts else None) for one in state.modes
        ]
        key = (tuple(seen), state.prompts, size, reach)
        if key not in self._stages:
            if len(self._stages) >= 6:  # a grid of ratios is a few MB; dragging makes a new one at each step
                self._stages.pop(next(iter(self._stages)))
            laws: tuple[GaussianMixture, ...] = tuple(one.pretrained for one in places) if state.prompts else ()
            self._stages[key] = Stage(tuple(board(one, size, reach, laws) for one in places))
        return self._stages[key]


def solved(problem: du.Problem, stage: Stage) -> du.Solution:
    """The solution on a grid; where that is large, from the multipliers that a quarter of its nodes gives."""
    start = None
    if stage.ratios.n > _LARGE:
        with contextlib.suppress(du.InfeasibleError):
            near = du.solve(problem, stage.coarse)
            start = near.multipliers if near.attained else None
    return du.solve(problem, stage.ratios, start)


def _whole(state: State, stage: Stage, solution: du.Solution, answers: tuple[ToySolution, ...]) -> Whole:
    """What the answer does under each prompt, and what each mode that is kept costs: V is solved for without it."""
    shown, costs = [], []
    for one, answer in zip(stage.boards, answers, strict=True):
        p = np.asarray(answer.solution.log_weights)
        shown.append(np.exp(p) @ posteriors(np.array(one.scene.priors), one.ratios.values))
        costs.append(answer.solution.problem.cost(one.ratios, p))
    first = parts_of(solution.problem)[0]

    def without(keeping: tuple[int, ...]) -> float:
        rows = [*range(state.m), *(state.m + state.keeping.index(k) for k in keeping)]
        return float(du.solve(joint(first, state, stage, keeping), stage.ratios, solution.multipliers[rows]).dual)

    kept, together = [], 0.0
    for mode, multiplier in zip(state.keeping, solution.multipliers[state.m :], strict=True):
        rest = tuple(k for k in state.keeping if k != mode)
        cost = max(float(solution.dual) - without(rest), 0.0) if multiplier > 0 else 0.0
        kept.append(Kept(mode, float(multiplier), cost))
    if len(kept) == 1:
        together = kept[0].cost
    elif any(one.multiplier > 0 for one in kept):
        together = max(float(solution.dual) - without(()), 0.0)
    return Whole(solution, stage, answers, np.array(shown), np.array(costs), tuple(kept), together)


def _end(state: State, answer: ToySolution) -> float:
    """Of the dual domain along the chosen multiplier under one prompt: what is kept takes nothing from it, or, for FU,
    gives room."""
    lam, index, m = np.asarray(answer.solution.multipliers), state.concept, state.m
    first = parts_of(answer.solution.problem)[0]
    if isinstance(first, du.ForwardKL):
        signed = np.append(lam[:m], -lam[m:])
        return domain_end(first, answer.pretrained, answer.unlearn, answer.ratios, signed, index)
    return domain_end(first, answer.pretrained, answer.unlearn[:m], answer.ratios, lam[:m], index)


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
    m = state.m
    what = [f"the level of concept {i + 1}" if m > 1 else "the level" for i in range(m)]
    what += [f"keeping mode {k + 1}" for k in state.keeping]
    asked, least = (", ".join(f"{level:.6g}" for level in levels) for levels in (error.levels, error.least))
    if not state.keeping:
        return (
            f"No density has a mean likelihood of at most {asked}. The least that can be had on this grid is {least}, "
            "and that only in the limit: ask for a little more."
        )
    blamed = range(len(what)) if error.conflict is None else error.conflict
    text = "These cannot be had together: " + " and ".join(what[i] for i in blamed)
    if len(blamed) == 1:
        text = f"No density does this: {what[blamed[0]]}"
    if np.isnan(error.least).any():
        return text + ". Ask for less."
    parts = [
        f"{100 * max(level, 0.0):.4g} % of mode {k + 1}"
        for k, level in zip(state.keeping, error.least[m:], strict=True)
    ]
    first = ", ".join(f"{level:.4g}" for level in error.least[:m])
    return (
        f"{text}. What can just be had on this grid, the same part of the way back to q for all: {first} for the "
        f"concepts, and {', '.join(parts)} kept in all."
    )
