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

from toy.dual import limits_of
from toy.explorer.curves import slope
from toy.explorer.export import arrow_lengths
from toy.explorer.levels import SUBSCRIPTS
from toy.explorer.noise import EVERY, LATTICE
from toy.explorer.shapes import Window, contour_lines, ellipse, handles, shade
from toy.explorer.state import MOST_CONCEPTS, Mode
from toy.explorer.views import View
from toy.mixtures import Array
from toy.plots import INK, TARGET, UNWANTED, solid_and_dashed

SHADES = ("#ffffff00", "#ececec", "#d6d6d6", "#bdbdbd")
# From white to the vermillion of what is wrong; errors of 2 and more are all the darkest.
ERRORS = ("#ffffff", "#fdeee3", "#fbd9c1", "#f6bd96", "#ee9a66", "#e27638", "#d55e00", "#ad4c00")
WORST = 2.0
# Darker than UNWANTED, so that a white number on it can be read.
DOT, WRONG = "#b34e00", "#e6002b"
CONCEPT_DASHES: tuple[Any, ...] = ("dashed", "dashdot", "dotted", [10, 3, 2, 3])
# Bokeh draws, and clears, half a pixel to the right and below: bits of earlier labels would stay in the first column.
_EDGES = ":host { clip-path: inset(1px 0 0 1px); }"
_BOX = ("image", "x", "y", "dw", "dh")


class Picture:
    """A Bokeh figure and its layers, each with a source of columns named as its glyph names them.

    Args:
        aspect: width by height; 0.97, or 1.06 without tools, leaves a square beside axes and toolbar, so that circles
            are circles.
    """

    def __init__(self, label: str, aspect: float = 1.06, tools: bool = False, **axes: Any) -> None:
        plot: Any = figure(
            name=label,
            x_range=Range1d(),
            y_range=Range1d(),
            aspect_ratio=aspect,
            min_height=200,
            sizing_mode="scale_width",
            outline_line_color=None,
            stylesheets=[InlineStyleSheet(css=_EDGES)],
            toolbar_location="above" if tools else None,
            **axes,
        )
        self.figure = plot
        plot.toolbar.update(logo=None, tools=[PanTool(), WheelZoomTool(), ResetTool()], active_drag=None, autohide=True)
        plot.grid.grid_line_color = "#e6e6e6"
        plot.axis.axis_line_color = plot.axis.major_label_text_color = plot.axis.axis_label_text_color = INK
        plot.axis.minor_tick_line_color = None
        plot.axis.major_label_text_font_size = plot.axis.axis_label_text_font_size = "12px"
        plot.axis.axis_label_text_font_style = "normal"
        plot.axis.ticker.desired_num_ticks = 5

    def layer(self, glyph: str, *columns: str, **style: Any) -> Any:
        """The source of a new layer, empty as yet."""
        source = ColumnDataSource({name: [] for name in columns})
        getattr(self.figure, glyph)(**{name: name for name in columns}, source=source, **style)
        return source

    def lines(self, colour: str, **style: Any) -> Any:
        """The source of a layer of contours."""
        return self.layer("multi_line", "xs", "ys", color=colour, **style)

    def look_at(self, square: Window) -> None:
        """Set the visible ranges."""
        self.ranges(*((at - square.half, at + square.half) for at in (square.x, square.y)))

    def ranges(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        """Set the visible ranges, and those that a reset goes back to."""
        for one, (low, high) in ((self.figure.x_range, x), (self.figure.y_range, y)):
            one.update(start=low, end=high, reset_start=low, reset_end=high)


class Plane(Picture):
    """q shaded, the q_i dashed, the target in lines; optionally draws, and modes with handles that can be dragged."""

    def __init__(self, label: str, concepts: bool = True, drag: bool = False) -> None:
        super().__init__(label, 0.97 if drag else 1.06, drag)
        self._shade = self.layer("image", *_BOX, color_mapper=LinearColorMapper(palette=SHADES, low=-0.5, high=3.5))
        dot: dict[str, Any] = {"size": 3, "alpha": 0.55, "line_color": None}
        self._draws = {name: self.layer("scatter", "x", "y", color=name, **dot) for name in ("#6e6e6e", TARGET)}
        dashes = CONCEPT_DASHES[: MOST_CONCEPTS if concepts else 0]
        self._parts = [self.lines(UNWANTED, line_width=1.8, line_dash=dash) for dash in dashes]
        self._target = self.lines(TARGET, line_width=2)
        if drag:
            self._add_modes()

    def _add_modes(self) -> None:
        self._ellipse = self.layer("line", "x", "y", color=INK, line_width=1.1)
        square: dict[str, Any] = {
            "marker": "square",
            "size": 13,
            "fill_color": "white",
            "line_color": INK,
            "line_width": 2,
        }
        self.handles = self.layer("scatter", "x", "y", **square)
        self.modes = ColumnDataSource({name: [] for name in ("x", "y", "number", "fill", "edge", "ink")})
        circle = {"size": 21, "fill_color": "fill", "line_color": "edge", "line_width": 2}
        dots = self.figure.scatter("x", "y", source=self.modes, **circle)
        grips = self.figure.renderers[-2]
        for drawn in (dots, grips):
            drawn.nonselection_glyph = drawn.selection_glyph = None
        number = {"text_font_size": "12px", "text_font_style": "bold", "text_color": "ink"}
        middle = {"text_align": "center", "text_baseline": "middle"}
        self.figure.text("x", "y", text="number", source=self.modes, **number, **middle)
        tool = PointDrawTool(renderers=[grips, dots], add=False, description="Drag modes and handles")
        self.figure.add_tools(tool)
        self.figure.toolbar.update(active_drag=tool, active_tap=tool)

    def show_given(self, square: Window, base: Array, parts: list[Array]) -> None:
        """q and the q_i (points, points) on the square's lattice; missing parts are left out."""
        self._shade.data = _image(shade(base), square)
        for k, source in enumerate(self._parts):
            source.data = _contours(parts[k] if k < len(parts) else None, square)

    def show_target(self, square: Window, target: Array | None) -> None:
        """The target (points, points) on the square's lattice; None for none."""
        self._target.data = _contours(target, square)

    def show_draws(self, *draws: Array | None) -> None:
        """Draws (n, 2) of q and of the target; None for none."""
        for source, points in zip(self._draws.values(), draws, strict=True):
            source.data = _points(np.zeros((0, 2)) if points is None else points)

    def show_modes(self, modes: tuple[Mode, ...], chosen: int, dragging: str, bad: int | None) -> None:
        """Dots at the modes (filled where they belong to a concept), ellipse and handles of the chosen one.

        Args:
            dragging: "mode" or "handle", which is then left where the pointer has it.
            bad: the mode whose entries make no sense, if any.
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
        self._ellipse.data = _points(ellipse(modes[chosen]))
        if dragging != "handle":
            self.handles.data = _points(handles(modes[chosen]))


class DualFigure(Picture):
    """g along one multiplier, with lam* and the end of the domain."""

    def __init__(self) -> None:
        super().__init__("Dual function with its maximum", 1.5, True, y_axis_label="dual function g (nats)")
        self._end = Span(dimension="height", line_color=UNWANTED, line_dash="dashed", line_width=2)
        self._beyond = BoxAnnotation(fill_color=UNWANTED, fill_alpha=0.12, line_alpha=0)
        self._top = Span(dimension="width", line_color="#767676", line_dash="dotted", line_width=1.5)
        for one in (self._beyond, self._end, self._top):
            self.figure.add_layout(one)
        self._curve = self.layer("line", "x", "y", color=TARGET, line_width=2.2)
        self._point = self.layer("scatter", "x", "y", size=10, color=INK)
        self.clear()

    def show(self, view: View) -> None:
        """The curve of a view with an answer."""
        curve, solution, index = view.dual, view.solution, view.state.concept
        assert curve is not None
        assert solution is not None
        lam, value = float(solution.multipliers[index]), float(solution.dual)
        self._curve.data = {"x": curve.x, "y": curve.y}
        self._point.data = {"x": [lam], "y": [value]}
        right = max(float(curve.x[-1]), lam, 1e-12)
        self.ranges((-0.03 * right, 1.12 * right), limits_of(curve.y, (lam, value), 0.12))
        inside = view.end <= 1.12 * right
        self._end.visible = self._beyond.visible = inside
        self._top.location = value
        if inside:
            self._end.location = self._beyond.left = view.end
            self._beyond.right = 1.2 * right
        self.figure.xaxis.axis_label = f"multiplier λ{SUBSCRIPTS[index]}" if view.state.m > 1 else "multiplier λ"

    def clear(self) -> None:
        """Show nothing, where there is no answer."""
        self._curve.data = self._point.data = {"x": [], "y": []}
        self._end.visible = self._beyond.visible = False


class FrontierFigure(Picture):
    """The least cost against one level, with the present point and its slope."""

    def __init__(self) -> None:
        super().__init__("Trade-off: least cost against the level", 1.5, True, y_axis_label="least cost V (nats)")
        self._curve = self.layer("line", "x", "y", color=TARGET, line_width=2.2)
        self._beyond = self.layer("line", "x", "y", color=UNWANTED, line_width=2.2, line_dash="dashed")
        self._slope = self.layer("line", "x", "y", color=INK, line_width=1.4, line_dash=[5, 3])
        self._point = self.layer("scatter", "x", "y", size=10, color=INK)

    def show(self, view: View, label: str) -> None:
        """The curve of a view with an answer; ``label`` says what the level bounds, with its unit."""
        curve, solution, index = view.frontier, view.solution, view.state.concept
        assert curve is not None
        assert solution is not None
        level, value = view.levels[index], float(solution.dual)
        solid, rest = solid_and_dashed(curve.y, curve.attained)
        self._curve.data, self._beyond.data = {"x": curve.x, "y": solid}, {"x": curve.x, "y": rest}
        self._point.data = {"x": [level], "y": [value]}
        low, high = (float(curve.x[0]), float(curve.x[-1])) if len(curve.x) else (level - 1, level + 1)
        low, high = min(low, level), max(high, level)
        top = max(float(curve.y.max()) if len(curve.y) else value, value, 1e-6)
        rise = slope(solution, index)
        ends = np.array([max(level - 0.3 * (high - low), low), min(level + 0.3 * (high - low), high)])
        self._slope.data = {"x": ends, "y": value + rise * (ends - level)}
        margin = 0.04 * (high - low)
        self.ranges((low - margin, high + margin), (-0.08 * top, 1.12 * top))
        self.figure.xaxis.axis_label = label

    def clear(self) -> None:
        """Show nothing, where there is no answer."""
        for source in (self._curve, self._beyond, self._slope, self._point):
            source.data = {"x": [], "y": []}


class FieldFigure(Picture):
    """A score field as arrows over the size of its error, with the noised target's contours."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._error = self.layer("image", *_BOX, color_mapper=LinearColorMapper(palette=ERRORS, low=0.0, high=WORST))
        # White beneath, so that the lines are seen where the error is darkest.
        styles = (("white", {"line_width": 4.5, "line_alpha": 0.8}), (TARGET, {"line_width": 1.8}))
        self._density = [self.lines(colour, **style) for colour, style in styles]
        self._arrows = self.layer("segment", "x0", "y0", "x1", "y1", color=INK, line_width=1.1)
        self._tips = self.layer("scatter", "x", "y", "angle", marker="triangle", size=5, color=INK)

    def show(self, square: Window, density: Array, field: Array, error: Array | None) -> None:
        """field (n, n, 2), density and error (n, n) on the square's lattice of ``LATTICE`` points."""
        cell = 2 * square.half / (LATTICE - 1)
        shown = np.zeros((LATTICE, LATTICE)) if error is None else np.minimum(error, WORST)
        pixels = square._replace(half=square.half + cell / 2)
        self._error.data = _image(shown.T.astype(np.float32), pixels)
        for source in self._density:
            source.data = _contours(density, square)
        kept = slice(None, None, EVERY)
        start = square.lattice(LATTICE)[kept, kept].reshape(-1, 2)
        # The longest arrow spans nine tenths of the way to the next one.
        step = arrow_lengths(field[kept, kept]).reshape(-1, 2) * (0.9 * EVERY * cell / 4.0)
        end = start + step
        self._arrows.data = {"x0": start[:, 0], "y0": start[:, 1], "x1": end[:, 0], "y1": end[:, 1]}
        self._tips.data = {**_points(end), "angle": np.arctan2(step[:, 1], step[:, 0]) - np.pi / 2}
        self.look_at(square)


class ChainFigure(Picture):
    """States of a reverse process over the contours of the target at the data."""

    def __init__(self, label: str) -> None:
        super().__init__(label)
        self._target = self.lines(TARGET, line_width=1.6)
        self._points = self.layer("scatter", "x", "y", size=5, color=INK, alpha=0.6, line_color=None)

    def show_target(self, square: Window, target: Array) -> None:
        """Contours of the target (points, points) on the square's lattice."""
        self._target.data = _contours(target, square)
        self.look_at(square)

    def show_states(self, states: Array) -> None:
        """(n, 2) points."""
        self._points.data = _points(states)


def _points(points: Array) -> dict[str, Array]:
    return {"x": points[:, 0], "y": points[:, 1]}


def _contours(density: Array | None, square: Window) -> dict[str, Any]:
    return {"xs": [], "ys": []} if density is None else contour_lines(density, square)._asdict()


def _image(values: Array, square: Window) -> dict[str, list[Any]]:
    corner, side = (square.x - square.half, square.y - square.half), 2 * square.half
    return {"image": [values], "x": [corner[0]], "y": [corner[1]], "dw": [side], "dh": [side]}
