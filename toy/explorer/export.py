"""What can be taken away from a view: a figure, and its numbers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from toy import plots
from toy.explorer.compare import Matched
from toy.explorer.links import to_dict, to_link
from toy.explorer.noise import EVERY, LATTICE, NoiseView
from toy.explorer.shapes import Window, on_lattice
from toy.explorer.views import View
from toy.mixtures import Array

SCHEMA_VERSION = 1  # of the numbers; grows when a name or a meaning changes


def numbers(view: View) -> str:
    """State, solution, curves and link as strict JSON. Where there is no answer, what is wrong instead.

    The schema is published with those of other files (docs/reference/files.md).
    """
    data: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "state": to_dict(view.state),
        "link": to_link(view.state),
        "errors": [{"place": place, "reason": reason} for place, reason in view.errors.items()],
    }
    if view.solution is not None and view.answer is not None:
        solution = json.loads(view.solution.to_json())
        # The target's masses are on a grid of thousands of nodes, which the lines of Python give back.
        for name in ("log_weights", "schema_version"):
            solution.pop(name)
        data["solution"] = {**solution, "gap": _plain(view.solution.gap)}
        data["domain_end"] = _plain(view.end)
        data["grid"] = {"truncation": view.truncation, "resolution": view.resolution, "nodes": len(view.answer.nodes)}
    if view.whole is not None:
        rows = zip(view.whole.shown.tolist(), view.whole.costs.tolist(), strict=True)
        data["prompts"] = [{"shown": list(map(_plain, shown)), "cost": _plain(cost)} for shown, cost in rows]
        data["keeping"] = [
            {"mode": one.mode + 1, "multiplier": one.multiplier, "cost": one.cost} for one in view.whole.kept
        ]
    for name, curve in (("dual", view.dual), ("frontier", view.frontier)):
        if curve is not None:
            data[name] = {"x": curve.x.tolist(), "y": curve.y.tolist(), "attained": curve.attained.tolist()}
    return json.dumps(data, indent=1, allow_nan=False)


def image(figure: Any, kind: str) -> bytes:
    """A Matplotlib figure as PNG or SVG. Text stays text in an SVG."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "explorer"}):
        figure.savefig(out, format=kind, dpi=150)
    return out.getvalue()


def target_figure(view: View) -> Any:
    """Densities, dual function and trade-off curve, as on the page. The view must have an answer."""
    assert view.answer is not None
    figure, axes = _canvas(3, 4.3)
    plots.plot_densities(view.answer, axes[0])
    curve, dual, solution, index = view.frontier, view.dual, view.solution, view.state.concept
    assert curve is not None  # both come with the answer, and so does what was solved for
    assert dual is not None
    assert solution is not None
    best = float(solution.multipliers[index]), float(solution.dual)
    plots.dual_axes(dual.x, dual.y, best, view.end, f"λ$_{index + 1}$" if view.state.m > 1 else "λ", axes[1])
    plots.frontier_axes(curve.x, curve.y, curve.attained, solution, index, axes[2])
    where = f", prompt {view.state.prompt + 1}" if view.state.prompts else ""
    axes[0].set_title(plots.problem_name(solution.problem) + where)
    axes[1].set_title(plots.status_words(solution))
    axes[2].set_title("What more separation costs")
    return figure


def noise_figure(found: NoiseView) -> Any:
    """The exact score of the noised target beside each rule's field, errors shaded."""
    figure, axes = _canvas(1 + len(found.rules), 3.6)
    panels = [("exact score", found.exact, None)] + [(one.name, one.field, one) for one in found.rules]
    ticks = found.square.axes(LATTICE)
    for ax, (name, field, rule) in zip(axes, panels, strict=True):
        if rule is None:
            ax.contourf(*ticks, found.density.T, levels=8, cmap="Blues", alpha=0.6)
            ax.set_title(f"{name}, ᾱ = {found.alpha_bar:g}")
        else:
            ax.contourf(*ticks, np.minimum(rule.error, 2.0).T, levels=np.linspace(0, 2.0, 9), cmap="Oranges", alpha=0.8)
            ax.set_title(f"{name}\nerror {rule.rms:.2g} of {found.correction:.2g}")
        kept = slice(None, None, EVERY)
        arrows = arrow_lengths(field[kept, kept])
        x, y = ticks[0][kept], ticks[1][kept]
        ax.quiver(x, y, arrows[..., 0].T, arrows[..., 1].T, color=plots.INK, width=0.004)
        ax.set_aspect("equal")
        ax.set(xlabel="x$_1$")
    axes[0].set(ylabel="x$_2$")
    return figure


def compare_figure(view: View, found: Sequence[Matched], square: Window) -> Any:
    """Three panels: q and the target of each problem that leaves the same share of every concept."""
    assert view.board is not None  # there is nothing to compare without one
    figure, axes = _canvas(len(found), 3.9)
    ticks = square.axes()
    base = on_lattice(view, view.board.ratios.log_weights, square)
    for ax, one in zip(axes, found, strict=True):
        plots.shaded(ax, ticks, base)
        ax.set_title(f"{one.name}: no target")
        if one.answer is not None:
            target = on_lattice(view, np.asarray(one.answer.solution.log_weights), square)
            plots.outlined(ax, ticks, target, plots.TARGET)
            left = ", ".join(f"{100 * share:.3g} %" for share in one.left)
            cost = f"KL(p‖q) = {one.reverse:.4g}, KL(q‖p) = {one.forward:.4g} nats"
            ax.set_title(f"{one.name}: {left} left\n{cost}")
    axes[0].set(ylabel="x$_2$")
    return figure


def arrow_lengths(field: Array, longest: float = 4.0) -> Array:
    """Scores as arrows: the direction kept, lengths above ``longest`` cut, so that far tails do not rule."""
    size = np.sqrt(np.square(field).sum(axis=-1, keepdims=True))
    return np.asarray(field * np.minimum(1.0, longest / np.maximum(size, 1e-12)))


def _canvas(panels: int, height: float) -> tuple[Any, list[Any]]:
    """A figure of square panels side by side, without pyplot: a server must not keep figures in global state."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("saving figures needs matplotlib: install unlearning-duality[explore]") from error
    style: Any = plots.STYLE
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(height * panels + 0.6, height), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
    return figure, list(axes)


def _plain(value: float) -> float | str:
    """A number as strict JSON has it, and as solutions are written."""
    return value if np.isfinite(value) else "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
