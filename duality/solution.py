"""The answer and its certificate in one: target, multipliers, cost, levels, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from duality._arrays import Array, frozen, namespace
from duality.problems import Problem

if TYPE_CHECKING:
    from duality.uncertainty import Uncertainty


class Status(Enum):
    """How a solve ended. The value is the message for people."""

    OPTIMAL = "optimal: the target meets every level at the least cost"
    INACTIVE = "inactive: q itself meets every level, so nothing is to be done"
    NOT_ATTAINED = "not attained: the value is right, but no tilt of q reaches it; Solution.message says why"
    INEXACT = "inexact: the two bounds on the value are apart, or a level is missed; Solution.message says by how much"


class InfeasibleError(ValueError):
    """No density on these nodes meets the levels asked for.

    Attributes:
        least: `(m,)` levels that can just be had. With b the levels asked for and e those of q, least = b + s (e - b),
            where q misses, for the smallest s in [0, 1] at which some density meets all of them at once: the same
            fraction of the way from what was asked to what q has, for every constraint. For one `Likelihood` that is
            the smallest likelihood on the nodes. NaN for a kind of problem that does not say.
        conflict: `(k,)` positions of the constraints that cannot be had together: none of them is to blame alone, and
            the others are not. None where a kind of problem does not say.
    """

    def __init__(self, levels: np.ndarray, least: np.ndarray, conflict: np.ndarray | None = None) -> None:
        self.levels = levels
        self.least = least
        self.conflict = None if conflict is None else np.flatnonzero(conflict)
        if np.isnan(least).any():
            known = "what can be had is not known, because the problem does not say (`Problem.least_levels`)"
        else:
            known = f"the least that can be had jointly is {_row(least)} (only in the limit: ask for a little more)"
        who = ""
        if self.conflict is not None and 1 < self.conflict.size < levels.size:
            who = f"; it is constraints {', '.join(str(i + 1) for i in self.conflict)} that conflict"
        elif self.conflict is not None and self.conflict.size == 1 < levels.size:
            who = f"; it is constraint {int(self.conflict[0]) + 1} that cannot be met"
        super().__init__(f"levels: no density meets {_row(levels)}{who}; {known}")


class FewDrawsWarning(UserWarning):
    """The answer rests on few draws: its standard errors are not to be relied on.

    Attributes:
        effective: how many draws of equal influence would carry the same information.
    """

    def __init__(self, effective: float, draws: int) -> None:
        self.effective = effective
        super().__init__(
            f"the answer rests on the equivalent of {effective:.1f} of {draws} samples; below"
            f" {FEW_DRAWS} its standard errors are unreliable: use more samples or milder levels"
        )


class SmallGroupsWarning(UserWarning):
    """Groups have too few draws each: logarithms of their means are biased by more than the value's standard error.

    Attributes:
        bias: the jackknife's estimate, nats; NaN where every group has a single draw, of which none can be made.
        single: the share P of the groups that have a single draw, which no tilt can change.
    """

    def __init__(self, bias: float, stderr: float, single: float) -> None:
        self.bias, self.single = bias, single
        how = f"by about {bias:.2g} nats" if np.isfinite(bias) else "by an amount that such samples do not tell"
        alone = (
            f"; groups of a single sample, {single:.2g} of all that is asked, cannot be tilted at all" if single else ""
        )
        super().__init__(
            f"few samples per group: the value is overstated {how}, with a standard error of {stderr:.2g}{alone};"
            " take more samples of each group, or pool groups"
        )


LATER = ("multipliers_stderr", "levels_stderr")
FEW_DRAWS = 100  # where the normal approximation behind the delta method begins to hold, tests/duality/test_draws.py


@dataclass(frozen=True, eq=False)
class Solution:
    """Target p* = q exp(log w(rho; lam*))/Z of a problem, with the certificate that nothing better exists.

    Attributes:
        problem: the problem solved, with one level for each constraint and the priors that were used.
        multipliers: lam* `(m,)`, ≥ 0. dV/db_i = lam_i (ReverseKL, ForwardKL), -lam_i (Likelihood).
        natural: `(m,)` natural parameters of the target: a for ReverseKL, otherwise lam (NaN for expectations beside
            ForwardKL in several groups, see `Joint`). Where ReverseKL's lam add up to 1 the target is the limit of
            log-ratio likelihood targets at falling cost, and these are theirs.
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
            Computed when it is first looked at, and `levels_stderr` with it.
        levels_stderr: `(m,)` standard errors of `levels` where the nodes are draws, else NaN: how far the levels that
            this target has under q itself lie from those that it has on the draws, which meet what was asked exactly.
        primal_stderr: standard error of the value where the nodes are draws, else NaN.
        primal_bias: by how much the value is overstated on average, where the nodes are draws in groups, else NaN: by
            logarithms of means of few draws (the jackknife), and by maximising over the multipliers.
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
    levels_stderr: np.ndarray
    primal_stderr: float
    primal_bias: float
    critical_levels: np.ndarray | None
    iterations: int

    if not TYPE_CHECKING:  # to a type checker these are fields like any others

        def __getattr__(self, name: str) -> Any:
            if name not in LATER or "_errors" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            found = self.__dict__.pop("_errors")()
            self.__dict__.update(multipliers_stderr=frozen(found.multipliers), levels_stderr=frozen(found.levels))
            return self.__dict__[name]

    def __getstate__(self) -> dict[str, Any]:
        """All fields, standard errors among them: what pickle and copy take."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def gap(self) -> float:
        """`|bound - dual| / (1 + |dual|)`, how far apart the two bounds on the value are, attained or not."""
        return abs(self.bound - self.dual) / (1.0 + abs(self.dual))

    @property
    def slack(self) -> np.ndarray:
        """`(m,)`, ≥ 0 where a level is met; levels - b for the KL problems, b - levels for Likelihood."""
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
        return self.problem.at_natural(self.problem.tilt, values, self.natural)

    def guidance(self, values: Array) -> Array:
        """Strengths k of negative guidance at noised states, `(..., m)` -> `(..., m)`; see `Problem.guidance`."""
        _, values = namespace(values)
        return self.problem.at_natural(self.problem.strengths, values, self.natural)

    def __str__(self) -> str:
        """A small table: one line for each constraint, then the certificate."""
        draws = bool(np.isfinite(self.primal_stderr))
        error = ["std. error"] if draws else []
        head = ["", "asked", "reached", *error, "slack", "multiplier", *error]
        columns = [self.problem.levels, self.levels, self.slack, self.multipliers]
        if draws:
            columns.insert(2, self.levels_stderr)
            columns.append(self.multipliers_stderr)
        rows = [head] + [[str(i + 1), *(f"{c[i]:.6g}" for c in columns)] for i in range(self.multipliers.size)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
        lines = [f"{type(self.problem).__name__}: {self.message}"]
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        scatter = f" ± {self.primal_stderr:.2g}" if draws else ""
        scatter += f" (bias {self.primal_bias:+.1g})" if np.isfinite(self.primal_bias) else ""
        lines.append(
            f"primal {self.primal:.9g}{scatter}  dual {self.dual:.9g}  gap {self.gap:.1e}  KKT {self.kkt_residual:.1e}"
            f"  effective sample size {self.effective_sample_size:.4g} of {self.log_weights.size}"
        )
        return "\n".join(lines)

    def to_json(self) -> str:
        """Strict JSON (infinities and NaN as strings) from which `from_json` rebuilds the solution bit for bit.

        Its `schema_version` grows when a name or a meaning changes; docs/reference/files.md has the schema.

        Raises:
            ValueError: where a problem of your own has a field that is no number, text, or array of numbers.
        """
        from duality import solution_json  # it knows `Solution`

        return solution_json.to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Solution:
        """The solution that `to_json` wrote, of a built-in problem or of any `Problem` class that has been imported.

        Types and sizes are checked field by field: numbers are JSON numbers (or "Infinity", "-Infinity", "NaN")
        within the range of a double, and every vector has the length that the others have. What a solution claims is
        not checked anew; that takes the ratios, and `solve`.

        Raises:
            ValueError: for text that `to_json` did not write, naming the field, or that one with another
                `schema_version` did; or whose problem is of a class not imported yet.
        """
        from duality import solution_json  # it knows `Solution`

        return solution_json.from_json(text)


def computed_later(solution: Solution, errors: Callable[[], Uncertainty]) -> Solution:
    """The same solution, whose standard errors of multipliers and levels are computed when somebody looks at them."""
    for name in LATER:
        del solution.__dict__[name]
    solution.__dict__["_errors"] = errors
    return solution


def _row(values: np.ndarray) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
