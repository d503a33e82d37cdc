"""What `unlearn solve`, `frontier` and `verify` write, and the explorer's numbers. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from diffusion.runtime.documents import Document, Plain


class SolutionNumbers(Plain):
    """The fields of :class:`duality.Solution` but the masses of its nodes; lists have a number per constraint."""

    problem: dict[str, Any]  # ``type``, and the fields of that class
    status: Literal["OPTIMAL", "INACTIVE", "NOT_ATTAINED", "INEXACT"]
    multipliers: tuple[float, ...]
    natural: tuple[float, ...]
    primal: float
    dual: float
    bound: float
    levels: tuple[float, ...]
    kkt_residual: float
    effective_sample_size: float
    multipliers_stderr: tuple[float, ...]
    levels_stderr: tuple[float, ...]
    primal_stderr: float
    primal_bias: float
    critical_levels: tuple[float, ...] | None
    iterations: int


class SolutionDocument(Document, SolutionNumbers):
    """``solution.json``, from which :meth:`duality.Solution.from_json` restores the solution bit for bit."""

    title: ClassVar[str] = "solution"
    schema_version: Literal[1] = 1
    log_weights: tuple[float, ...]  # (n,) log masses of the target at the nodes


class ExploredState(Plain):
    """A view of the explorer, as its links hold it.

    ``modes``: rows x, y, c11, c12, c22, weight in q, shares in the q_i; ``others``: weights under the last prompt,
    ``keep``: what is to be retained of each, where there are any; ``levels``: by problem and kind.
    """

    version: Literal[1]
    modes: tuple[tuple[float, ...], ...]
    others: tuple[float | None, ...] | None = None
    keep: tuple[float, ...] | None = None
    levels: dict[str, tuple[float, ...]]
    problem: str
    kind: str
    alpha_bar: float
    concept: int
    kept: float
    section: str
    prompts: bool
    prompt: int


class Refused(Plain):
    """An entry that nothing can be computed with."""

    place: str
    reason: str


class ExploredSolution(SolutionNumbers):
    gap: float


class ExploredGrid(Plain):
    """Mass beyond the edge, relative error of mass and cost, number of nodes."""

    truncation: float
    resolution: float
    nodes: int


class ExploredPrompt(Plain):
    """Under one prompt: the share of each concept that the target shows, and its cost in nats."""

    shown: tuple[float, ...]
    cost: float


class ExploredKeeping(Plain):
    """What keeping one mode, numbered from 1, costs in nats."""

    mode: int
    multiplier: float
    cost: float


class ExploredCurve(Plain):
    x: tuple[float, ...]
    y: tuple[float, ...]
    attained: tuple[bool, ...]


class Explored(Document):
    """The numbers of a view of the explorer; all but state and link only where there is an answer."""

    title: ClassVar[str] = "explorer"
    schema_version: Literal[1] = 1
    state: ExploredState
    link: str
    errors: tuple[Refused, ...]
    solution: ExploredSolution | None = None
    domain_end: float | None = None
    grid: ExploredGrid | None = None
    prompts: tuple[ExploredPrompt, ...] | None = None
    keeping: tuple[ExploredKeeping, ...] | None = None
    dual: ExploredCurve | None = None
    frontier: ExploredCurve | None = None


class FrontierPoint(Plain):
    """One place on the trade-off curve; ``levels``, ``reached`` and ``multipliers`` have a number per constraint."""

    levels: tuple[float, ...]  # asked
    reached: tuple[float, ...]
    multipliers: tuple[float, ...]
    cost: float  # the value of the dual function, nats
    status: str
    solution: SolutionDocument


class Frontier(Document):
    """Least cost against level, in the order of the levels that were asked."""

    title: ClassVar[str] = "frontier"
    schema_version: Literal[1] = 1
    problem: str
    points: tuple[FrontierPoint, ...]


def frontier_document(solutions: Sequence[Any]) -> Frontier:
    """The document of :func:`duality.frontier`'s solutions, one at least."""
    return Frontier(
        problem=type(solutions[0].problem).__name__,
        points=tuple(
            FrontierPoint(
                levels=tuple(each.problem.levels.tolist()),
                reached=tuple(each.levels.tolist()),
                multipliers=tuple(each.multipliers.tolist()),
                cost=each.dual,
                status=each.status.name.lower(),
                solution=SolutionDocument.model_validate_json(each.to_json()),
            )
            for each in solutions
        ),
    )


class CheckedTheorem(Plain):
    """One theorem on fresh random instances; passed where ``worst`` is at most the tolerance."""

    name: str
    statement: str
    instances: int
    worst: float  # summary of the instances' errors, the largest unless the theorem is about a frequency
    tolerance: float
    seconds: float
    passed: bool
    worst_instance: int  # for toy.replay
    message: str  # of the first exception, empty where there was none


class Verification(Document):
    """All theorems; ``left_out`` says which ones this installation cannot check."""

    title: ClassVar[str] = "verification"
    schema_version: Literal[1] = 1
    seed: int
    passed: bool
    theorems: tuple[CheckedTheorem, ...]
    left_out: tuple[str, ...]


def verification_document(results: Sequence[Any], seed: int, left_out: Sequence[str]) -> Verification:
    """The document of :func:`toy.verification.verify.verify`'s results."""
    listed = tuple(
        CheckedTheorem(**{name: getattr(one, name) for name in CheckedTheorem.model_fields}) for one in results
    )
    return Verification(seed=seed, passed=all(one.passed for one in listed), theorems=listed, left_out=tuple(left_out))
