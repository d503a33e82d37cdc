r"""Levels as people say them, and the problem they amount to once it is known where q stands.

::

    "0.01", "4"      a number in the problem's own unit: a probability (likelihood), nats (the KL problems)
    "1%"             a probability s: itself (likelihood), or -log s nats (forward KL, whose level of b nats leaves a
                     concept that stands apart the share e^{-b}); a reverse KL level is no share
    "4 nats"         nats (the KL problems)
    "0.1x", "2x"     a multiple of the level that q has already: E_q[l_i], KL(q||q_i) or KL(q_i||q)

Multiples need the log ratios, so they become numbers after a model has been surveyed: :meth:`Asked.problem`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import duality as du

#: Problems by their names on the command line.
KINDS: dict[str, type[du.Problem]] = {
    "likelihood": du.Likelihood,
    "reverse-kl": du.ReverseKL,
    "forward-kl": du.ForwardKL,
}

_LEVEL = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*(%|nats?|x|×|)", re.IGNORECASE | re.ASCII)
_NEEDED = "a number, a probability like '1%', nats like '4 nats', or a multiple of the present level like '0.1x'"


@dataclass(frozen=True)
class Level:
    """One level: ``value`` in the problem's unit, or, where ``relative``, in units of the level that q has."""

    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.value:g}x" if self.relative else f"{self.value:g}"


def parse(text: str | float, kind: type[du.Problem]) -> Level:
    """The level that ``text`` states for a problem of this kind.

    Raises ``ValueError`` for what is none of the module's forms, has another unit than the kind, or lies outside its
    range: a likelihood is a probability strictly between 0 and 1, a divergence never negative, a multiple positive.
    """
    name = next((name for name, some in KINDS.items() if some is kind), kind.__name__)
    found = _LEVEL.fullmatch(str(text).strip())
    if found is None:
        raise ValueError(f"level must be {_NEEDED}, got {text!r}")
    value, unit = float(found[1]), found[2].lower()
    if unit in ("x", "×"):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"level must be a positive multiple of the present one, got {text!r}")
        return Level(value, relative=True)
    probability = kind is du.Likelihood
    if unit.startswith("nat") and probability:
        raise ValueError(f"level of a likelihood is a probability, got {text!r}: say '1%' or 0.01, or a multiple")
    if unit == "%":
        if kind is du.ReverseKL:
            raise ValueError(f"level of reverse-kl is no share of the samples, got {text!r}: say nats, or a multiple")
        value /= 100
        if not 0 < value < 1:
            raise ValueError(f"level must lie strictly between 0 and 100 %, got {text!r}")
        value = value if probability else -math.log(value)
    if probability and not 0 < value < 1:
        raise ValueError(
            f"level must lie strictly between 0 and 1 for a likelihood (a probability), got {text!r}; "
            f"a multiple of the present level is written like '{value:g}x'"
        )
    if not math.isfinite(value) or (value < 0 and not probability):
        raise ValueError(f"level of {name} is a divergence, which is finite and never negative, got {text!r}")
    return Level(value)


@dataclass(frozen=True)
class Asked:
    """A problem whose levels may be multiples of the present ones; made by :func:`levels`."""

    kind: type[du.Problem]
    levels: tuple[Level, ...]

    @property
    def count(self) -> int:
        return len(self.levels)

    def problem(self, ratios: du.LogRatios) -> du.Problem:
        """The problem in numbers, one level for each constraint of ``ratios``.

        Raises ``ValueError`` for a number of levels that does not fit, and for multiples of what is no level: a
        likelihood that is no probability any more, a divergence that is negative because the ratios are of no law.
        """
        given = self.levels * ratios.m if self.count == 1 else self.levels
        if len(given) != ratios.m:
            raise ValueError(f"level: {self.count} given for {ratios.m} concepts; give one, or one for each")
        now = present(self.kind, ratios)
        for level, at in zip(given, now, strict=True):
            if level.relative and at < 0:
                raise ValueError(
                    f"level {level} cannot be had: by these ratios q's own is {at:.3g} nats, and no divergence is "
                    "negative; mend the ratios, or give nats"
                )
        numbers = [level.value * at if level.relative else level.value for level, at in zip(given, now, strict=True)]
        for level, number, at in zip(given, numbers, now, strict=True):
            if self.kind is du.Likelihood and not 0 < number < 1:
                raise ValueError(f"level {level} of the present {at:.4g} is {number:.4g}, which is no probability")
        return self.kind(np.array(numbers))

    def __str__(self) -> str:
        name = next(name for name, some in KINDS.items() if some is self.kind)
        return f"{name} {', '.join(map(str, self.levels))}"


def levels(kind: type[du.Problem], given: str | float | Sequence[str | float]) -> Asked:
    """A problem of ``kind`` from levels as the module says them, one for all concepts or one for each.

    >>> str(levels(du.Likelihood, "0.1x")), str(levels(du.ForwardKL, ["1%", "2x"]))
    ('likelihood 0.1x', 'forward-kl 4.60517, 2x')

    Raises ``ValueError``, naming what was given, for a kind that is none of the three, or levels that fit none.
    """
    if kind not in KINDS.values():
        raise ValueError(f"kind must be duality.Likelihood, ReverseKL or ForwardKL, got {kind!r}")
    some = [given] if isinstance(given, str | int | float) else list(given)
    if not some:
        raise ValueError(f"level must hold at least one, {_NEEDED}, got none")
    return Asked(kind, tuple(parse(each, kind) for each in some))


def kind_of(name: str) -> type[du.Problem]:
    """The problem of that name on the command line. ``ValueError`` for a name that is not known."""
    if name not in KINDS:
        raise ValueError(f"problem must be {', '.join(KINDS)}, got {name!r}")
    return KINDS[name]


def present(kind: type[du.Problem], ratios: du.LogRatios) -> np.ndarray:
    """The levels (m,) that q itself has."""
    problem = kind(0.5).bind(ratios)  # any level will do: only the functional is asked for
    return problem.levels_of(ratios, ratios.log_weights)


def resolved(problem: du.Problem | Asked, ratios: du.LogRatios) -> du.Problem:
    """A problem in numbers, whichever way it was given."""
    return problem.problem(ratios) if isinstance(problem, Asked) else problem


def check_tilt(solution: du.Solution) -> None:
    """``ValueError`` where no tilt of the samples has the target, so that there is nothing to fit or to guide by: a
    reverse KL beyond its critical levels, whose multipliers add up to 1."""
    if solution.problem.domain(solution.multipliers):
        return
    asked = ", ".join(f"{each:.4g}" for each in solution.problem.levels)
    most = solution.critical_levels
    reach = "" if most is None else f"; they come to {', '.join(f'{each:.4g}' for each in most)}"
    raise ValueError(
        f"level: {asked} nats lie beyond what any tilt of these samples reaches{reach}. Ask for "
        "less, or take more samples of the model"
    )
