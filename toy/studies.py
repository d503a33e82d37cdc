"""Pictures of comparisons: rules over noise, weights and levels, networks and targets, posteriors and facts.

Functions that take results and return Axes, in the style of ``toy.plots``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

import duality as du
from toy.guidance import GuidanceError
from toy.mixtures import Array
from toy.plot_style import CYCLE, DASHES, GREY, INK, MARK, PRETRAINED, TARGET, UNWANTED, legend_below, new_axes, styled
from toy.plots import level_unit

if TYPE_CHECKING:
    from toy.networks import Gap

MARKERS = ("o", "s", "^", "D", "v", "P")


@styled
def plot_guidance_errors(errors: Sequence[GuidanceError], ax: Any = None) -> Any:
    """Error of each rule relative to the correction it has to supply, over 1 - alpha_bar, both logarithmic.

    The line at 1 is where guiding is no better than not guiding. Rules that are exact lie at rounding and are drawn at
    the floor of the picture, 1e-4, with an arrow.
    """
    if not errors:
        raise ValueError("errors: at least one GuidanceError is needed, given none")
    if ax is None:
        ax = new_axes(5.6, 4.0)
    floor = 1e-4
    for number, rule in enumerate(dict.fromkeys(one.rule for one in errors)):
        found = sorted((one for one in errors if one.rule == rule), key=lambda one: -one.alpha_bar)
        noise = np.array([1 - one.alpha_bar for one in found])
        relative = np.array([one.error / max(one.correction, 1e-300) for one in found])
        exact = bool(np.all(relative < floor))
        label = f"{rule} (exact: below 10$^{{-4}}$)" if exact else rule
        style = {"color": CYCLE[number % 6], "ls": DASHES[number % 6], "marker": MARKERS[number % 6], "ms": 4.5}
        ax.plot(noise, np.maximum(relative, floor), label=label, clip_on=not exact, **style)
    ax.axhline(1.0, color=GREY, lw=0.9)
    ax.text(0.01, 1.12, "no better than unguided", transform=ax.get_yaxis_transform(), fontsize=8.5, color=INK)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_ylim(floor, 4)
    ax.set(xlabel=r"noise $1 - \bar\alpha$", ylabel="rms error / rms correction")
    legend_below(ax, ncols=2)
    return ax


@styled
def plot_weights(
    solutions: Sequence[du.Solution],
    swept: Sequence[tuple[float, Array]],
    weights: ArrayLike,
    index: int = 0,
    ax: Any = None,
) -> Any:
    """What a sweep of fixed weights reaches, on the frontier of the solved levels.

    Args:
        solutions: along ``duality.frontier``.
        swept: of ``duality.fixed_weights``, (cost, levels) for each weight.
        weights: numbers to write beside the points.
        index: the constraint whose level is on the axis.
    """
    given = np.atleast_1d(np.asarray(weights, dtype=np.float64))
    if len(given) != len(swept):
        raise ValueError(f"weights: {len(swept)} numbers are needed, one for each point, given {len(given)}")
    if ax is None:
        ax = new_axes()
    levels = [float(one.levels[index]) for one in solutions]
    ax.plot(levels, [one.dual for one in solutions], color=TARGET, label="frontier: levels solved for")
    points = np.array([(reached[index], cost) for cost, reached in swept])
    ax.plot(points[:, 0], points[:, 1], "s", ms=5.5, color=UNWANTED, label="fixed weights", zorder=4)
    for weight, (x, y) in zip(given, points, strict=True):
        ax.annotate(f"{weight:g}", (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8.5, color=INK)
    ax.margins(x=0.06, y=0.1)
    ax.set(xlabel=f"level reached ({level_unit(solutions[0].problem)})", ylabel="cost (nats)")
    legend_below(ax, ncols=2)
    return ax


@styled
def plot_equal_weights(solved: du.Solution, equal_cost: float, equal_levels: ArrayLike, ax: Any = None) -> Any:
    """One weight for all concepts against one multiplier for each, at levels that both keep.

    Stems: how far each concept is removed beyond what was asked, reached/asked (asked/reached for LU), logarithmic.

    Args:
        solved: at the levels asked.
        equal_cost, equal_levels: (m,) levels, of the smallest equal weight that keeps them all.
    """
    from matplotlib import ticker

    asked, reached = np.asarray(solved.problem.levels), np.asarray(equal_levels, dtype=np.float64)
    if reached.shape != asked.shape:
        raise ValueError(f"equal_levels: shape {asked.shape} is needed, given {reached.shape}")
    if ax is None:
        ax = new_axes()
    less = isinstance(solved.problem, du.Likelihood)
    place = np.arange(len(asked))
    for shift, color, marker, values, label in (
        (-0.12, TARGET, "o", np.asarray(solved.levels), f"own multipliers: {solved.primal:.4g} nats"),
        (0.12, UNWANTED, "s", reached, f"one weight: {equal_cost:.4g} nats"),
    ):
        ratio = asked / values if less else values / asked
        ax.vlines(place + shift, 1.0, ratio, color=color, lw=3)
        ax.plot(place + shift, ratio, marker, ms=8, color=color, label=label)
    ax.axhline(1.0, color=INK, lw=1.0)
    ax.set_xticks(place, [f"concept {i + 1}" for i in place])
    ax.grid(axis="x", visible=False)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xlim(-0.5, len(asked) - 0.5)
    ax.set_ylabel("removed beyond what was asked (ratio)")
    legend_below(ax, ncols=2)
    return ax


@styled
def plot_parameterisation_gap(gaps: Sequence[Gap], ax: Any = None) -> Any:
    """Path divergence of networks from their target over training steps, one line for each width, with 2 s.e."""
    if not gaps:
        raise ValueError("gaps: at least one Gap is needed, given none")
    if ax is None:
        ax = new_axes()
    for number, width in enumerate(sorted({gap.width for gap in gaps})):
        row = sorted((gap for gap in gaps if gap.width == width), key=lambda gap: gap.steps)
        ax.errorbar(
            [gap.steps for gap in row],
            [gap.divergence for gap in row],
            [2 * gap.stderr for gap in row],
            color=CYCLE[number % 6],
            ls=DASHES[number % 6],
            marker=MARKERS[number % 6],
            ms=5,
            capsize=3,
            label=f"width {width}",
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    steps = sorted({gap.steps for gap in gaps})
    ax.set_xticks(steps, [f"{step:,}" for step in steps])
    ax.minorticks_off()
    ax.set(xlabel="training steps", ylabel="KL(p* paths ‖ network) (nats)")
    legend_below(ax, ncols=2)
    return ax


@styled
def plot_score_field(score: Array, x: Array, density: Array | None = None, label: str = "", ax: Any = None) -> Any:
    """Arrows of a score at points x (n, 2) on a lattice; ``density`` (n,) leaves out where it is negligible."""
    if x.ndim != 2 or x.shape[1] != 2 or score.shape != x.shape:
        raise ValueError(f"score, x: equal shapes (n, 2) are needed, given {score.shape} and {x.shape}")
    if ax is None:
        ax = new_axes(4.6, 4.2)
    kept = np.ones(len(x), dtype=bool) if density is None else density > 1e-4 * density.max()
    length = np.linalg.norm(score[kept], axis=1)
    # Arrows grow as the root of the score, so that those near the modes and those far out are both seen.
    arrows = score[kept] / np.sqrt(np.maximum(length, 1e-12))[:, None]
    ax.quiver(x[kept, 0], x[kept, 1], arrows[:, 0], arrows[:, 1], color=MARK if label else PRETRAINED, width=0.004)
    ax.set_aspect("equal")
    ax.set(xlabel="x$_1$", ylabel="x$_2$", title=label)
    return ax


@styled
def plot_reliability(posteriors: Mapping[str, Array], labels: ArrayLike, bins: int = 5, ax: Any = None) -> Any:
    """Frequency against mean posterior in bins, with one standard error (Wilson): the diagonal is right.

    Args:
        posteriors: name -> Pr(concept|x), (n,) in [0, 1].
        labels: (n,), whether x shows the concept.
        bins: of equal width; the area of a marker grows with the number of points in its bin.
    """
    shown = np.asarray(labels, dtype=bool)
    if ax is None:
        ax = new_axes(4.6, 4.2)
    ax.plot([0, 1], [0, 1], color=GREY, lw=1.0, label="calibrated")
    for number, (name, given) in enumerate(posteriors.items()):
        p = np.asarray(given, dtype=np.float64)
        if p.shape != shown.shape:
            raise ValueError(f"posteriors: the shape of labels, {shown.shape}, is needed for {name}, given {p.shape}")
        place = np.minimum((p * bins).astype(int), bins - 1)
        rows = [(p[place == b], shown[place == b]) for b in np.unique(place)]
        x, y = np.array([one.mean() for one, _ in rows]), np.array([hit.mean() for _, hit in rows])
        counts = np.array([len(one) for one, _ in rows])
        # Wilson's interval at one standard error: it stays within [0, 1] and has a width where all of a bin agree.
        middle = (y + 0.5 / counts) / (1 + 1 / counts)
        half = np.sqrt(y * (1 - y) / counts + 0.25 / counts**2) / (1 + 1 / counts)
        error = np.maximum([y - middle + half, middle + half - y], 0.0)
        color = CYCLE[number % 6]
        ax.errorbar(x, y, error, color=color, ls=DASHES[number % 6], capsize=3, lw=1.4)
        ax.scatter(x, y, 25 + 8 * np.sqrt(counts), color=color, marker=MARKERS[number % 6], zorder=4, label=name)
    ax.set_aspect("equal")
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05))
    ax.set(xlabel="mean posterior of the bin (probability)", ylabel="frequency of the concept")
    legend_below(ax, ncols=3, columnspacing=1.2, handletextpad=0.5)
    return ax


@styled
def plot_pictures(pictures: ArrayLike, marked: ArrayLike | None = None, columns: int = 16, ax: Any = None) -> Any:
    """A sheet of pictures (n, height, width) in [-1, 1], row by row; those that are ``marked`` (n,) get a frame."""
    given = np.asarray(pictures, dtype=np.float64)
    if given.ndim != 3 or not len(given):
        raise ValueError(f"pictures: shape (n, height, width) with n >= 1 is needed, given {given.shape}")
    frames = np.zeros(len(given), dtype=bool) if marked is None else np.asarray(marked, dtype=bool)
    if frames.shape != given.shape[:1]:
        raise ValueError(f"marked: shape {given.shape[:1]} is needed, given {frames.shape}")
    from matplotlib.patches import Rectangle

    height, width = given.shape[1:]
    gap = max(1, height // 10)
    rows = -(-len(given) // columns)
    sheet = np.ones((rows * (height + gap) + gap, columns * (width + gap) + gap))
    if ax is None:
        ax = new_axes(6.4, 6.4 * sheet.shape[0] / sheet.shape[1] + 0.4)
    for k, picture in enumerate(given):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
        if frames[k]:
            corner = (left - 0.5 - gap / 2, top - 0.5 - gap / 2)
            ax.add_patch(Rectangle(corner, width + gap, height + gap, fill=False, ec=UNWANTED, lw=2.2))
    ax.imshow(sheet, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax
