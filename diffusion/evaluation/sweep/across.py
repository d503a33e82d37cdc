"""Several tasks side by side, every setting of each method: who removes as much, and what that costs the rest.

Of two settings the second *removes less*, as far as their samples tell, where the exact 95 % intervals (each end at
97.5 %) of what each leaves of the concept are apart, and the second's is the higher one. Of settings that remove as
much as ours the better one is that which changes retained prompts less: fewer nats by more than two standard errors of
the difference. IRA and CRA are told apart as removal is. Training seeds of a setting are taken together
(:mod:`diffusion.evaluation.sweep.seeds`).

Nats are compared chain by chain, under the same prompt from the same noise, each counting ``LOST`` nats at most::

    mean_i [min(cost_i, LOST) - min(cost'_i, LOST)]

A chain that pays so much ends in a sample that the base model makes next to never, e^-10 = 5e-5, and how many thousand
nats it pays says no more; while the mean of a few such chains has a standard error as large as itself and tells nothing
apart. Files without values of chains are compared by their means.

Where a method has several settings, its *best* one at equal removal speaks for it, or one that removes more and is
worse in nothing: the one that is worst for us. That others of it remove more, at the price of the rest, is counted
beside it, and is its verdict where it has none at equal removal. Ours answers each of them by the best of its own
settings whose removal cannot be told from it, or of all where there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from diffusion.evaluation.sweep.frontier import BEFORE
from diffusion.evaluation.sweep.plan import BY_LEVEL, GUIDANCE, OURS
from diffusion.evaluation.sweep.point import Point
from diffusion.evaluation.sweep.seeds import Runs, dearer, half_width, runs_of

LOST = 10.0  # nats
Verdict = Literal["removes less", "removes more", "ours", "even", "its own"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)  # what speaks for a method is the last one that its settings have
SHARES = (("in_axis_accuracy", "retained"), ("cross_axis_accuracy", "all"))


@dataclass(frozen=True)
class Against:
    """A method beside ours on one task. ``verdict``: who changes the rest less; see the module. ``beyond``: whether a
    setting of it removes more than ours at the price of the rest."""

    concept: str
    method: str
    verdict: Verdict
    beyond: bool


def equal(ours: Runs, other: Runs, by: str) -> bool:
    """Whether what both leave of the concept cannot be told apart."""
    mine, theirs = (runs.ends("target_share", "asked", by) for runs in (ours, other))
    return theirs[0] <= mine[1] and mine[0] <= theirs[1]


def against(ours: Runs, other: Runs, by: str) -> Verdict:
    """``removes less``: the other one does; ``ours``: it removes as much, and has a lower IRA, CRA or more nats, and
    nothing in which it is better; ``its own``: the other way round, or it removes more and is worse in nothing;
    ``removes more``: it does, and is worse in something; else ``even``."""
    mine, theirs = (runs.ends("target_share", "asked", by) for runs in (ours, other))
    if theirs[0] > mine[1]:
        return "removes less"
    better = [ours.ends(*name, by)[0] > other.ends(*name, by)[1] for name in SHARES]
    worse = [ours.ends(*name, by)[1] < other.ends(*name, by)[0] for name in SHARES]
    apart, error = dearer(ours, other, LOST)
    told = 2 * error
    better.append(apart > told)
    worse.append(apart < -told)
    if theirs[1] < mine[0]:
        return "removes more" if any(better) else "its own"
    if any(better) == any(worse):
        return "even"
    return "ours" if any(better) else "its own"


def frontier(ours: Sequence[Runs], others: Sequence[Runs], by: str) -> tuple[Verdict, bool]:
    """The verdict on the best of a method's settings, and whether one removes more at the price of the rest; both with
    one setting at least."""
    found = []
    for other in others:
        matched = [mine for mine in ours if equal(mine, other, by)]
        verdicts = [against(mine, other, by) for mine in matched or ours]
        found.append(min(verdicts, key=VERDICTS.index))
    return max(found, key=VERDICTS.index), "removes more" in found


def compared(tasks: Mapping[str, Sequence[Point]], by: str, mine: str = OURS) -> list[Against]:
    """Every other method that ended, beside ours (``mine``), on every task where it did. Neither what ours fits in
    another way nor the target itself is another method."""
    found = []
    for concept, points in tasks.items():
        runs = [each for each in runs_of(points) if each.method not in {BEFORE, *BY_LEVEL} - {mine}]
        methods = dict.fromkeys(each.method for each in runs)
        of = {name: [each for each in runs if each.method == name] for name in methods}
        if mine in of:
            found += [
                Against(concept, name, *frontier(of[mine], some, by)) for name, some in of.items() if name != mine
            ]
    return found


def across(tasks: Mapping[str, Sequence[Point]], by: str) -> list[str]:
    """Tables for a page: UA / IRA / CRA / nats of every setting and task, and how often which verdict, for ours and,
    where there is one, for ours by guidance."""
    there = {p.setting.method for points in tasks.values() for p in points}
    others = sorted(there - {BEFORE, *BY_LEVEL})
    methods = [*(name for name in BY_LEVEL if name in there), *others]
    lines = ["| concept | " + " | ".join(methods) + " |", "|" + " --- |" * (1 + len(methods))]
    for concept, points in tasks.items():
        cells = []
        for method in methods:
            mine = [point for point in points if point.setting.method == method]
            failed = ["failed"] * sum(point.failed is not None for point in mine)
            runs = runs_of(mine)
            said = [(_name(each) if len(runs) > 1 else "") + _cell(each, by) for each in runs]
            cells.append("<br>".join(said + failed))
        lines.append(f"| {concept} | " + " | ".join(cells) + " |")
    for way in (name for name in (OURS, GUIDANCE) if name in there):
        lines += [
            "",
            f"| {way} against | " + " | ".join((*VERDICTS, BEYOND)) + " |",
            "|" + " --- |" * (2 + len(VERDICTS)),
        ]
        found = compared(tasks, by, way)
        for method in others:
            counts = [sum(one.method == method and one.verdict == kind for one in found) for kind in VERDICTS]
            counts.append(sum(one.method == method and one.beyond for one in found))
            lines.append(f"| {method} | " + " | ".join(map(str, counts)) + " |")
    return lines


BEYOND = "some remove more"


def _name(runs: Runs) -> str:
    """A setting by its strength, and its steps where it has any."""
    one = runs.points[0].setting
    return f"{one.strength:g}{f', {one.max_train_steps}' if one.max_train_steps > 1 else ''}: "


def _cell(runs: Runs, by: str) -> str:
    """UA / IRA / CRA in percent / nats; of UA and nats, where there are several seeds, how far these leave it open."""
    axes, costs = 100 * runs.axes(by), runs.nats()
    ua, ira, cra = (f"{value:.1f}" for value in axes.mean(axis=0))
    nats, chains = f"{costs.mean():.2g}", runs.chains(LOST)
    if len(costs) > 1:
        ua += f" ± {half_width(axes[:, 0]):.1f}"
        nats += f" ± {half_width(costs):.1g}"
    if chains is not None and (counted := f"{np.mean(chains):.2g}") != f"{costs.mean():.2g}":
        nats += f" ({counted})"
    return " / ".join((ua, ira, cra, nats))
