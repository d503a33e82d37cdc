"""What the pictures are made of: windows, contours, draws and the handles of a covariance. Arrays in, arrays out."""

from __future__ import annotations

from typing import NamedTuple

import contourpy
import numpy as np
from scipy.ndimage import map_coordinates, zoom

from toy.explorer.state import Mode
from toy.explorer.views import View
from toy.mixtures import Array
from toy.plots import contour_levels
from toy.solving import ToySolution

PIXELS = 101
# Handles sit at this many standard deviations along the principal axes: outside the dot of the mode itself.
HANDLE = 2.0


class Window(NamedTuple):
    """A square of the plane: centre and half its side."""

    x: float
    y: float
    half: float

    def axes(self, points: int = PIXELS) -> tuple[Array, Array]:
        """The two axes, (points,) each."""
        return (
            np.linspace(self.x - self.half, self.x + self.half, points),
            np.linspace(self.y - self.half, self.y + self.half, points),
        )

    def lattice(self, points: int = PIXELS) -> Array:
        """Points of the square, (points, points, 2), first axis x."""
        return np.stack(np.meshgrid(*self.axes(points), indexing="ij"), axis=-1)


class Lines(NamedTuple):
    """Contour lines as lists of coordinates, one list for each closed or open line."""

    xs: list[Array]
    ys: list[Array]


def window(modes: tuple[Mode, ...], *answers: ToySolution | None) -> Window:
    """The square that holds 3.3 deviations of every mode and 99.9 % of the target of each answer there is."""
    spread = 3.3 * np.sqrt([[max(mode.c11, 1e-6), max(mode.c22, 1e-6)] for mode in modes])
    means = np.array([[mode.x, mode.y] for mode in modes])
    lower, upper = (means - spread).min(axis=0), (means + spread).max(axis=0)
    for answer in answers:
        if answer is None or answer.nodes.axes is None:
            continue
        mass = np.exp(np.asarray(answer.solution.log_weights)).reshape([len(places) for places in answer.nodes.axes])
        for axis, places in enumerate(answer.nodes.axes):
            cumulative = np.cumsum(mass.sum(axis=1 - axis))
            low, high = np.searchsorted(cumulative, np.array([0.0005, 0.9995]) * cumulative[-1])
            lower[axis] = min(lower[axis], places[low])
            upper[axis] = max(upper[axis], places[min(high, len(places) - 1)])
    centre = 0.5 * (lower + upper)
    return Window(float(centre[0]), float(centre[1]), float(0.5 * (upper - lower).max()))


def on_lattice(view: View, log_masses: Array, square: Window, points: int = PIXELS) -> Array:
    """A density known by its log masses on the view's grid, up to a factor, on the square's lattice (points, points).

    By cubic splines of the log density, so that a picture costs no evaluation of any mixture; 0 outside the grid.
    """
    assert view.board is not None  # the caller has an answer
    assert view.board.nodes.axes is not None
    axes = view.board.nodes.axes
    table = log_masses.reshape(len(axes[0]), len(axes[1]))
    # Where the limit of FU vanishes its log has a pole: e^-30 of the top is nothing to a contour.
    table = np.maximum(table - table.max(), -30.0)
    places, cut = [], []
    for axis, wanted in zip(axes, square.axes(points), strict=True):
        index = (wanted - axis[0]) / (axis[1] - axis[0])
        first = max(int(np.floor(index[0])) - 3, 0)
        last = min(int(np.ceil(index[-1])) + 4, len(axis))
        places.append(index - first)
        cut.append(slice(first, max(last, first + 4)))
    grid = np.meshgrid(*places, indexing="ij")
    found = map_coordinates(table[tuple(cut)], np.array(grid), order=3, mode="constant", cval=-30.0)
    return np.asarray(np.exp(found))


def contour_lines(density: Array, square: Window) -> Lines:
    """Lines that enclose 50, 80 and 95 % of a density (points, points) on the square's lattice."""
    axes = square.axes(len(density))
    generator = contourpy.contour_generator(*axes, density.T)
    xs: list[Array] = []
    ys: list[Array] = []
    for level in contour_levels(density, _cell(axes)):
        for line in generator.lines(level):
            piece = np.asarray(line)
            xs.append(piece[:, 0])
            ys.append(piece[:, 1])
    return Lines(xs, ys)


def shade(density: Array) -> np.ndarray:
    """0, 1, 2, 3 inside none, the 95 %, 80 % and 50 % region of a density (points, points): bytes, rows along y, at
    twice the resolution so that edges look smooth."""
    values = zoom(density.T, 2, order=1)
    levels = contour_levels(density, 1.0)
    return sum((values >= level).astype(np.uint8) for level in levels)  # type: ignore[return-value]


def draws(axes: tuple[Array, Array], log_masses: Array, uniforms: Array) -> Array:
    """x = F^-1(u) coordinate by coordinate (Rosenblatt), (n, 2), for masses on a grid and uniforms u (n, 2).

    The same u give draws that move smoothly as the density does, so a dragged target can be watched. Inside a cell of
    the grid the density is taken to be constant.
    """
    mass = np.exp(log_masses - log_masses.max()).reshape(len(axes[0]), len(axes[1]))
    x = _inverse(axes[0], mass.sum(axis=1)[None], uniforms[:, 0])
    step = axes[0][1] - axes[0][0]
    rows = np.clip(np.rint((x - axes[0][0]) / step).astype(int), 0, len(axes[0]) - 1)
    return np.column_stack([x, _inverse(axes[1], mass[rows], uniforms[:, 1])])


def handles(mode: Mode) -> Array:
    """m ± HANDLE sqrt(eigenvalue) eigenvector, (2, 2): the end of the long axis, then of the short, right or up."""
    values, vectors = np.linalg.eigh(mode.covariance)
    mean = np.array([mode.x, mode.y])
    arms = (HANDLE * np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)[::-1]
    return mean + np.where((arms[:, :1] + 1e-9 * arms[:, 1:]) < 0, -arms, arms)


def dragged(mode: Mode, which: int, position: Array, other: Array) -> tuple[float, float, float]:
    """c11, c12, c22 after handle ``which`` was dragged to a position: its axis follows, the other keeps its length.

    Args:
        other: where the other handle is.

    Raises:
        ValueError: the handle was dragged onto the mode itself.
    """
    mean = np.array([mode.x, mode.y])
    arm = (position - mean) / HANDLE
    length = float(np.hypot(*arm))
    if not length > 1e-3:
        raise ValueError("the handle lies on the mode itself: a standard deviation of 0 is no Gaussian")
    along = arm / length
    across = np.array([-along[1], along[0]])
    breadth = float(np.hypot(*(other - mean))) / HANDLE
    covariance = length**2 * np.outer(along, along) + breadth**2 * np.outer(across, across)
    c11, c12, c22 = (float(f"{value:.6g}") for value in (covariance[0, 0], covariance[0, 1], covariance[1, 1]))
    return c11, c12, c22


def ellipse(mode: Mode) -> Array:
    """The ellipse at HANDLE standard deviations, (65, 2)."""
    angle = np.linspace(0, 2 * np.pi, 65)
    values, vectors = np.linalg.eigh(mode.covariance)
    circle = HANDLE * np.column_stack([np.cos(angle), np.sin(angle)]) * np.sqrt(np.maximum(values, 0.0))
    return np.array([mode.x, mode.y]) + circle @ vectors.T


def _inverse(axis: Array, masses: Array, uniforms: Array) -> Array:
    """Inverse distribution functions of histograms with cells around the nodes: masses (n or 1, k), uniforms (n,)."""
    step = axis[1] - axis[0]
    cumulative = np.cumsum(masses, axis=1)
    cumulative = cumulative / cumulative[:, -1:]
    cell = (cumulative < uniforms[:, None]).sum(axis=1)
    cell = np.minimum(cell, len(axis) - 1)
    row = np.arange(len(uniforms)) if len(masses) > 1 else np.zeros(len(uniforms), dtype=int)
    below = np.where(cell > 0, cumulative[row, np.maximum(cell - 1, 0)], 0.0)
    inside = np.maximum(cumulative[row, cell] - below, 1e-300)
    share = np.clip((uniforms - below) / inside, 0.0, 1.0)
    return np.asarray(axis[cell] + step * (share - 0.5))


def _cell(axes: tuple[Array, Array]) -> float:
    return float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
