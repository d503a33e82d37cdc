"""Constraints of several kinds at once, in one problem with one cost and one dual function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import Array, beside, divergence, vector
from duality.answers import Answer
from duality.convex_form import shown, solve_by_cost
from duality.dual_protocol import Dual
from duality.families import Mixtures, Statistics
from duality.family_dual import FamilyDual
from duality.feasibility import conflicting, least_levels
from duality.keep import signed_strengths, signed_tilt
from duality.newton import Climb
from duality.problems import Problem, Shown
from duality.ratios import LogRatios
from duality.signed_dual import SignedDual
from duality.signed_faces import beyond_signed, leave_false_faces

try:
    from typing import Self
except ImportError:  # Python 3.10
    from typing import Self


@dataclass(frozen=True, eq=False, init=False)
class Joint(Problem):
    """min distance(p, q) subject to the constraints of several problems at once.

    With the objective KL(p‖q): `ReverseKL`, `Likelihood` and `Keep`, in one tilt
    q exp(-(sum lam_i rho_i + sum mu_j l_j - sum nu_k k_k)/(1 - L))/Z. With the objective KL(q‖p): `ForwardKL` and
    `Keep(kind="forward-kl")`, in q (1 - sum lam_i r_i + sum nu_k r_k)/Z. Levels, multipliers and slack are the parts'
    one after the other, and so is what `log_weight` reads.

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
        forward = [_forward(part) for part in parts]
        if any(forward) and not all(forward):
            raise ValueError(
                "problems: the cost of some is KL(q‖p) and of others KL(p‖q); ForwardKL goes with"
                " Keep(kind='forward-kl') only"
            )
        object.__setattr__(self, "problems", parts)
        object.__setattr__(self, "columns", columns)
        object.__setattr__(self, "levels", np.concatenate([part.levels for part in parts]))
        super().__post_init__()

    @property
    def forward(self) -> bool:
        """Whether the cost is KL(q‖p)."""
        return _forward(self.problems[0])

    @property
    def direction(self) -> np.ndarray:  # type: ignore[override]
        """`(m,)`: +1 where a level is to be reached at least, -1 where at most."""
        return np.concatenate([np.full(part.levels.size, part.direction) for part in self.problems])

    @property
    def source(self) -> str:
        return "values"

    def count(self, ratios: LogRatios) -> int:
        return sum(chosen.size for chosen in self._columns(ratios))

    def _columns(self, ratios: LogRatios) -> tuple[np.ndarray, ...]:
        """The columns of each part."""
        sources = [part.source for part in self.problems]
        if self.columns is not None:
            chosen = self.columns
        else:
            found, used = [], {"values": 0, "detectors": 0}
            for part, source in zip(self.problems, sources, strict=True):
                there = ratios.columns(source)
                size = there if sources.count(source) == 1 else part.levels.size
                found.append(np.arange(used[source], used[source] + size))
                used[source] += size
            chosen = tuple(found)
            for source, count in used.items():
                if count != ratios.columns(source) and count:
                    raise ValueError(
                        f"columns: the parts that read {source} have {count} levels for {ratios.columns(source)}"
                        " columns; say which each reads"
                    )
        for k, (part, source, each) in enumerate(zip(self.problems, sources, chosen, strict=True)):
            there = ratios.columns(source)
            if each.size == 0 or each.min() < 0 or each.max() >= there:
                raise ValueError(f"columns: part {k} reads {each.tolist()} of {source}, of which {there} are given")
            if part.levels.size not in (1, each.size):
                raise ValueError(f"columns: part {k} has {part.levels.size} levels for {each.size} columns")
        return tuple(chosen)

    def bind(self, ratios: LogRatios) -> Self:
        columns = self._columns(ratios)
        parts = [part.bind(ratios.select(part.source, each)) for part, each in zip(self.problems, columns, strict=True)]
        return type(self)(parts, columns)

    def _views(self, ratios: LogRatios) -> list[tuple[Problem, LogRatios]]:
        chosen = self._columns(ratios)
        return [(part, ratios.select(part.source, each)) for part, each in zip(self.problems, chosen, strict=True)]

    def statistics(self, ratios: LogRatios) -> Statistics | None:
        if self.forward:
            return None
        parts = [part.statistics(view) for part, view in self._views(ratios)]
        tables, limits, sharing = zip(*(part for part in parts if part is not None), strict=True)
        return Statistics(np.hstack(tables), np.concatenate(limits), np.concatenate(sharing))

    def mixtures(self, ratios: LogRatios) -> Mixtures | None:
        if not self.forward:
            return None
        parts = [part.mixtures(view) for part, view in self._views(ratios)]
        values, levels, signs = zip(*(part for part in parts if part is not None), strict=True)
        return Mixtures(np.hstack(values), np.concatenate(levels), np.concatenate(signs))

    def _shared(self, ratios: LogRatios) -> Statistics:
        found = self.statistics(ratios)
        assert found is not None  # the cost is KL(p‖q)
        return found

    def _mixed(self, ratios: LogRatios) -> Mixtures:
        found = self.mixtures(ratios)
        assert found is not None  # the cost is KL(q‖p)
        return found

    def dual(self, ratios: LogRatios) -> Dual:
        if self.forward:
            return SignedDual(*self._mixed(ratios), ratios.partition, ratios.log_weights)
        return FamilyDual(*self._shared(ratios), ratios.partition, ratios.log_weights)

    # -- tilts -----------------------------------------------------------------------------------------------------

    @property
    def _sharing(self) -> np.ndarray:
        """s `(m,)` of S = 1 - s·lam: how multipliers turn into natural parameters."""
        if self.forward:
            return np.zeros(self.levels.size)
        signs = {"ReverseKL": 1.0, "Keep": -1.0}
        each = [
            signs.get(type(part).__name__, 0.0) if getattr(part, "kind", "reverse-kl") == "reverse-kl" else 0.0
            for part in self.problems
        ]
        return np.repeat(each, [part.levels.size for part in self.problems])

    def natural(self, multipliers: Array) -> Array:
        return multipliers / (1 - (beside(multipliers, self._sharing) * multipliers).sum())

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        return natural / (1 + float(self._sharing @ natural))

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        share = 1 / (1 + float(self._sharing @ natural))
        return np.asarray(share * (np.eye(natural.size) - share * np.outer(natural, self._sharing)))

    def domain(self, multipliers: np.ndarray) -> bool:
        return super().domain(multipliers) and float(self._sharing @ np.asarray(multipliers)) < 1

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        multipliers = np.maximum(multipliers, 0.0)
        sharing = np.maximum(self._sharing, 0.0)
        shared = float(sharing @ multipliers)
        return np.where(sharing > 0, multipliers * min(1.0, (1 - 1e-4) / max(shared, 1e-300)), multipliers)

    def _split(self, values: Array, natural: Array) -> list[tuple[Problem, Array, Array]]:
        ends = np.cumsum([part.levels.size for part in self.problems])
        starts = [0, *ends[:-1]]
        return [(part, values[..., a:b], natural[a:b]) for part, a, b in zip(self.problems, starts, ends, strict=True)]

    def _signs(self) -> np.ndarray:
        return np.repeat(
            [1.0 if part.direction > 0 else -1.0 for part in self.problems], [p.levels.size for p in self.problems]
        )

    def tilt(self, values: Array, natural: Array) -> Array:
        if self.forward:
            return signed_tilt(values, natural, self._signs())
        return sum(part.tilt(v, a) for part, v, a in self._split(values, natural))

    def noised_tilt(self, values: Array, natural: Array) -> Array:
        if self.forward:
            return signed_tilt(values, natural, self._signs())
        return sum(part.noised_tilt(v, a) for part, v, a in self._split(values, natural))

    def strengths(self, values: Array, natural: Array) -> Array:
        if self.forward:
            return signed_strengths(values, natural, self._signs())
        xp = array_namespace(values)
        return xp.concat([part.strengths(v, a) for part, v, a in self._split(values, natural)], axis=-1)

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
        sharing, units = self._sharing, self.units(ratios)
        settled = found.stationary(units, tolerance)
        if self.forward and not settled and not found.exhausted:
            found = leave_false_faces(
                dual, units, found, lambda log_p: beyond_signed(ratios, self._mixed(ratios), log_p)
            )
        if settled or not (sharing > 0).any() or (sharing < 0).any():
            return super().answer(ratios, dual, found, tolerance)
        return solve_by_cost(ratios, *self._shared(ratios), found)

    def shown(self, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray) -> Shown:
        if self.forward:
            proved = beyond_signed(ratios, self._mixed(ratios), log_weights)
            return Shown(proved.bound, proved.wrong(multipliers))
        sharing = self._sharing
        if not (sharing > 0).any() or (sharing < 0).any():
            return super().shown(ratios, log_weights, multipliers)
        # As for `ReverseKL`: concentrating p within nodes raises KL(p‖q) and changes no expectation.
        order = ratios.partition.order
        table, limits, _ = self._shared(ratios)
        bound = shown(table[order] - limits, sharing, ratios.log_weights[order], log_weights[order])
        if not np.isfinite(bound):
            return super().shown(ratios, log_weights, multipliers)
        gap = np.exp(log_weights[order]) @ (table[order] - limits) - sharing * bound
        return Shown(bound, np.where(multipliers > 0, np.abs(gap), np.maximum(gap, 0.0)))

    def _expectations(self, ratios: LogRatios) -> tuple[Statistics, np.ndarray] | None:
        """The constraints on expectations, which are those that can conflict, and which they are; None with others."""
        if self.forward or (self._sharing < 0).any():
            return None
        fixed = self._sharing == 0
        table, limits, sharing = self._shared(ratios)
        return Statistics(table[:, fixed], limits[fixed], sharing[fixed]), fixed

    def least_levels(self, ratios: LogRatios) -> np.ndarray:
        found = self._expectations(ratios)
        if found is None:
            return super().least_levels(ratios)
        statistics, fixed = found
        least = np.array(self.levels)
        if fixed.any():
            relaxed = least_levels(statistics.table, ratios.log_weights, statistics.limits, ratios.partition)
            least[fixed] = -self.direction[fixed] * relaxed
        return least

    def conflict(self, ratios: LogRatios) -> np.ndarray | None:
        found = self._expectations(ratios)
        if found is None or not found[1].any():
            return None
        named = np.zeros(self.levels.size, dtype=bool)
        named[found[1]] = conflicting(found[0].table, ratios.log_weights, found[0].limits, ratios.partition)
        return named


def _forward(part: Problem) -> bool:
    """Whether the cost of a problem is KL(q‖p)."""
    return type(part).__name__ == "ForwardKL" or getattr(part, "kind", None) == "forward-kl"
