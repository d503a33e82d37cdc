"""A state with its numbers, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import duality as du
from toy.explorer.boards import Board, Stage
from toy.explorer.curves import Curve
from toy.explorer.levels import Range
from toy.explorer.state import State
from toy.mixtures import Array
from toy.solving import ToySolution


@dataclass(frozen=True, eq=False)
class Kept:
    """What keeping one mode (from 0) takes: multiplier, and how much less V would be without it, nats."""

    mode: int
    multiplier: float
    cost: float


@dataclass(frozen=True, eq=False)
class Whole:
    """The answer over all prompts, and with what is kept.

    Attributes:
        answers: the same under each prompt.
        shown: `E_{p_c}[Pr(i|x, c)]`, (C, m).
        costs: of each prompt, (C,) nats.
        kept: what each of the modes that are kept costs.
        together: what keeping all of them costs, nats.
    """

    solution: du.Solution
    stage: Stage
    answers: tuple[ToySolution, ...]
    shown: Array
    costs: Array
    kept: tuple[Kept, ...] = ()
    together: float = 0.0


@dataclass(frozen=True, eq=False)
class View:
    """A state with its numbers.

    Attributes:
        errors: place -> what is wrong there, empty where all is well.
        board, answer: under the prompt that is looked at. The answer is None where the problem has none.
        whole: under all of them, None where there is but one law of which nothing is kept.
        dual, frontier: None where the problem has no answer.
        end: end of the dual domain along the chosen multiplier.
        truncation, resolution: estimated errors of the grid (mass at its edge; relative error of mass and cost).
    """

    state: State
    errors: dict[str, str] = field(default_factory=dict)
    stage: Stage | None = None
    ranges: tuple[Range, ...] = ()
    levels: tuple[float, ...] = ()
    answer: ToySolution | None = None
    whole: Whole | None = None
    dual: Curve | None = None
    frontier: Curve | None = None
    end: float = float("inf")
    truncation: float = 0.0
    resolution: float = 0.0

    @property
    def board(self) -> Board | None:
        """Of the prompt that is looked at."""
        return None if self.stage is None else self.stage.boards[self.state.prompt]

    @property
    def solution(self) -> du.Solution | None:
        """What was solved for, over all prompts, with all that is kept."""
        if self.whole is not None:
            return self.whole.solution
        return None if self.answer is None else self.answer.solution


def looked_at(view: View, state: State) -> View:
    """The same numbers under another prompt, at another noise level and the like."""
    answer = view.answer if view.whole is None else view.whole.answers[state.prompt]
    return replace(view, state=state, answer=answer)
