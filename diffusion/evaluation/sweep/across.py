"""Several tasks side by side, one setting of each method: who removes as much, and what that costs the rest.

Of two points the second *removes less*, as far as their samples tell, where the exact 95 % intervals (each end at
97.5 %) of what each leaves of the concept are apart, and the second's is the higher one. Of points that remove as much
as ours the better one is that which changes retained prompts less: fewer nats by more than two standard errors of the
difference. IRA and CRA are told apart as removal is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from diffusion.evaluation.bounds import Estimate
from diffusion.evaluation.sweep.frontier import BEFORE
from diffusion.evaluation.sweep.point import Point
from duality.confidence import clopper_pearson, clopper_pearson_lower

OURS = "ours"
EACH_END = 0.975
Verdict = Literal["removes less", "ours", "even", "its own"]
SHARES = (("in_axis_accuracy", "retained"), ("cross_axis_accuracy", "all"))


@dataclass(frozen=True)
class Against:
    """A method's point beside ours on one task. ``verdict``: who changes the rest less; see the module."""

    concept: str
    method: str
    verdict: Verdict


def ends(share: Estimate) -> tuple[float, float]:
    """The exact two-sided 95 % interval of a share that was counted."""
    hits = round(share.mean * share.n)
    return clopper_pearson_lower(hits, share.n, EACH_END), clopper_pearson(hits, share.n, EACH_END)


def against(ours: Point, other: Point, by: str) -> Verdict:
    """``removes less``: the other one does; ``ours``: it removes as much, and has a lower IRA, CRA or more nats, and
    nothing in which it is better; ``its own``: the other way round; else ``even``."""
    mine, theirs = (ends(point.of("target_share", "asked", by)) for point in (ours, other))
    if theirs[0] > mine[1]:
        return "removes less"
    better = [ends(ours.of(*name, by))[0] > ends(other.of(*name, by))[1] for name in SHARES]
    worse = [ends(ours.of(*name, by))[1] < ends(other.of(*name, by))[0] for name in SHARES]
    if theirs[1] < mine[0]:
        worse.append(True)
    first, second = ours.of("cost", "retained"), other.of("cost", "retained")
    apart = second.mean - first.mean
    told = 2 * (first.stderr**2 + second.stderr**2) ** 0.5
    better.append(apart > told)
    worse.append(apart < -told)
    if any(better) == any(worse):
        return "even"
    return "ours" if any(better) else "its own"


def compared(tasks: Mapping[str, Sequence[Point]], by: str) -> list[Against]:
    """Every point of another method that ended beside our first one, on every task where ours did."""
    found = []
    for concept, points in tasks.items():
        fine = [point for point in points if point.failed is None and point.setting.method != BEFORE]
        mine = next((point for point in fine if point.setting.method == OURS), None)
        if mine is not None:
            found += [
                Against(concept, point.setting.method, against(mine, point, by))
                for point in fine
                if point.setting.method != OURS
            ]
    return found


def across(tasks: Mapping[str, Sequence[Point]], by: str) -> list[str]:
    """Two tables for a page: UA / IRA / CRA / nats of every method and task, and how often which verdict."""
    methods = sorted({p.setting.method for points in tasks.values() for p in points} - {OURS, BEFORE})
    lines = ["| concept | ours | " + " | ".join(methods) + " |", "|" + " --- |" * (2 + len(methods))]
    for concept, points in tasks.items():
        cells = []
        for method in (OURS, *methods):
            mine = [point for point in points if point.setting.method == method]
            cells.append("; ".join("failed" if p.failed is not None else _cell(p, by) for p in mine))
        lines.append(f"| {concept} | " + " | ".join(cells) + " |")
    kinds: tuple[Verdict, ...] = ("removes less", "ours", "even", "its own")
    lines += ["", "| against | " + " | ".join(kinds) + " |", "|" + " --- |" * (1 + len(kinds))]
    found = compared(tasks, by)
    for method in methods:
        counts = [sum(one.method == method and one.verdict == kind for one in found) for kind in kinds]
        lines.append(f"| {method} | " + " | ".join(map(str, counts)) + " |")
    return lines


def _cell(point: Point, by: str) -> str:
    rates = " / ".join(f"{100 * value:.1f}" for value in point.axes(by))
    return f"{rates} / {point.of('cost', 'retained').mean:.2g}"
