"""The answer and its certificate in one: target, multipliers, cost, levels, and how far each can be trusted."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from duality._arrays import Array, beside, frozen, namespace
from duality.problems import ForwardKL, Likelihood, Problem, ReverseKL


class Status(Enum):
    """How a solve ended. The value is the message for people."""

    OPTIMAL = "optimal: the target meets every level at the least cost"
    INACTIVE = "inactive: q itself meets every level, so nothing is to be done"
    NOT_ATTAINED = "not attained: the value is right, but no tilt of q reaches it; Solution.message says why"
    INEXACT = "inexact: the two bounds on the value are apart, or a level is missed; Solution.message says by how much"


class InfeasibleError(ValueError):
    """No density on these nodes meets the levels asked for.

    Attributes:
        least: `(m,)` levels that can just be had. With b the levels asked for and e_i = E_q[l_i] those of q,
            least = b + s (e - b)_+ for the smallest s in [0, 1] at which some density has E_p[l_i] ≤ least_i for all
            i at once: the same fraction of the way from what was asked to what q has, for every constraint. For one
            constraint that is the smallest likelihood on the nodes. NaN for a kind of problem that does not say.
    """

    def __init__(self, levels: np.ndarray, least: np.ndarray) -> None:
        self.levels = levels
        self.least = least
        if np.isnan(least).any():
            known = "what can be had is not known, because the problem does not say (`Problem.least_levels`)"
        else:
            known = f"the least that can be had jointly is {_row(least)} (only in the limit: ask for a little more)"
        super().__init__(f"levels: no density meets {_row(levels)}; {known}")


class FewDrawsWarning(UserWarning):
    """The answer rests on few draws: its standard errors are not to be relied on.

    Attributes:
        effective: how many draws of equal influence would carry the same information.
    """

    def __init__(self, effective: float, draws: int) -> None:
        self.effective = effective
        super().__init__(
            f"the answer rests on the equivalent of {effective:.1f} of {draws} draws; below"
            f" {FEW_DRAWS} its standard errors are unreliable: use more draws or milder levels"
        )


FEW_DRAWS = 100  # where the normal approximation behind the delta method begins to hold, tests/duality/test_draws.py


@dataclass(frozen=True, eq=False)
class Solution:
    """Target p* = q exp(log w(rho; lam*))/Z of a problem, with the certificate that nothing better exists.

    Attributes:
        problem: the problem solved, with one level for each constraint and the priors that were used.
        multipliers: lam* `(m,)`, ≥ 0. dV/db_i = lam_i (ReverseKL, ForwardKL), -lam_i (Likelihood).
        natural: `(m,)` natural parameters of the target: a for ReverseKL, otherwise lam. Where ReverseKL's lam add up
            to 1 the target is the limit of log-ratio likelihood targets at falling cost, and these are theirs.
        primal: cost of the target in nats, computed from the target alone.
        dual: value of the dual function at lam*, nats: by weak duality no density that meets the levels costs less.
        bound: the least cost that the target proves possible, nats: its own where it meets the levels, otherwise that
            of densities that differ from it as little as one likes (`Problem.shown`); inf where it proves none.
        levels: `(m,)` what the target reaches, computed from the target alone.
        status: how the solve ended; `message` says it in words.
        log_weights: `(n,)` log masses of the target at the nodes, normalised.
        kkt_residual: largest relative violation of the optimality conditions, in units of the levels; where they are
            not attained, of the conditions for `bound`.
        effective_sample_size: 1 / sum_j p_j², how many nodes of equal mass the target amounts to.
        multipliers_stderr: `(m,)` standard errors of lam* where the nodes are draws, else NaN; 0 where lam_i = 0.
        primal_stderr: standard error of the value where the nodes are draws, else NaN.
        critical_levels: `(m,)` levels of the limit density where the levels asked for are not attained, else None.
            Where everything of q is to be forgotten (ForwardKL with sum lam* = 1) there is no limit density: these
            levels, `levels` and `primal` are NaN, and `log_weights` are only the last density that nodes can show.
        iterations: Newton steps taken.
    """

    problem: Problem
    multipliers: np.ndarray
    natural: np.ndarray
    primal: float
    dual: float
    bound: float
    levels: np.ndarray
    status: Status
    log_weights: np.ndarray
    kkt_residual: float
    effective_sample_size: float
    multipliers_stderr: np.ndarray
    primal_stderr: float
    critical_levels: np.ndarray | None
    iterations: int

    @property
    def gap(self) -> float:
        """|bound - dual| / (1 + |dual|): how far apart the two bounds on the value are, attained or not."""
        return abs(self.bound - self.dual) / (1.0 + abs(self.dual))

    @property
    def slack(self) -> np.ndarray:
        """`(m,)`, ≥ 0 where a level is met: levels - b for the KL problems, b - levels for Likelihood."""
        return self.problem.slack(self.levels)

    @property
    def attained(self) -> bool:
        """Whether a tilt of q reaches the value; where it is the only candidate, whether any density does."""
        return self.status is not Status.NOT_ATTAINED

    @property
    def message(self) -> str:
        """How the solve ended, in a sentence."""
        if self.status is Status.INEXACT:
            return self._inexact()
        if self.status is not Status.NOT_ATTAINED:
            return self.status.value
        if self.problem.emptied(self.natural):
            return (
                "not attained: everything of q is to be forgotten (the multipliers add up to 1), and no density is"
                " left; only the value is known"
            )
        return self.problem.not_attained

    def _inexact(self) -> str:
        above = f"and at most {self.bound:.9g}" if np.isfinite(self.bound) else "and nothing is known from above"
        said = f"inexact: the least cost is at least {self.dual:.9g} nats, {above} (relative gap {self.gap:.1e})"
        wrong = np.where(self.multipliers > 0, np.abs(self.slack), np.maximum(-self.slack, 0.0))
        if np.isnan(wrong).any():
            return said
        i = int(np.argmax(wrong / (1.0 + np.abs(self.problem.levels))))
        kind = "misses" if self.slack[i] < 0 else "goes beyond"
        return (
            f"{said}; the target {kind} level {i + 1} by {wrong[i]:.2g} (asked {self.problem.levels[i]:.6g}), with the"
            f" multiplier {self.multipliers[i]:.3g}, KKT residual {self.kkt_residual:.1e}"
        )

    @property
    def inactive(self) -> bool:
        """Whether q itself is the answer."""
        return self.status is Status.INACTIVE

    def log_weight(self, values: Array) -> Array:
        """log w(rho; lam*), `(..., m)` -> `(...)`, NumPy or torch; see `Problem.log_weight`."""
        _, values = namespace(values)
        return self.problem.tilt(values, beside(values, self.natural))

    def guidance(self, values: Array) -> Array:
        """Strengths k of negative guidance at noised states, `(..., m)` -> `(..., m)`; see `Problem.guidance`."""
        _, values = namespace(values)
        return self.problem.strengths(values, beside(values, self.natural))

    def __str__(self) -> str:
        """A small table: one line for each constraint, then the certificate."""
        draws = bool(np.isfinite(self.primal_stderr))
        head = ["", "asked", "reached", "slack", "multiplier", *(["std. error"] if draws else [])]
        columns = [self.problem.levels, self.levels, self.slack, self.multipliers]
        if draws:
            columns.append(self.multipliers_stderr)
        rows = [head] + [[str(i + 1), *(f"{c[i]:.6g}" for c in columns)] for i in range(self.multipliers.size)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = [f"{type(self.problem).__name__}: {self.message}"]
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        error = f" ± {self.primal_stderr:.2g}" if draws else ""
        lines.append(
            f"primal {self.primal:.9g}{error}  dual {self.dual:.9g}  gap {self.gap:.1e}  KKT {self.kkt_residual:.1e}"
            f"  effective sample size {self.effective_sample_size:.4g} of {self.log_weights.size}"
        )
        return "\n".join(lines)

    def to_json(self) -> str:
        """Strict JSON (infinities and NaN as strings) from which `from_json` rebuilds the solution bit for bit.

        Raises:
            ValueError: where a problem of your own has a field that is no number, text, or array of numbers.
        """
        problem: dict[str, Any] = {"type": _name(type(self.problem))}
        for each in dataclasses.fields(self.problem):
            if each.init:
                problem[each.name] = _stored(each.name, getattr(self.problem, each.name))
        fields = {name: _plain(getattr(self, name)) for name in _FIELDS}
        return json.dumps({"problem": problem, "status": self.status.name, **fields}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Solution:
        """The solution that `to_json` wrote, of a built-in problem or of any `Problem` class that has been imported.

        Raises:
            ValueError: for text that `to_json` did not write, or whose problem is of a class not imported yet.
        """
        try:
            data = json.loads(text)
            given = dict(data["problem"])
            kind = _kind(given.pop("type"))
            arguments = {name: _number(value) for name, value in given.items()}
            fields = {name: _number(data[name]) for name in _FIELDS}
            return cls(problem=kind(**arguments), status=Status[data["status"]], **fields)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"text: not the JSON of a Solution ({type(error).__name__}: {error})") from None


def _name(kind: type[Problem]) -> str:
    """Plain for the problems of this package, with its module for one of yours: two may share a name."""
    return kind.__name__ if kind in BUILT_IN else f"{kind.__module__}.{kind.__qualname__}"


def _kind(name: str) -> type[Problem]:
    known = {_name(kind): kind for kind in (*_descendants(Problem), *BUILT_IN)}
    if name not in known:
        raise ValueError(
            f"text: not the JSON of a Solution of a problem known here: its problem is of class {name!r}; import the"
            " module that defines this class before reading"
        )
    return known[name]


def _descendants(kind: type[Any]) -> list[type[Problem]]:
    return [each for child in kind.__subclasses__() for each in (child, *_descendants(child))]


BUILT_IN: tuple[type[Problem], ...] = (ReverseKL, ForwardKL, Likelihood)
_FIELDS = (
    "multipliers",
    "natural",
    "primal",
    "dual",
    "bound",
    "levels",
    "log_weights",
    "kkt_residual",
    "effective_sample_size",
    "multipliers_stderr",
    "primal_stderr",
    "critical_levels",
    "iterations",
)


def _row(values: np.ndarray) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _plain(value: Any) -> Any:
    """Plain JSON data. Python writes a double with the digits that restore it; non-finite ones become strings."""
    if isinstance(value, np.ndarray):
        return value.tolist() if np.isfinite(value).all() else [_plain(float(v)) for v in value]
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value


def _stored(name: str, value: Any) -> Any:
    plain = _plain(value)
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError(
            f"problem: its field {name!r} is a {type(value).__name__}, which JSON cannot hold; numbers, text and arrays"
            " of numbers are needed (or store the parts of the solution yourself)"
        ) from None
    return plain


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return frozen(np.array([float(v) for v in value]))
    if value in ("inf", "-inf", "nan"):
        return float(value)
    return value
