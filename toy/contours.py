"""Contours of densities on a lattice: lines and regions that hold given masses, on Axes of Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from toy.mixtures import Array

# Mass enclosed by the contours of a density: the core, most of it, nearly all.
ENCLOSED = (0.95, 0.8, 0.5)


def contour_levels(density: Array, cell: float, enclosed: Sequence[float] = ENCLOSED) -> list[float]:
    """Density values whose superlevel sets hold the given masses, increasing; ``cell`` is the area of a pixel."""
    values = np.sort(density.ravel())[::-1]
    mass = np.cumsum(values) * cell
    places = np.searchsorted(mass / mass[-1], sorted(enclosed, reverse=True))
    return [float(values[place]) for place in places]


def shaded(ax: Any, axes: Sequence[Array], density: Array) -> None:
    """A density (k, l) on two axes as grey regions that hold 50, 80 and 95 % of it, in a plane of equal units."""
    levels = [*contour_levels(density, _cell(axes)), float(density.max())]
    ax.contourf(*axes, density.T, levels=levels, colors=["#ececec", "#dadada", "#c4c4c4"])
    ax.set_aspect("equal")
    ax.set(xlabel="x$_1$")


def outlined(ax: Any, axes: Sequence[Array], density: Array, colour: str, dashes: Any = "-") -> None:
    """The borders of the same regions of a density as lines."""
    ax.contour(*axes, density.T, levels=contour_levels(density, _cell(axes)), colors=colour, linestyles=[dashes])


def _cell(axes: Sequence[Array]) -> float:
    """The area of a pixel."""
    return float(np.prod([axis[1] - axis[0] for axis in axes]))
