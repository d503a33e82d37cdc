r"""What is asked of detectors under a law of prompts: at most so much of what must go, at least so much of what stays.

::

    sum_c a(c) E_{p_c}[l(x)] <= b    (or >= b),       a(c) = P(c), or P(c | group) where the level is of one group

``"1%; 5% in street"``: several levels of one concept, each of all prompts or of those of a named group. With alpha(c) =
a(c)/P(c) a level is that of the column alpha(c) l(x) in the mean over the whole law, and the target is ::

    log w(x, c) = -sum_k M_ck l_k(x),        M_ck = sum_j (+-lam_j) alpha_j(c) [j constrains detector k],

minus for what is kept. Source: theory, "Shares of a constraint's own" and "What is to be kept".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import duality as du
from diffusion.tasks.levels import Level, parse
from diffusion.tasks.prompts import Prompts

Side = Literal["upper", "lower"]
_BETWEEN = re.compile(r"\s+in\s+")


@dataclass(frozen=True)
class Constraint:
    """One level of one detector: ``column`` of what detectors say; "upper" at most, "lower" at least; ``group`` None
    for all prompts."""

    concept: str
    column: int
    side: Side
    level: Level
    group: str | None = None

    @property
    def where(self) -> str:
        """``"in 'street'"``, or nothing."""
        return "" if self.group is None else f" in {self.group!r}"

    def __str__(self) -> str:
        return f"{self.concept!r}{self.where} at {'most' if self.side == 'upper' else 'least'} {self.level}"


def clauses(text: str | float) -> list[tuple[Level, str | None]]:
    """Levels and their groups. ``ValueError`` as for :func:`diffusion.tasks.levels.parse`, or for a group twice.

    >>> [(str(level), group) for level, group in clauses("1%; 0.5x in street")]
    [('0.01', None), ('0.5x', 'street')]
    """
    found = []
    for part in str(text).split(";"):
        level, *group = _BETWEEN.split(part.strip(), maxsplit=1)
        found.append((parse(level, du.Likelihood), group[0].strip() if group else None))
    groups = [group for _, group in found]
    if len(set(groups)) < len(groups):
        raise ValueError(f"level: {text!r} says two levels of the same prompts")
    return found


def constraints_of(
    concepts: Sequence[str], levels: Sequence[str | float], keep: Sequence[tuple[str, str]], prompts: Prompts
) -> tuple[Constraint, ...]:
    """What must go by name with its level (one for all, or one each), then what is kept: names and levels.

    Detectors stand in that order. Raises ``ValueError`` for names that are not apart, levels that fit none, or a
    group that no prompt is of.
    """
    names = [*concepts, *(name for name, _ in keep)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"concepts must have different names (their first prompts), and so must what is kept: {twice}")
    given = list(levels) * len(concepts) if len(levels) == 1 else list(levels)
    said = [*given, *(level for _, level in keep)]
    found = []
    for column, (name, text) in enumerate(zip(names, said, strict=True)):
        side: Side = "upper" if column < len(concepts) else "lower"
        for level, group in clauses(text):
            prompts.within(group)  # refuses one that is not there
            found.append(Constraint(name, column, side, level, group))
    return tuple(found)


def shares(prompts: Prompts, constraints: Sequence[Constraint]) -> NDArray[np.float64]:
    """alpha (C, m); zero for prompts that are never asked."""
    asked = prompts.probabilities
    within = np.stack([prompts.within(each.group) for each in constraints], axis=1)
    return np.asarray(np.where(asked[:, None] > 0, within / np.where(asked > 0, asked, 1.0)[:, None], 0.0))


def columns(prompts: Prompts, constraints: Sequence[Constraint], rows: Tensor, said: Tensor) -> Tensor:
    """alpha(c) l (n, m), double, of what detectors say (n, k) of samples of prompts by number (n,)."""
    weight = torch.from_numpy(shares(prompts, constraints))[rows]
    return weight * said[:, [each.column for each in constraints]].double()


def strengths(
    alpha: NDArray[np.float64], constraints: Sequence[Constraint], multipliers: NDArray[np.float64]
) -> Tensor:
    """M (C, k), double: what each detector's word costs under each prompt, at multipliers (m,); ``alpha``: of
    :func:`shares`."""
    found = np.zeros((len(alpha), max(each.column for each in constraints) + 1))
    for j, each in enumerate(constraints):
        found[:, each.column] += (1 if each.side == "upper" else -1) * float(multipliers[j]) * alpha[:, j]
    return torch.from_numpy(found)


def problem_of(constraints: Sequence[Constraint], ratios: du.LogRatios) -> du.Problem:
    """The problem in numbers, on ratios whose detectors are the columns of these constraints, those to keep last.

    Raises ``ValueError`` for a multiple of the present level that is no probability.
    """
    if ratios.detectors is None or ratios.detectors.shape[1] != len(constraints):
        raise ValueError(f"ratios must carry {len(constraints)} columns of detectors, one for each constraint")
    now = np.exp(ratios.log_weights) @ ratios.detectors
    numbers = [
        c.level.value * at if c.level.relative else c.level.value for c, at in zip(constraints, now, strict=True)
    ]
    for each, number, at in zip(constraints, numbers, now, strict=True):
        if not 0 < number < 1:
            raise ValueError(f"level {each} of the present {at:.4g} is {number:.4g}, which is no probability")
    gone = sum(each.side == "upper" for each in constraints)
    if gone == len(constraints):
        return du.Likelihood(np.array(numbers), kind="detector")
    return du.Joint([du.Likelihood(np.array(numbers[:gone]), kind="detector"), du.Keep(np.array(numbers[gone:]))])


def estimates(
    prompts: Prompts, constraints: Sequence[Constraint], rows: NDArray[np.int64], said: NDArray[np.float64], law: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Levels (m,) and standard errors (m,): means over the samples of each constraint's prompts.

    Samples (n, k) of prompts by number (n,), of which the first ``law`` are of the whole law, and the others of groups.
    A group of which there is one sample or none has an infinite standard error, and of none the level is NaN.
    """
    means, errors = [], []
    for each in constraints:
        of = np.arange(len(rows)) < law if each.group is None else prompts.within(each.group)[rows] > 0
        values = said[of, each.column]
        means.append(float(values.mean()) if len(values) else np.nan)
        errors.append(float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else np.inf)
    return np.array(means), np.array(errors)


def named_conflict(error: du.InfeasibleError, constraints: Sequence[Constraint]) -> du.InfeasibleError:
    """The same error, with the constraints by their names behind duality's numbers."""
    told = range(len(constraints)) if error.conflict is None else error.conflict.tolist()
    error.args = (f"{error}. Constraints: " + "; ".join(f"{j + 1} is {constraints[j]}" for j in told),)
    return error
