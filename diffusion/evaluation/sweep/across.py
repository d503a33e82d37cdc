"""Several tasks side by side, every setting of each method: who removes as much, and what that costs the rest.

Of two points the second *removes less*, as far as their samples tell, where the exact 95 % intervals (each end at
97.5 %) of what each leaves of the concept are apart, and the second's is the higher one. Of points that remove as much
as ours the better one is that which changes retained prompts less: fewer nats by more than two standard errors of the
difference. IRA and CRA are told apart as removal is.

Nats are compared chain by chain, under the same prompt from the same noise, each counting ``LOST`` nats at most::

    mean_i [min(cost_i, LOST) - min(cost'_i, LOST)]

A chain that pays so much ends in a sample that the base model makes next to never, e^-10 = 5e-5, and how many thousand
nats it pays says no more; while the mean of a few such chains has a standard error as large as itself and tells nothing
apart. Files without values of chains are compared by their means.

Where a method has several points, its *best* one speaks for it: the one that is worst for us. Ours answers each of them
by the best of its own points whose removal cannot be told from it, or of all where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from diffusion.evaluation.bounds import Estimate, mean_estimate
from diffusion.evaluation.sweep.frontier import BEFORE
from diffusion.evaluation.sweep.point import Point
from duality.confidence import clopper_pearson, clopper_pearson_lower

OURS = "ours"
EACH_END = 0.975
LOST = 10.0  # nats
Verdict = Literal["removes less", "ours", "removes more", "even", "its own"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # from the worst for the other one to the best
SHARES = (("in_axis_accuracy", "retained"), ("cross_axis_accuracy", "all"))


@dataclass(frozen=True)
class Against:
    """A method beside ours on one task. ``verdict``: who changes the rest less; see the module."""

    concept: str
    method: str
    verdict: Verdict


def ends(share: Estimate) -> tuple[float, float]:
    """The exact two-sided 95 % interval of a share that was counted."""
    hits = round(share.mean * share.n)
    return clopper_pearson_lower(hits, share.n, EACH_END), clopper_pearson(hits, share.n, EACH_END)


def equal(ours: Point, other: Point, by: str) -> bool:
    """Whether what both leave of the concept cannot be told apart."""
    mine, theirs = (ends(point.of("target_share", "asked", by)) for point in (ours, other))
    return theirs[0] <= mine[1] and mine[0] <= theirs[1]


def against(ours: Point, other: Point, by: str) -> Verdict:
    """``removes less``: the other one does; ``ours``: it removes as much, and has a lower IRA, CRA or more nats, and
    nothing in which it is better; ``its own``: the other way round, or it removes more and is worse in nothing;
    ``removes more``: it does, and is worse in something; else ``even``."""
    mine, theirs = (ends(point.of("target_share", "asked", by)) for point in (ours, other))
    if theirs[0] > mine[1]:
        return "removes less"
    better = [ends(ours.of(*name, by))[0] > ends(other.of(*name, by))[1] for name in SHARES]
    worse = [ends(ours.of(*name, by))[1] < ends(other.of(*name, by))[0] for name in SHARES]
    apart, error = dearer(ours, other)
    told = 2 * error
    better.append(apart > told)
    worse.append(apart < -told)
    if theirs[1] < mine[0]:
        return "removes more" if any(better) else "its own"
    if any(better) == any(worse):
        return "even"
    return "ours" if any(better) else "its own"


def dearer(ours: Point, other: Point) -> tuple[float, float]:
    """What the other one pays more under retained prompts, and its standard error, nats; see the module."""
    first, second = ours.figure("cost", "retained"), other.figure("cost", "retained")
    if first.values and len(first.values) == len(second.values):
        found = mean_estimate(np.minimum(second.values, LOST) - np.minimum(first.values, LOST))
        return found.mean, found.stderr
    mine, theirs = first.estimate, second.estimate
    return theirs.mean - mine.mean, (mine.stderr**2 + theirs.stderr**2) ** 0.5


def frontier(ours: Sequence[Point], others: Sequence[Point], by: str) -> Verdict:
    """The verdict on the best of a method's points; both with one point at least."""
    found = []
    for other in others:
        matched = [mine for mine in ours if equal(mine, other, by)]
        found.append(min((against(mine, other, by) for mine in matched or ours), key=VERDICTS.index))
    return max(found, key=VERDICTS.index)


def compared(tasks: Mapping[str, Sequence[Point]], by: str) -> list[Against]:
    """Every other method that ended, beside ours, on every task where ours did."""
    found = []
    for concept, points in tasks.items():
        fine = [point for point in points if point.failed is None and point.setting.method != BEFORE]
        methods = dict.fromkeys(point.setting.method for point in fine)
        of = {name: [point for point in fine if point.setting.method == name] for name in methods}
        if OURS in of:
            found += [
                Against(concept, name, frontier(of[OURS], points, by)) for name, points in of.items() if name != OURS
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
            cells.append("<br>".join("failed" if p.failed is not None else _cell(p, by) for p in mine))
        lines.append(f"| {concept} | " + " | ".join(cells) + " |")
    lines += ["", "| against | " + " | ".join(VERDICTS) + " |", "|" + " --- |" * (1 + len(VERDICTS))]
    found = compared(tasks, by)
    for method in methods:
        counts = [sum(one.method == method and one.verdict == kind for one in found) for kind in VERDICTS]
        lines.append(f"| {method} | " + " | ".join(map(str, counts)) + " |")
    return lines


def _cell(point: Point, by: str) -> str:
    rates = " / ".join(f"{100 * value:.1f}" for value in point.axes(by))
    found = point.figure("cost", "retained")
    nats = f"{found.estimate.mean:.2g}"
    if found.values and (counted := f"{np.minimum(found.values, LOST).mean():.2g}") != nats:
        nats += f" ({counted})"
    return f"{rates} / {nats}"
