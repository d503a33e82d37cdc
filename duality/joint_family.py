"""What the parts of a `Joint` have in common: one cost, one tilt, one dual function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from duality._arrays import Array
from duality.answers import Answer
from duality.dual_protocol import Dual
from duality.forward_kl import ForwardKL
from duality.newton import Climb
from duality.problems import Problem, Shown
from duality.ratios import LogRatios
from duality.reverse_kl import ReverseKL


def is_forward(part: Problem) -> bool:
    """Whether a part is stated in KL(q_i‖p), which goes with the cost KL(q‖p)."""
    return isinstance(part, ForwardKL) or getattr(part, "kind", None) == "forward-kl"


def is_reverse(part: Problem) -> bool:
    """Whether a part is stated in KL(p‖q_i), which goes with the cost KL(p‖q)."""
    return isinstance(part, ReverseKL) or getattr(part, "kind", None) == "reverse-kl"


class Family(ABC):
    """Problems that share a cost. All arguments are those of `Problem`, of which `joint` is the one at hand."""

    def __init__(self, parts: Sequence[Problem]) -> None:
        self.parts = tuple(parts)
        self.sizes = [part.levels.size for part in parts]
        #: `(m,)`, which constraints are on KL(q_i‖p).
        self.mixed = self.each([float(is_forward(part)) for part in parts]) > 0

    def each(self, values: Sequence[float]) -> np.ndarray:
        """One number for each part, as one for each constraint `(m,)`."""
        return np.repeat(np.asarray(values), self.sizes)

    def split(self, values: Array, natural: Array) -> list[tuple[Problem, Array, Array]]:
        """Each part with its columns of what `log_weight` reads, and its natural parameters."""
        ends = np.cumsum(self.sizes)
        starts = [0, *ends[:-1]]
        return [(part, values[..., a:b], natural[a:b]) for part, a, b in zip(self.parts, starts, ends, strict=True)]

    def natural(self, multipliers: Array) -> Array:
        return multipliers

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        return natural

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        return np.eye(natural.size)

    def domain(self, multipliers: np.ndarray) -> bool:
        return True

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        return multipliers

    def emptied(self, natural: np.ndarray) -> bool:
        return False

    @abstractmethod
    def tilt(self, values: Array, natural: Array) -> Array:
        """As `Problem.tilt`, and the next two likewise."""

    @abstractmethod
    def noised_tilt(self, values: Array, natural: Array) -> Array: ...

    @abstractmethod
    def strengths(self, values: Array, natural: Array) -> Array: ...

    @abstractmethod
    def dual(self, joint: Problem, ratios: LogRatios) -> Dual: ...

    @abstractmethod
    def answer(
        self, joint: Problem, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float
    ) -> tuple[Climb, Answer | None]:
        """The climb to read, and the answer where it is not to be read off that."""

    @abstractmethod
    def shown(
        self, joint: Problem, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray
    ) -> Shown | None: ...
