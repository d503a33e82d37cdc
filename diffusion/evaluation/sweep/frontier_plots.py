"""What settings remove against what that costs the rest: one task on three axes, or many tasks side by side.

Costs are nats under retained prompts, each chain at most :data:`LOST`, as they are compared
(:mod:`diffusion.evaluation.sweep.across`); a file without chains is drawn at its mean, at most that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffusion.evaluation.sweep.across import LOST
from diffusion.evaluation.sweep.frontier import BEFORE, unbeaten
from diffusion.evaluation.sweep.plan import METHODS
from diffusion.evaluation.sweep.point import Point
from diffusion.evaluation.sweep.seeds import Runs, runs_of

FLOOR = 0.03  # nats: axes of logarithms begin here
# Ours first; as many as there are methods and the base model.
COLORS = (
    *("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00"),
    *("#56b4e9", "#7f7f7f", "#000000", "#8c564b", "#bcbd22", "#f781bf", "#a6761d"),
)
MARKERS = "osD^vPX*<>hp"


def plot(points: Sequence[Point], by: str, path: Path) -> None:
    """UA against IRA, CRA and nats: a colour for each method, a dot for each setting, a line through its unbeaten
    ones."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.5), layout="constrained")
    panels = figure.subplots(1, 3)
    looks = _looks(points)
    for method, runs in _by_method(points).items():
        values = np.array([[*each.axes(by).mean(axis=0), _nats(each)] for each in runs])
        for panel, column, scale in zip(panels, (1, 2, 3), (100, 100, 1), strict=True):
            _line(panel, 100 * values[:, 0], scale * values[:, column], looks[method], (1, 1 if scale == 100 else -1))
    for panel, name in zip(panels, ("IRA, %", "CRA, %", "nats under retained prompts"), strict=True):
        panel.set(xlabel="UA, %", ylabel=name)
    panels[2].set(yscale="log", ylim=(FLOOR * 0.8, LOST * 1.3))
    figure.legend(*_once(panels), fontsize=8, ncols=10, loc="outside upper center")
    figure.savefig(path, dpi=120)


def frontiers(tasks: Mapping[str, Sequence[Point]], by: str, figure: Any, columns: int = 4) -> None:
    """Into a figure, a panel for each task: what is left of the concept against nats under retained prompts.

    Best is below on the left. Means over seeds, with every seed as a small dot where there are several.
    """
    rows = -(-len(tasks) // columns)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    looks = _looks([point for points in tasks.values() for point in points])
    for panel, (concept, points) in zip(panels, tasks.items(), strict=False):
        for method, runs in _by_method(points).items():
            if method == BEFORE:
                continue
            left = np.array([100 * (1 - each.axes(by)[:, 0].mean()) for each in runs])
            _line(panel, left, np.array([_nats(each) for each in runs]), looks[method], (-1, -1))
            for each in runs:
                if len(each.points) > 1:
                    single = [Runs((point,)) for point in each.points]
                    shares = [100 * (1 - one.axes(by)[0, 0]) for one in single]
                    panel.plot(shares, [_nats(one) for one in single], ".", color=looks[method]["color"], ms=3)
        panel.set(title=concept, yscale="log", ylim=(FLOOR * 0.8, LOST * 1.3), xlim=(-3, 103))
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    for panel in panels[max(0, len(tasks) - columns) : len(tasks)]:
        panel.set_xlabel("left of the concept, %")
        panel.tick_params(labelbottom=True)
    for panel in panels[::columns]:
        panel.set_ylabel("nats, retained")
    figure.legend(*_once(panels), ncols=5, loc="outside upper center")


def _by_method(points: Sequence[Point]) -> dict[str, list[Runs]]:
    """Settings that ended, ours first."""
    found: dict[str, list[Runs]] = {}
    for each in sorted(runs_of(points), key=lambda runs: _place(runs.method)):
        found.setdefault(each.method, []).append(each)
    return found


def _place(method: str) -> tuple[int, bool, str]:
    """Ours first, and in the order in which methods are run; the base model last."""
    return METHODS.index(method) if method in METHODS else len(METHODS), method == BEFORE, method


def _looks(points: Sequence[Point]) -> dict[str, dict[str, str]]:
    """The colour and marker of every method: the same in all panels, ours the first."""
    methods = sorted({point.setting.method for point in points}, key=_place)
    return {
        name: {"color": COLORS[k % len(COLORS)], "marker": MARKERS[k % len(MARKERS)], "label": name}
        for k, name in enumerate(methods)
    }


def _nats(runs: Runs) -> float:
    """At least :data:`FLOOR`, which an axis of logarithms shows."""
    chains = runs.chains(LOST)
    paid = float(np.minimum(runs.nats(), LOST).mean() if chains is None else chains.mean())
    return max(paid, FLOOR)


def _line(
    panel: Any, x: NDArray[np.float64], y: NDArray[np.float64], look: dict[str, str], better: tuple[int, int]
) -> None:
    """Dots, and a line through those that none beats. ``better``: 1 or -1, more or less of x and of y."""
    panel.plot(x, y, linestyle="", markersize=6, alpha=0.8, **look)
    front = unbeaten(np.column_stack([better[0] * x, better[1] * y]))
    order = np.argsort(x[front])
    panel.plot(x[front][order], y[front][order], color=look["color"], lw=1)


def _once(panels: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Handles and labels of a legend, every method once."""
    found: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
