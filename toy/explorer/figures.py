"""The Bokeh figures of the page, and how each is filled from arrays. Colours and dashes are those of ``toy.plots``."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    InlineStyleSheet,
    LinearColorMapper,
    PanTool,
    PointDrawTool,
    Range1d,
    ResetTool,
    WheelZoomTool,
)
from bokeh.models.annotations import BoxAnnotation, Span
from bokeh.plotting import figure

from toy.explorer.compute import Curve, View
from toy.explorer.export import arrow_lengths
from toy.explorer.levels import SUBSCRIPTS
from toy.explorer.noise import EVERY, LATTICE
from toy.explorer.shapes import Lines, Window, contour_lines, ellipse, handles, shade
from toy.explorer.state import MOST_CONCEPTS, Mode
from toy.mixtures import Array
from toy.plots import INK, TARGET, UNWANTED

SHADES = ("#ffffff00", "#ececec", "#d6d6d6", "#bdbdbd")
# From white to the vermillion of what is wrong; errors of 2 and more are all the darkest.
ERRORS = ("#ffffff", "#fdeee3", "#fbd9c1", "#f6bd96", "#ee9a66", "#e27638", "#d55e00", "#ad4c00")
WORST = 2.0
# Darker than UNWANTED, so that a white number on it can be read.
DOT, WRONG = "#b34e00", "#e6002b"
CONCEPT_DASHES: tuple[Any, ...] = ("dashed", "dashdot", "dotted", [10, 3, 2, 3])
# Bokeh draws, and clears, half a pixel to the right and below: bits of earlier labels would stay in the first column.
_EDGES = ":host { clip-path: inset(1px 0 0 1px); }"
_EMPTY_LINES: dict[str, list[Any]] = {"xs": [], "ys": []}


class Plane:
    """q shaded, the q_i dashed, the target in lines; optionally draws, and modes with handles that can be dragged."""

    def __init__(self, label: str, concepts: bool = True, drag: bool = False) -> None:
        self.figure = _square(label) if drag else _small(label)
        mapper = LinearColorMapper(palette=list(SHADES), low=-0.5, high=3.5)
        self._shade = _source(image=[], x=[], y=[], side=[])
        self.figure.image("image", "x", "y", "side", "side", source=self._shade, color_mapper=mapper)
        self._draws = {name: _source(x=[], y=[]) for name in ("q", "p")}
        for name, colour in (("q", "#6e6e6e"), ("p", TARGET)):
            self.figure.scatter("x", "y", size=3, color=colour, alpha=0.55, line_color=None, source=self._draws[name])
        self._parts = [ColumnDataSource(dict(_EMPTY_LINES)) for _ in range(MOST_CONCEPTS if concepts else 0)]
        for source, dash in zip(self._parts, CONCEPT_DASHES, strict=False):
            self.figure.multi_line("xs", "ys", source=source, color=UNWANTED, line_width=1.8, line_dash=dash)
        self._target = ColumnDataSource(dict(_EMPTY_LINES))
        self.figure.multi_line("xs", "ys", source=self._target, color=TARGET, line_width=2)
        if drag:
            self._add_modes()

    def _add_modes(self) -> None:
        self._ellipse = _source(x=[], y=[])
        self.modes, self.handles = _source(x=[], y=[], number=[], fill=[], edge=[], ink=[]), _source(x=[], y=[])
        self.figure.line("x", "y", source=self._ellipse, color=INK, line_width=1.1)
        grips = self.figure.scatter(
            "x", "y", source=self.handles, marker="square", size=13, fill_color="white", line_color=INK, line_width=2
        )
        dots = self.figure.scatter(
            "x", "y", source=self.modes, size=21, fill_color="fill", line_color="edge", line_width=2
        )
        for drawn in (dots, grips):
            drawn.nonselection_glyph = None
            drawn.selection_glyph = None
        self.figure.text(
            "x",
            "y",
            text="number",
            source=self.modes,
            text_align="center",
            text_baseline="middle",
            text_font_size="12px",
            text_font_style="bold",
            text_color="ink",
        )
        tool = PointDrawTool(renderers=[grips, dots], add=False, description="Drag modes and handles")
        self.figure.add_tools(tool)
        self.figure.toolbar.active_drag = tool
        self.figure.toolbar.active_tap = tool

    def show_given(self, square: Window, base: Array, parts: list[Array]) -> None:
        """q and the q_i (points, points) on the square's lattice; missing parts are left out."""
        self._shade.data = {
            "image": [shade(base)],
            "x": [square.x - square.half],
            "y": [square.y - square.half],
            "side": [2 * square.half],
        }
        for k, source in enumerate(self._parts):
            source.data = _lines(contour_lines(parts[k], square) if k < len(parts) else None)

    def show_target(self, square: Window, target: Array | None) -> None:
        """The target (points, points) on the square's lattice; None for none."""
        self._target.data = _lines(None if target is None else contour_lines(target, square))

    def show_draws(self, q: Array | None, p: Array | None) -> None:
        """Draws (n, 2) of q and of the target; None for none."""
        for name, points in (("q", q), ("p", p)):
            points = np.zeros((0, 2)) if points is None else points
            self._draws[name].data = {"x": points[:, 0], "y": points[:, 1]}

    def show_modes(self, modes: tuple[Mode, ...], chosen: int, dragging: str, bad: int | None) -> None:
        """Dots at the modes (filled where they belong to a concept), ellipse and handles of the chosen one.

        dragging : "mode" or "handle", which is then left where the pointer has it. bad : the mode whose entries make no
        sense, if any.
        """
        if dragging != "mode":
            wanted = [any(mode.shares) for mode in modes]
            self.modes.data = {
                "x": [mode.x for mode in modes],
                "y": [mode.y for mode in modes],
                "number": [str(k + 1) for k in range(len(modes))],
                "fill": [DOT if one else "white" for one in wanted],
                "edge": [WRONG if k == bad else INK for k in range(len(modes))],
                "ink": ["white" if one else INK for one in wanted],
            }
        mode = modes[chosen]
        line = ellipse(mode)
        self._ellipse.data = {"x": line[:, 0], "y": line[:, 1]}
        if dragging != "handle":
            at = handles(mode)
            self.handles.data = {"x": at[:, 0], "y": at[:, 1]}

    def look_at(self, square: Window) -> None:
        """Set the visible ranges."""
        _look_at(self.figure, square)


class DualFigure:
    """g along one multiplier, with lam* and the end of the domain."""

    def __init__(self) -> None:
        self.figure = _chart("multiplier λ", "dual function g (nats)", "Dual function with its maximum")
        self._curve, self._point = _source(x=[], y=[]), _source(x=[], y=[])
        self._end = Span(dimension="height", line_color=UNWANTED, line_dash="dashed", line_width=2, visible=False)
        self._beyond = BoxAnnotation(fill_color=UNWANTED, fill_alpha=0.12, line_alpha=0, visible=False)
        self._top = Span(dimension="width", line_color="#767676", line_dash="dotted", line_width=1.5)
        for one in (self._beyond, self._end, self._top):
            self.figure.add_layout(one)
        self.figure.line("x", "y", source=self._curve, color=TARGET, line_width=2.2)
        self.figure.scatter("x", "y", source=self._point, size=10, color=INK)

    def show(self, view: View) -> None:
        """The curve of a view with an answer."""
        curve, answer, index = view.dual, view.answer, view.state.concept
        assert curve is not None
        assert answer is not None
        lam, value = float(answer.solution.multipliers[index]), float(answer.solution.dual)
        self._curve.data = {"x": curve.x, "y": curve.y}
        self._point.data = {"x": [lam], "y": [value]}
        right = max(float(curve.x[-1]), lam, 1e-12)
        top = max(value, float(curve.y.max()))
        # A plunge at the end of the domain would flatten the rest: as much below g(0) as there is above it.
        rise = top - float(curve.y[0])
        bottom = max(float(curve.y.min()), float(curve.y[0]) - 1.2 * rise if lam > 0 else -np.inf)
        span = max(top - bottom, 1e-9)
        _ranges(self.figure, (-0.03 * right, 1.12 * right), (bottom - 0.06 * span, top + 0.12 * span))
        inside = view.end <= 1.12 * right
        self._end.visible = self._beyond.visible = inside
        self._top.location = value
        if inside:
            self._end.location = self._beyond.left = view.end
            self._beyond.right = 1.2 * right
        self.figure.xaxis.axis_label = f"multiplier λ{SUBSCRIPTS[index]}" if view.state.m > 1 else "multiplier λ"

    def clear(self) -> None:
        """Show nothing, where there is no answer."""
        for source in (self._curve, self._point):
            source.data = {"x": [], "y": []}
        self._end.visible = self._beyond.visible = False


class FrontierFigure:
    """The least cost against one level, with the present point and its slope."""

    def __init__(self) -> None:
        self.figure = _chart("level b", "least cost V (nats)", "Trade-off: least cost against the level")
        self._curve, self._beyond = _source(x=[], y=[]), _source(x=[], y=[])
        self._slope, self._point = _source(x=[], y=[]), _source(x=[], y=[])
        self.figure.line("x", "y", source=self._curve, color=TARGET, line_width=2.2)
        self.figure.line("x", "y", source=self._beyond, color=UNWANTED, line_width=2.2, line_dash="dashed")
        self.figure.line("x", "y", source=self._slope, color=INK, line_width=1.4, line_dash=[5, 3])
        self.figure.scatter("x", "y", source=self._point, size=10, color=INK)

    def show(self, view: View, label: str) -> None:
        """The curve of a view with an answer; label : what the level bounds, with its unit."""
        curve, answer, index = view.frontier, view.answer, view.state.concept
        assert curve is not None
        assert answer is not None
        solution, level, value = answer.solution, view.levels[index], float(answer.solution.dual)
        self._fill(curve)
        self._point.data = {"x": [level], "y": [value]}
        low, high = (float(curve.x[0]), float(curve.x[-1])) if len(curve.x) else (level - 1, level + 1)
        low, high = min(low, level), max(high, level)
        top = max(float(curve.y.max()) if len(curve.y) else value, value, 1e-6)
        slope = float(solution.problem.direction * solution.multipliers[index])
        ends = np.array([max(level - 0.3 * (high - low), low), min(level + 0.3 * (high - low), high)])
        self._slope.data = {"x": ends, "y": value + slope * (ends - level)}
        margin = 0.04 * (high - low)
        _ranges(self.figure, (low - margin, high + margin), (-0.08 * top, 1.12 * top))
        self.figure.xaxis.axis_label = label

    def clear(self) -> None:
        """Show nothing, where there is no answer."""
        for source in (self._curve, self._beyond, self._slope, self._point):
            source.data = {"x": [], "y": []}

    def _fill(self, curve: Curve) -> None:
        solid, dashed = curve.attained, ~curve.attained
        # The last point that is attained begins the rest, so that the line has no gap.
        joint = dashed | (np.append(dashed[1:], False) & solid) | (np.append(False, dashed[:-1]) & solid)
        rest = np.where(joint, curve.y, np.nan) if dashed.any() else np.full(len(curve.y), np.nan)
        self._curve.data = {"x": curve.x, "y": np.where(solid, curve.y, np.nan)}
        self._beyond.data = {"x": curve.x, "y": rest}


class FieldFigure:
    """A score field as arrows over the size of its error, with the noised target's contours."""

    def __init__(self, label: str) -> None:
        self.figure = _small(label)
        mapper = LinearColorMapper(palette=list(ERRORS), low=0.0, high=WORST)
        self._error = _source(image=[], x=[], y=[], side=[])
        self.figure.image("image", "x", "y", "side", "side", source=self._error, color_mapper=mapper)
        self._density = ColumnDataSource(dict(_EMPTY_LINES))
        # White beneath, so that the lines are seen where the error is darkest.
        self.figure.multi_line("xs", "ys", source=self._density, color="white", line_width=4.5, line_alpha=0.8)
        self.figure.multi_line("xs", "ys", source=self._density, color=TARGET, line_width=1.8)
        self._arrows = _source(x0=[], y0=[], x1=[], y1=[], angle=[])
        self.figure.segment("x0", "y0", "x1", "y1", source=self._arrows, color=INK, line_width=1.1)
        self.figure.scatter("x1", "y1", angle="angle", marker="triangle", size=5, color=INK, source=self._arrows)

    def show(self, square: Window, density: Array, field: Array, error: Array | None) -> None:
        """field (n, n, 2), density and error (n, n) on the square's lattice of ``LATTICE`` points."""
        cell = 2 * square.half / (LATTICE - 1)
        shown = np.zeros((LATTICE, LATTICE)) if error is None else np.minimum(error, WORST)
        self._error.data = {
            "image": [shown.T.astype(np.float32)],
            "x": [square.x - square.half - cell / 2],
            "y": [square.y - square.half - cell / 2],
            "side": [2 * square.half + cell],
        }
        self._density.data = _lines(contour_lines(density, square))
        kept = slice(None, None, EVERY)
        start = square.lattice(LATTICE)[kept, kept].reshape(-1, 2)
        # The longest arrow spans nine tenths of the way to the next one.
        step = arrow_lengths(field[kept, kept]).reshape(-1, 2) * (0.9 * EVERY * cell / 4.0)
        end = start + step
        self._arrows.data = {
            "x0": start[:, 0],
            "y0": start[:, 1],
            "x1": end[:, 0],
            "y1": end[:, 1],
            "angle": np.arctan2(step[:, 1], step[:, 0]) - np.pi / 2,
        }
        _look_at(self.figure, square)


class ChainFigure:
    """States of a reverse process over the contours of the target at the data."""

    def __init__(self, label: str) -> None:
        self.figure = _small(label)
        self._target = ColumnDataSource(dict(_EMPTY_LINES))
        self.figure.multi_line("xs", "ys", source=self._target, color=TARGET, line_width=1.6)
        self._points = _source(x=[], y=[])
        self.figure.scatter("x", "y", source=self._points, size=5, color=INK, alpha=0.6, line_color=None)

    def show_target(self, square: Window, target: Array) -> None:
        """Contours of the target (points, points) on the square's lattice."""
        self._target.data = _lines(contour_lines(target, square))
        _look_at(self.figure, square)

    def show_states(self, states: Array) -> None:
        """(n, 2) points."""
        self._points.data = {"x": states[:, 0], "y": states[:, 1]}


def _source(**columns: list[Any]) -> ColumnDataSource:
    return ColumnDataSource(dict(columns))


def _lines(lines: Lines | None) -> dict[str, list[Any]]:
    return dict(_EMPTY_LINES) if lines is None else {"xs": lines.xs, "ys": lines.ys}


def _range(start: float) -> Range1d:
    return Range1d(start=start, end=1)


def _square(label: str) -> Any:
    # Nearly as high as wide: what axes and toolbar take leaves a square, so that circles are circles.
    return _styled(figure(x_range=_range(-1), y_range=_range(-1), aspect_ratio=0.97, min_height=200), label)


def _small(label: str) -> Any:
    plot = _square(label)
    plot.toolbar_location, plot.aspect_ratio = None, 1.06
    return plot


def _chart(x_label: str, y_label: str, label: str) -> Any:
    plot = figure(x_range=_range(0), y_range=_range(0), aspect_ratio=1.5, min_height=230)
    plot.xaxis.axis_label, plot.yaxis.axis_label = x_label, y_label
    return _styled(plot, label)


def _styled(plot: Any, label: str) -> Any:
    plot.sizing_mode = "scale_width"
    plot.name = label
    plot.toolbar_location = "above"
    plot.toolbar.logo = None
    plot.toolbar.tools = [PanTool(), WheelZoomTool(), ResetTool()]
    plot.toolbar.active_drag = None
    plot.toolbar.autohide = True
    plot.outline_line_color = None
    plot.stylesheets = [InlineStyleSheet(css=_EDGES)]
    plot.grid.grid_line_color = "#e6e6e6"
    plot.axis.axis_line_color = plot.axis.major_label_text_color = plot.axis.axis_label_text_color = INK
    plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_font_size = plot.axis.axis_label_text_font_size = "12px"
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.ticker.desired_num_ticks = 5
    return plot


def _look_at(plot: Any, square: Window) -> None:
    x, y = square.x, square.y
    _ranges(plot, (x - square.half, x + square.half), (y - square.half, y + square.half))


def _ranges(plot: Any, x: tuple[float, float], y: tuple[float, float]) -> None:
    plot.x_range.update(start=x[0], end=x[1], reset_start=x[0], reset_end=x[1])
    plot.y_range.update(start=y[0], end=y[1], reset_start=y[0], reset_end=y[1])
