"""What the explorer shows, as plain data: modes, shares, problem, levels, noise; a link holds all of it.

All densities of a view are mixtures over one list of Gaussian modes: q and the q_i differ in the weights alone. So a
q_i may be one mode of q, several of them, or a mode that q lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

MOST_MODES, MOST_CONCEPTS = 8, 4
PROMPTS = 5  # where laws depend on a prompt: so many, asked for equally often
PROBLEMS = ("RU", "FU", "LU")
KINDS = ("posterior", "density", "log-ratio")
SECTIONS = ("target", "noise", "compare")
# The keys under which levels are kept, so that switching the problem and back loses nothing.
LEVEL_KEYS = ("RU", "FU", "LU posterior", "LU density", "LU log-ratio")
# Fields of a view that are one word or number, with what they are.
PLAIN: dict[str, Any] = {"problem": str, "kind": str, "alpha_bar": float, "concept": int, "kept": float, "section": str}
PLAIN |= {"prompts": bool, "prompt": int}
_LEAST_KEPT = 1e-9  # below, what is left of a concept is rounding
_LARGEST = 1e9  # of any entry; its square, and that times a number of nodes, is far from what doubles hold


class EntryError(ValueError):
    """An entry that makes no sense. ``.place``: which one, "mode 2", "concept 1", "level 1", "noise", "kept" or
    "problem"."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class Mode:
    """One Gaussian N((x, y), [[c11, c12], [c12, c22]]) with its weight in q and its share in each q_i, (m,).

    Weights and shares are >= 0 and relative: they are normalised over the modes. other : the weight under the last
    prompt, where laws depend on prompts; None for the same weight. keep : how much of what q has of this mode is to be
    retained, in the mean over prompts; 0 where nothing is asked.
    """

    x: float
    y: float
    c11: float
    c12: float
    c22: float
    weight: float
    shares: tuple[float, ...]
    other: float | None = None
    keep: float = 0.0

    @property
    def covariance(self) -> np.ndarray:
        """(2, 2), symmetric by construction; positive definite only where ``check_mode`` finds nothing."""
        return np.array([[self.c11, self.c12], [self.c12, self.c22]])


@dataclass(frozen=True)
class State:
    """Everything that a view depends on.

    Attributes:
        levels: per key of ``LEVEL_KEYS`` the levels (m,), as far as they have been set.
        alpha_bar: noise level in (0, 1].
        concept: whose multiplier and level are on the axes, from 0.
        kept: share of each concept left where the three problems are compared, in [1e-9, 1).
        section: which part of the page is open.
        prompts: whether weights depend on a prompt.
        prompt: the one of ``PROMPTS`` that is looked at, from 0.
    """

    modes: tuple[Mode, ...]
    problem: str = "LU"
    kind: str = "posterior"
    levels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    alpha_bar: float = 0.5
    concept: int = 0
    kept: float = 0.05
    section: str = "target"
    prompts: bool = False
    prompt: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.modes) <= MOST_MODES:
            raise EntryError("problem", f"modes: 1 to {MOST_MODES} are needed, given {len(self.modes)}")
        counts = {len(mode.shares) for mode in self.modes}
        if len(counts) != 1 or not 1 <= self.m <= MOST_CONCEPTS:
            raise EntryError("problem", f"concepts: the same 1 to {MOST_CONCEPTS} in every mode are needed")
        for name, known in (("problem", PROBLEMS), ("kind", KINDS), ("section", SECTIONS)):
            if getattr(self, name) not in known:
                given = repr(getattr(self, name))
                raise EntryError("problem", f"{name}: one of {', '.join(known)} is needed, given {given}")
        if not 0 < self.alpha_bar <= 1:
            raise EntryError("noise", f"noise level: above 0 and at most 1 is needed, given {self.alpha_bar:g}")
        if not _LEAST_KEPT <= self.kept < 1:
            raise EntryError(
                "kept",
                f"left of every concept: {100 * _LEAST_KEPT:g} % or more, and less than 100 %, is needed, given "
                f"{100 * self.kept:g} %",
            )
        if not 0 <= self.concept < self.m:
            raise EntryError("problem", f"concept: one of {self.m} is needed, given {self.concept + 1}")
        if not 0 <= self.prompt < PROMPTS:
            raise EntryError("problem", f"prompt: 1 to {PROMPTS} is needed, given {self.prompt + 1}")
        for key, values in self.levels.items():
            if key not in LEVEL_KEYS or len(values) != self.m:
                raise EntryError("problem", f"levels: {self.m} numbers under a known problem are needed, given {key!r}")

    @property
    def m(self) -> int:
        """Number of concepts."""
        return len(self.modes[0].shares)

    @property
    def key(self) -> str:
        """Under which key the levels of the chosen problem are kept."""
        return f"LU {self.kind}" if self.problem == "LU" else self.problem

    @property
    def keeping(self) -> tuple[int, ...]:
        """Which modes are to be kept, from 0."""
        return tuple(k for k, mode in enumerate(self.modes) if mode.keep > 0)

    @property
    def under_prompts(self) -> tuple[tuple[Mode, ...], ...]:
        """The modes with their weights in q under each prompt, ``weight`` at the first, ``other`` at the last, and on
        the straight line between. One prompt, the modes as they are, where laws depend on none."""
        if not self.prompts:
            return (self.modes,)
        ends = np.array([[mode.weight, mode.weight if mode.other is None else mode.other] for mode in self.modes]).T
        totals = ends.sum(axis=1, keepdims=True)
        ends = np.divide(ends, totals, where=totals > 0, out=ends.copy())
        lines = [(1 - t) * ends[0] + t * ends[1] for t in np.linspace(0, 1, PROMPTS)]
        return tuple(
            tuple(replace(mode, weight=float(w)) for mode, w in zip(self.modes, row, strict=True)) for row in lines
        )

    def with_prompts(self, prompts: bool) -> State:
        """The same view with laws that depend on prompts, or on none. To begin with concepts fade to a tenth."""
        modes = self.modes
        if prompts and all(mode.other is None for mode in modes):
            modes = tuple(replace(one, other=one.weight * (0.1 if any(one.shares) else 1.0)) for one in modes)
        return replace(self, modes=modes, prompts=prompts, prompt=self.prompt if prompts else 0)

    def with_levels(self, levels: tuple[float, ...]) -> State:
        """The same view at other levels, (m,), of the chosen problem."""
        return replace(self, levels={**self.levels, self.key: levels})

    def with_mode(self, index: int, **changes: Any) -> State:
        """The same view with entries of one mode changed; its covariance is not checked."""
        modes = list(self.modes)
        modes[index] = replace(modes[index], **changes)
        return replace(self, modes=tuple(modes))

    def with_concepts(self, m: int) -> State:
        """The same view with m concepts. A new one is the first mode that belongs to none; levels are set anew."""
        if not 1 <= m <= MOST_CONCEPTS:
            raise EntryError("problem", f"concepts: 1 to {MOST_CONCEPTS} are needed, given {m}")
        shares = [list(mode.shares[:m]) for mode in self.modes]
        for _ in range(self.m, m):
            free = [k for k, row in enumerate(shares) if not any(row)] or [len(shares) - 1]
            for k, row in enumerate(shares):
                row.append(1.0 if k == free[0] else 0.0)
        modes = tuple(replace(mode, shares=tuple(row)) for mode, row in zip(self.modes, shares, strict=True))
        return replace(self, modes=modes, levels={}, concept=min(self.concept, m - 1))

    def with_new_mode(self) -> State:
        """The same view with one more mode of q, beside the others."""
        weight = sum(mode.weight for mode in self.modes) / len(self.modes)
        x = max(mode.x for mode in self.modes) + 2.0
        fresh = Mode(x, 0.0, 0.5, 0.0, 0.5, weight or 1.0, (0.0,) * self.m)
        return replace(self, modes=(*self.modes, fresh))

    def without_mode(self, index: int) -> State:
        """The same view without one mode."""
        return replace(self, modes=tuple(mode for k, mode in enumerate(self.modes) if k != index))


def check_number(place: str, name: str, value: float | None) -> None:
    """``EntryError`` at a place where a named entry is empty, not finite, or too large to compute with."""
    if value is None:
        raise EntryError(place, f"{name}: the entry is empty; a number is needed")
    if not abs(value) <= _LARGEST:
        raise EntryError(
            place, f"{name}: a finite number of at most {_LARGEST:,.0f} in size is needed, given {value:g}"
        )


def numbers_of(mode: Mode) -> tuple[float, ...]:
    """x, y, c11, c12, c22, weight and shares of a mode."""
    return (mode.x, mode.y, mode.c11, mode.c12, mode.c22, mode.weight, *mode.shares)
