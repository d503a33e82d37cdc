"""What `unlearn frontier` and `unlearn verify` write. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from diffusion.runtime.documents import Document, Plain


class FrontierPoint(Plain):
    """One place on the trade-off curve; ``levels``, ``reached`` and ``multipliers`` have a number per constraint."""

    levels: tuple[float, ...]  # asked
    reached: tuple[float, ...]
    multipliers: tuple[float, ...]
    cost: float  # the value of the dual function, nats
    status: str
    solution: dict[str, Any]  # what duality.Solution.from_json reads


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
                solution=json.loads(each.to_json()),
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
