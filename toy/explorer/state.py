"""What the explorer shows, as plain data: modes, shares, problem, levels, noise; a link holds all of it.

All densities of a view are mixtures over one list of Gaussian modes: q and the q_i differ in the weights alone. So a
q_i may be one mode of q, several of them, or a mode that q lacks.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import duality as du
from toy.examples import EXAMPLES, example
from toy.mixtures import GaussianMixture

MOST_MODES, MOST_CONCEPTS = 8, 4
PROBLEMS = ("RU", "FU", "LU")
KINDS = ("posterior", "density", "log-ratio")
SECTIONS = ("target", "noise", "compare")
# The keys under which levels are kept, so that switching the problem and back loses nothing.
LEVEL_KEYS = ("RU", "FU", "LU posterior", "LU density", "LU log-ratio")
_LONGEST_LINK = 20_000
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

    Weights and shares are >= 0 and relative: they are normalised over the modes.
    """

    x: float
    y: float
    c11: float
    c12: float
    c22: float
    weight: float
    shares: tuple[float, ...]

    @property
    def covariance(self) -> np.ndarray:
        """(2, 2), symmetric by construction; positive definite only where ``check_mode`` finds nothing."""
        return np.array([[self.c11, self.c12], [self.c12, self.c22]])


@dataclass(frozen=True)
class State:
    """Everything that a view depends on.

    levels : per key of ``LEVEL_KEYS`` the levels (m,), as far as they have been set. alpha_bar : noise level in
    (0, 1]. concept : whose multiplier and level are on the axes, from 0. kept : share of each concept left where the
    three problems are compared, in (0, 1). section : which part of the page is open.
    """

    modes: tuple[Mode, ...]
    problem: str = "LU"
    kind: str = "posterior"
    levels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    alpha_bar: float = 0.5
    concept: int = 0
    kept: float = 0.05
    section: str = "target"

    def __post_init__(self) -> None:
        if not 1 <= len(self.modes) <= MOST_MODES:
            raise EntryError("problem", f"modes: 1 to {MOST_MODES} are needed, given {len(self.modes)}")
        counts = {len(mode.shares) for mode in self.modes}
        if len(counts) != 1 or not 1 <= self.m <= MOST_CONCEPTS:
            raise EntryError("problem", f"concepts: the same 1 to {MOST_CONCEPTS} in every mode are needed")
        for name, value, known in (
            ("problem", self.problem, PROBLEMS),
            ("kind", self.kind, KINDS),
            ("section", self.section, SECTIONS),
        ):
            if value not in known:
                raise EntryError("problem", f"{name}: one of {', '.join(known)} is needed, given {value!r}")
        if not 0 < self.alpha_bar <= 1:
            raise EntryError("noise", f"noise level: above 0 and at most 1 is needed, given {self.alpha_bar:g}")
        if not 0 < self.kept < 1:
            given = f"{100 * self.kept:g} %"
            raise EntryError("kept", f"left of every concept: above 0 and below 100 % is needed, given {given}")
        if not 0 <= self.concept < self.m:
            raise EntryError("problem", f"concept: one of {self.m} is needed, given {self.concept + 1}")
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


@dataclass(frozen=True, eq=False)
class Scene:
    """q, the q_i, and the largest priors (m,) for which pi_i q_i <= q; 0 where q lacks a mode of q_i."""

    pretrained: GaussianMixture
    unlearn: tuple[GaussianMixture, ...]
    priors: tuple[float, ...]


def check_number(place: str, name: str, value: float | None) -> None:
    """``EntryError`` at a place where a named entry is empty, not finite, or too large to compute with."""
    if value is None:
        raise EntryError(place, f"{name}: the entry is empty; a number is needed")
    if not abs(value) <= _LARGEST:
        raise EntryError(
            place, f"{name}: a finite number of at most {_LARGEST:,.0f} in size is needed, given {value:g}"
        )


def check_mode(number: int, mode: Mode) -> None:
    """``EntryError`` at "mode number" (from 1) where a mode is no Gaussian or a weight is negative."""
    place = f"mode {number}"
    if not all(math.isfinite(entry) for entry in _numbers(mode)):
        raise EntryError(place, f"{place}: every entry must be a finite number")
    if min(mode.weight, *mode.shares) < 0:
        raise EntryError(place, f"{place}: weights must not be negative")
    if mode.c11 <= 0 or mode.c22 <= 0:
        raise EntryError(place, f"{place}: both variances must be above 0, given {mode.c11:g} and {mode.c22:g}")
    if mode.c12**2 < 0.999 * mode.c11 * mode.c22:
        return
    try:
        GaussianMixture([1.0], [[mode.x, mode.y]], [mode.covariance])
    except ValueError:
        raise EntryError(
            place,
            f"{place}: the covariance is singular or indefinite: the square of c12 must stay below c11 · c22, but "
            f"{mode.c12:g}² = {mode.c12**2:.6g} and {mode.c11:g} · {mode.c22:g} = {mode.c11 * mode.c22:.6g}",
        ) from None


def scene(modes: tuple[Mode, ...]) -> Scene:
    """The densities of a view. Raises ``EntryError`` that names the entry and what is wrong with it."""
    for number, mode in enumerate(modes, 1):
        check_mode(number, mode)
    weights = np.array([mode.weight for mode in modes])
    shares = np.array([mode.shares for mode in modes])
    if not weights.sum() > 0:
        raise EntryError("problem", "q has no mode: give at least one a weight above 0")
    for i in np.flatnonzero(shares.sum(axis=0) <= 0):
        raise EntryError(f"concept {i + 1}", f"q_{i + 1} has no mode: give it a share of at least one mode")
    weights, shares = weights / weights.sum(), shares / shares.sum(axis=0)

    def mixture(part: np.ndarray) -> GaussianMixture:
        used = [k for k in range(len(modes)) if part[k] > 0]
        means = [[modes[k].x, modes[k].y] for k in used]
        return GaussianMixture(part[used], means, [modes[k].covariance for k in used])

    priors = []
    for column in shares.T:
        held = column > 0
        priors.append(float((weights[held] / column[held]).min()))
    return Scene(mixture(weights), tuple(mixture(column) for column in shares.T), tuple(priors))


def from_example(name: str, problem: str = "LU") -> State:
    """The named example of ``toy.examples`` as a view, with its levels."""
    given = example(name)
    modes = [
        Mode(_tidy(mean[0]), _tidy(mean[1]), *_entries(covariance), _tidy(weight), ())
        for weight, mean, covariance in zip(
            given.pretrained.weights, given.pretrained.means, given.pretrained.covariances, strict=True
        )
    ]
    columns = [[0.0] * len(modes) for _ in given.unlearn]
    for column, part in zip(columns, given.unlearn, strict=True):
        for weight, mean, covariance in zip(part.weights, part.means, part.covariances, strict=True):
            fresh = Mode(_tidy(mean[0]), _tidy(mean[1]), *_entries(covariance), 0.0, ())
            same = [k for k, mode in enumerate(modes) if replace(mode, weight=0.0) == fresh]
            if not same:
                modes.append(fresh)
                for one in columns:
                    one.append(0.0)
            column[same[0] if same else len(modes) - 1] = float(weight)
    shared = tuple(replace(mode, shares=tuple(column[k] for column in columns)) for k, mode in enumerate(modes))
    levels: dict[str, tuple[float, ...]] = {}
    for problem_given in given.problems:
        values = tuple(float(level) for level in problem_given.levels)
        if isinstance(problem_given, du.Likelihood):
            levels[f"LU {problem_given.kind}"] = values
        else:
            levels["RU" if isinstance(problem_given, du.ReverseKL) else "FU"] = values
    kind = "posterior" if "LU posterior" in levels else "log-ratio"
    return State(shared, problem, kind, levels)


def to_dict(state: State) -> dict[str, Any]:
    """Plain JSON data: a mode is the row x, y, c11, c12, c22, weight in q, shares in the q_i."""
    return {
        "version": 1,
        "modes": [list(_numbers(mode)) for mode in state.modes],
        "problem": state.problem,
        "kind": state.kind,
        "levels": {key: list(values) for key, values in state.levels.items()},
        "alpha_bar": state.alpha_bar,
        "concept": state.concept,
        "kept": state.kept,
        "section": state.section,
    }


def from_dict(data: Mapping[str, Any]) -> State:
    """The view that ``to_dict`` wrote. Raises ``EntryError`` for anything else; entries may still make no sense."""
    try:
        modes = tuple(_mode(row) for row in data["modes"])
        levels = {str(key): tuple(float(v) for v in values) for key, values in data["levels"].items()}
        for value in itertools.chain(*map(_numbers, modes), *levels.values()):
            check_number("problem", "the link", value)
        return State(
            modes,
            str(data["problem"]),
            str(data["kind"]),
            levels,
            float(data["alpha_bar"]),
            int(data["concept"]),
            float(data["kept"]),
            str(data["section"]),
        )
    except EntryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EntryError("problem", f"the link holds no view ({type(error).__name__}: {error})") from None


def to_link(state: State) -> str:
    """A view as text that is safe in a URL: compressed JSON in base64."""
    text = json.dumps(to_dict(state), separators=(",", ":"))
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def from_link(text: str) -> State:
    """The view in a link. Raises ``EntryError`` where it was cut or changed."""
    try:
        if len(text) > _LONGEST_LINK:
            raise ValueError("too long")
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        # A bound on what it may unpack to: a link is foreign data.
        data = json.loads(zlib.decompressobj().decompress(packed, 10 * _LONGEST_LINK))
    except (ValueError, binascii.Error, zlib.error, RecursionError):
        raise EntryError("problem", "the link was cut or changed: it holds no view") from None
    if not isinstance(data, dict):
        raise EntryError("problem", "the link was cut or changed: it holds no view")
    return from_dict(data)


def names() -> dict[str, str]:
    """Titles of the examples to start from, by name."""
    return {example(name).title: name for name in EXAMPLES}


def _numbers(mode: Mode) -> tuple[float, ...]:
    return (mode.x, mode.y, mode.c11, mode.c12, mode.c22, mode.weight, *mode.shares)


def _mode(row: Sequence[Any]) -> Mode:
    x, y, c11, c12, c22, weight, *shares = (float(value) for value in row)
    return Mode(x, y, c11, c12, c22, weight, tuple(shares))


def _entries(covariance: np.ndarray) -> tuple[float, float, float]:
    return _tidy(covariance[0, 0]), _tidy(covariance[0, 1]), _tidy(covariance[1, 1])


def _tidy(value: float) -> float:
    """Twelve digits, and 0 for what is left of cos(pi/2): numbers that people are to read."""
    return round(float(f"{value:.12g}"), 12) + 0.0
