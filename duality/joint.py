"""Constraints of several kinds at once, in one problem with one cost and one dual function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeVar

import numpy as np

from duality._arrays import Array, divergence, vector
from duality.answers import Answer
from duality.dual_protocol import Dual
from duality.families import Mixtures, Statistics
from duality.joint_columns import check_columns, shared_out
from duality.joint_family import Family, is_forward, is_reverse
from duality.joint_mixtures import MixtureFamily
from duality.joint_tilts import TiltFamily
from duality.newton import Climb
from duality.problem_checks import checked_error
from duality.problems import Problem, Shown
from duality.ratios import LogRatios
from duality.relaxation import conflict_of, least_levels_of
from duality.renyi import Renyi
from duality.tail import TailLikelihood

Said = TypeVar("Said", Statistics, Mixtures)


@dataclass(frozen=True, eq=False, init=False)
class Joint(Problem):
    """min distance(p, q) subject to the constraints of several problems at once.

    With the objective KL(p‖q): `ReverseKL`, `Likelihood` and `Keep`, in one tilt
    q exp(-(sum lam_i rho_i + sum mu_j l_j - sum nu_k k_k)/(1 - L))/Z. With the objective KL(q‖p), which it is where a
    `ForwardKL` or a `Keep(kind="forward-kl")` takes part: those two, `Likelihood` and `Keep` of expectations, in
    q (1 - sum lam_i r_i + sum nu_k r_k)/(mu + sum mu_j l_j - sum nu_k k_k). Levels, multipliers and slack are the
    parts' one after the other, and so is what `log_weight` reads. Beside ForwardKL and expectations every group has a
    mass multiplier mu of its own: with several groups `log_weight` refuses, and `Solution.log_weights` say all.

    Args:
        problems: the parts, each with its levels.
        columns: for each part the columns of the log ratios, or of the detectors, that it reads. Left out, the parts
            that read log ratios share them in order, as many as they have levels, likewise those that read detectors;
            one that is alone with its kind of columns takes all of them.
        levels: all levels `(m,)` in the place of the parts' own.

    Raises:
        ValueError: for parts whose objectives differ, or columns that do not fit.

    Source: docs/theory, "what is to be kept".
    """

    problems: tuple[Problem, ...] = ()
    columns: Any = None

    def __init__(self, problems: Sequence[Problem], columns: Any = None, levels: Any = None) -> None:
        parts = tuple(problems)
        if not parts or not all(isinstance(part, Problem) and not isinstance(part, Joint) for part in parts):
            raise ValueError(f"problems: a list of problems that are no Joint themselves is needed, given {problems!r}")
        if levels is not None:
            given = vector("levels", levels)
            sizes = [part.levels.size for part in parts]
            if given.size == 1:
                given = np.repeat(given, sum(sizes))
            if given.size != sum(sizes):
                raise ValueError(f"levels: {given.size} given for parts with {sum(sizes)} levels in all")
            parts = tuple(
                replace(part, levels=given[end - part.levels.size : end])
                for part, end in zip(parts, np.cumsum(sizes), strict=True)
            )
        if columns is not None:
            columns = tuple(np.atleast_1d(np.asarray(each, dtype=np.intp)) for each in columns)
            if len(columns) != len(parts):
                raise ValueError(f"columns: {len(columns)} entries given for {len(parts)} parts")
        if any(is_forward(part) for part in parts) and any(is_reverse(part) for part in parts):
            raise ValueError(
                "problems: the cost of some is KL(q‖p) and of others KL(p‖q); ForwardKL and Keep(kind='forward-kl') go"
                " with Likelihood and Keep of expectations, not with ReverseKL or Keep(kind='reverse-kl')"
            )
        for k, part in enumerate(parts):
            if isinstance(part, Renyi):
                raise ValueError(
                    f"problems: part {k} is Renyi, whose cost is another than that of the parts of a Joint"
                )
            if isinstance(part, TailLikelihood) and part.threshold is None:
                raise ValueError(
                    f"problems: part {k} is a TailLikelihood without a threshold, and the best one for it alone need"
                    " not be the best beside others; give TailLikelihood(threshold=...), any of which is safe"
                )
        object.__setattr__(self, "problems", parts)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "levels", np.concatenate([part.levels for part in parts]))
        super().__post_init__()

    @property
    def forward(self) -> bool:
        """Whether the cost is KL(q‖p)."""
        return any(is_forward(part) for part in self.problems)

    @cached_property
    def _family(self) -> Family:
        return MixtureFamily(self.problems) if self.forward else TiltFamily(self.problems)

    @property
    def direction(self) -> np.ndarray:  # type: ignore[override]
        """`(m,)`, +1 where a level is to be reached at least, -1 where at most."""
        return np.concatenate([np.full(part.levels.size, part.direction) for part in self.problems])

    @property
    def probability(self) -> bool:
        return all(part.probability for part in self.problems)

    @property
    def source(self) -> str:
        return "values"

    def count(self, ratios: LogRatios) -> int:
        return sum(chosen.size for chosen in self._columns(ratios))

    def _columns(self, ratios: LogRatios) -> tuple[np.ndarray, ...]:
        """The columns of each part."""
        chosen = self.columns if self.columns is not None else shared_out(self.problems, ratios)
        check_columns(self.problems, chosen, ratios)
        return tuple(chosen)

    def bind(self, ratios: LogRatios) -> Self:
        columns = self._columns(ratios)
        parts = [part.bind(ratios.select(part.source, each)) for part, each in zip(self.problems, columns, strict=True)]
        return type(self)(parts, columns)

    def _views(self, ratios: LogRatios) -> list[tuple[Problem, LogRatios]]:
        chosen = self._columns(ratios)
        return [(part, ratios.select(part.source, each)) for part, each in zip(self.problems, chosen, strict=True)]

    def statistics(self, ratios: LogRatios) -> Statistics | None:
        """The constraints that are no divergences from p, those of `mixtures`; in the parts' order."""
        found = [_said(part, part.statistics(view)) for part, view in self._views(ratios) if not is_forward(part)]
        if not found:
            return None
        tables, limits, sharing = zip(*found, strict=True)
        return Statistics(np.hstack(tables), np.concatenate(limits), np.concatenate(sharing))

    def mixtures(self, ratios: LogRatios) -> Mixtures | None:
        """The constraints on KL(q_i‖p), in the parts' order."""
        found = [_said(part, part.mixtures(view)) for part, view in self._views(ratios) if is_forward(part)]
        if not found:
            return None
        values, levels, signs = zip(*found, strict=True)
        return Mixtures(np.hstack(values), np.concatenate(levels), np.concatenate(signs))

    def robust(self, error: Any) -> Self:
        given = np.broadcast_to(checked_error(error, self.levels), self.levels.shape)
        ends = np.cumsum([part.levels.size for part in self.problems])
        shares = np.split(given, ends[:-1])
        parts = [part.robust(share) for part, share in zip(self.problems, shares, strict=True)]
        return type(self)(parts, self.columns)

    def dual(self, ratios: LogRatios) -> Dual:
        return self._family.dual(self, ratios)

    # -- tilts -------------------------------------------------------------------------------------------------------

    def natural(self, multipliers: Array) -> Array:
        return self._family.natural(multipliers)

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        return self._family.multipliers(natural)

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        return self._family.jacobian(natural)

    def domain(self, multipliers: np.ndarray) -> bool:
        return super().domain(multipliers) and self._family.domain(np.asarray(multipliers))

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        return self._family.project(np.maximum(multipliers, 0.0))

    def emptied(self, natural: np.ndarray) -> bool:
        return self._family.emptied(natural)

    def tilt(self, values: Array, natural: Array) -> Array:
        return self._family.tilt(values, natural)

    def noised_tilt(self, values: Array, natural: Array) -> Array:
        return self._family.noised_tilt(values, natural)

    def strengths(self, values: Array, natural: Array) -> Array:
        return self._family.strengths(values, natural)

    # -- what a density reaches --------------------------------------------------------------------------------------

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        pair = (ratios.log_weights, log_weights) if self.forward else (log_weights, ratios.log_weights)
        return divergence(*pair)

    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.concatenate([part.levels_of(view, log_weights) for part, view in self._views(ratios)])

    def slack_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.concatenate([part.slack_of(view, log_weights) for part, view in self._views(ratios)])

    def resolution(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.concatenate([part.resolution(view, log_weights) for part, view in self._views(ratios)])

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.hstack([part.level_influence(view, log_weights) for part, view in self._views(ratios)])

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return np.hstack([part.level_terms(view, log_weights) for part, view in self._views(ratios)])

    def inputs(self, ratios: LogRatios) -> np.ndarray:
        return np.hstack([part.inputs(view) for part, view in self._views(ratios)])

    def units(self, ratios: LogRatios) -> np.ndarray:
        return np.concatenate([part.units(view) for part, view in self._views(ratios)])

    # -- answers -----------------------------------------------------------------------------------------------------

    def answer(self, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float) -> Answer:
        found, answer = self._family.answer(self, ratios, dual, found, tolerance)
        return super().answer(ratios, dual, found, tolerance) if answer is None else answer

    def shown(self, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray) -> Shown:
        proved = self._family.shown(self, ratios, log_weights, multipliers)
        return super().shown(ratios, log_weights, multipliers) if proved is None else proved

    def least_levels(self, ratios: LogRatios) -> np.ndarray:
        return least_levels_of(self, ratios, self._family.mixed)

    def conflict(self, ratios: LogRatios) -> np.ndarray | None:
        return conflict_of(self, ratios, self._family.mixed)


def _said(part: Problem, said: Said | None) -> Said:
    if said is None:
        raise TypeError(
            f"problems: {type(part).__name__} does not state its constraints as `Problem.statistics` or"
            " `Problem.mixtures`, so it cannot be joined with others"
        )
    return said
