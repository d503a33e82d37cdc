"""Pictures of problems and answers: functions that take data and return Axes, in one style (``toy.plot_style``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import duality as du
from toy.contours import ENCLOSED, contour_levels, outlined, shaded
from toy.dual import domain_end, dual_value, limits_of, places_along
from toy.mixtures import Array
from toy.plot_style import (
    CYCLE,
    DASHES,
    GREY,
    INK,
    MARK,
    PRETRAINED,
    SECOND,
    STYLE,
    TARGET,
    THIRD,
    TITLE,
    UNWANTED,
    legend_below,
    new_axes,
    pyplot,
    styled,
)
from toy.solving import ToySolution

__all__ = [
    "CYCLE",
    "DASHES",
    "ENCLOSED",
    "GREY",
    "INK",
    "MARK",
    "PRETRAINED",
    "SECOND",
    "STYLE",
    "TARGET",
    "THIRD",
    "TITLE",
    "UNWANTED",
    "contour_levels",
    "dual_axes",
    "frontier_axes",
    "legend_below",
    "level_unit",
    "new_axes",
    "outlined",
    "plot_densities",
    "plot_dual",
    "plot_frontier",
    "problem_name",
    "pyplot",
    "shaded",
    "solid_and_dashed",
    "solve_figure",
    "status_words",
    "styled",
    "window",
]


def problem_name(problem: du.Problem) -> str:
    """What tables and titles call a problem."""
    if isinstance(problem, du.Joint):
        first, *rest = problem.problems
        kept = sum(part.levels.size for part in rest)
        return problem_name(first) + (f", {kept} kept" if all(isinstance(part, du.Keep) for part in rest) else "")
    if isinstance(problem, du.ReverseKL):
        return "Reverse KL (RU)"
    if isinstance(problem, du.ForwardKL):
        return "Forward KL (FU)"
    return f"Likelihood (LU, {getattr(problem, 'kind', '')})"


def level_unit(problem: du.Problem) -> str:
    """The unit of a problem's levels, of the first part where there are several."""
    if isinstance(problem, du.Joint):
        return level_unit(problem.problems[0])
    kind = getattr(problem, "kind", "nats")
    return {"posterior": "probability", "density": "density"}.get(kind, "nats")


@styled
def plot_densities(answer: ToySolution, ax: Any = None) -> Any:
    """q, the q_i and p*: contours that enclose 50, 80 and 95 % in 2-D, curves in 1-D."""
    axes = window(answer)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    target = np.exp(answer.log_target(grid))
    base = np.exp(answer.pretrained.log_prob(grid))
    parts = [np.exp(part.log_prob(grid)) for part in answer.unlearn]
    if ax is None:
        ax = new_axes(4.6, 4.2)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if len(axes) == 1:
        ax.fill_between(axes[0], base, color=PRETRAINED, alpha=0.3, lw=0)
        for number, part in enumerate(parts):
            share = max(float((part[part > 0] / base[part > 0]).max()), 1.0)
            ax.plot(axes[0], part / share, color=UNWANTED, ls=DASHES[1 + number % 4])
        ax.plot(axes[0], target, color=TARGET)
        ax.set_ylim(bottom=0)
        ax.set(xlabel="x", ylabel="density (1/unit of x)")
    else:
        shaded(ax, axes, base)
        for number, part in enumerate(parts):
            outlined(ax, axes, part, UNWANTED, DASHES[1 + number % 4])
        outlined(ax, axes, target, TARGET)
        ax.set(ylabel="x$_2$")
    unwanted = "q$_1$, to be unlearned" if len(parts) == 1 else "q$_i$, to be unlearned"
    handles = [
        Patch(color="#dadada", label="q, pretrained"),
        Line2D([], [], color=UNWANTED, ls=DASHES[1], label=unwanted + (" (scaled)" if len(axes) == 1 else "")),
        Line2D([], [], color=TARGET, label="p*, target" if answer.solution.attained else "limit of p"),
    ]
    legend_below(ax, handles=handles, ncols=3, handlelength=1.6)
    return ax


@styled
def plot_dual(answer: ToySolution, index: int = 0, ax: Any = None) -> Any:
    """g along lam_index, the other multipliers at their optimum: lam*, the value, and the end of the domain."""
    solution, ratios = answer.solution, answer.ratios
    best, lam = np.asarray(solution.multipliers), float(solution.multipliers[index])
    end = domain_end(solution.problem, answer.pretrained, answer.unlearn, ratios, best, index)
    grid = places_along(lam, float(solution.slack[index]), end)
    values = np.array([_along(answer, best, index, float(one)) for one in grid])
    finite = np.isfinite(values)
    symbol = f"λ$_{index + 1}$" if len(best) > 1 else "λ"
    return dual_axes(
        grid[finite], values[finite], (lam, float(solution.dual)), end, symbol, new_axes() if ax is None else ax
    )


@styled
def dual_axes(multipliers: Array, values: Array, best: tuple[float, float], end: float, symbol: str, ax: Any) -> Any:
    """A dual function (n,) over multipliers (n,) from 0, with its maximum (lam*, value) and the end of its domain."""
    lam, value = best
    right = float(multipliers.max())
    ax.plot(multipliers, values, color=TARGET)
    ax.plot([lam], [value], "o", color=INK, ms=6, zorder=5)
    ax.axhline(value, color=GREY, lw=0.9, ls=":")
    bottom, top = limits_of(values, best, 0.22)
    ax.set_ylim(bottom, top)
    ax.set_xlim(-0.03 * right, right * 1.12)
    ax.annotate(
        f"{symbol}* = {lam:.6g}\nvalue = {value + 0.0:.6g} nats",
        (lam, value),
        xytext=(-5 if lam > 0.7 * right else 0, 7),
        textcoords="offset points",
        ha="left" if lam < 0.35 * right else ("right" if lam > 0.7 * right else "center"),
        va="bottom",
        fontsize=9,
        color=INK,
    )
    if end <= right * 1.001:
        ax.axvspan(end, right * 1.12, color=UNWANTED, alpha=0.10, lw=0)
        ax.axvline(end, color=UNWANTED, ls="--", lw=1.2)
        ax.text(
            end,
            bottom + 0.05 * (top - bottom),
            f" domain ends at {end:.4g} ",
            color=UNWANTED,
            fontsize=9,
            ha="right",
            va="bottom",
        )
    ax.set(xlabel=f"multiplier {symbol}", ylabel="dual function g (nats)")
    return ax


@styled
def plot_frontier(solutions: Sequence[du.Solution], index: int = 0, mark: int | None = None, ax: Any = None) -> Any:
    """Cost against level: V(b), its slope at one point (the multiplier), and where the level is not attained.

    Args:
        solutions: along a frontier, sorted by level.
        index: whose level is on the axis.
        mark: position in the list.
    """
    if len(solutions) < 2:
        raise ValueError(f"solutions: at least two points of a frontier are needed, given {len(solutions)}")
    levels = np.array([one.problem.levels[index] for one in solutions])
    values = np.array([one.dual for one in solutions])
    attained = np.array([one.attained for one in solutions])
    mark = len(solutions) // 2 if mark is None else mark
    return frontier_axes(levels, values, attained, solutions[mark], index, new_axes() if ax is None else ax)


@styled
def frontier_axes(levels: Array, values: Array, attained: np.ndarray, point: du.Solution, index: int, ax: Any) -> Any:
    """A cost curve (n,) over levels (n,), dashed where not ``attained``, with the tangent at a solution on it."""
    solid, rest = solid_and_dashed(values, attained)
    ax.plot(levels, solid, color=TARGET, label="least cost V(b)")
    if not attained.all():
        ax.plot(levels, rest, color=UNWANTED, ls="--", label="not attained")
    level, value = float(point.problem.levels[index]), float(point.dual)
    sign = float(np.broadcast_to(point.problem.direction, point.multipliers.shape)[index])
    slope = sign * float(point.multipliers[index])
    reach = 0.22 * (levels.max() - levels.min())
    near = np.clip([level - reach, level + reach], levels.min(), levels.max())
    ax.plot(near, value + slope * (near - level), color=INK, lw=1.1, ls=(0, (4, 2)))
    said = f"b = {level:.4g}, V = {value:.4g} nats, slope {'−λ*' if sign < 0 else 'λ*'} = {slope:.4g}"
    ax.plot([level], [value], "o", color=INK, ms=6, zorder=5, label=said.replace("= -", "= −"))
    ax.margins(x=0.04, y=0.16)
    number = f"$_{index + 1}$" if len(point.multipliers) > 1 else ""
    ax.set(xlabel=f"level b{number} ({level_unit(point.problem)})", ylabel="cost (nats)")
    legend_below(ax)
    return ax


def solid_and_dashed(values: Array, attained: np.ndarray) -> tuple[Array, Array]:
    """A curve (n,) where it is attained and where it is not, NaN elsewhere; both have the points where they meet."""
    if attained.all():
        return values, np.full(len(values), np.nan)
    beside = ~attained | np.append(~attained[1:], False) | np.append(False, ~attained[:-1])
    return np.where(attained, values, np.nan), np.where(beside, values, np.nan)


@styled
def solve_figure(answers: Sequence[ToySolution], title: str = "") -> Any:
    """One row for each answer: q, q_i and p* beside the dual function with lam* and its domain. Returns a Figure."""
    if not answers:
        raise ValueError("answers: at least one ToySolution is needed, given none")
    plt = pyplot()
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            len(answers), 2, figsize=(10, 4.3 * len(answers)), layout="constrained", squeeze=False
        )
        for row, answer in zip(axes, answers, strict=True):
            solution = answer.solution
            plot_densities(answer, row[0])
            plot_dual(answer, int(np.argmax(solution.multipliers)), row[1])
            asked = ", ".join(f"{level:.4g}" for level in solution.problem.levels)
            relation = "≤" if isinstance(solution.problem, du.Likelihood) else "≥"
            unit = " nats" if level_unit(solution.problem) == "nats" else ""
            row[0].set_title(f"{problem_name(solution.problem)}: level {relation} {asked}{unit}")
            row[1].set_title(status_words(solution))
        figure.get_layout_engine().set(h_pad=0.12, w_pad=0.12)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
    return figure


def status_words(solution: du.Solution) -> str:
    """The status in a few words, with the number that belongs to it."""
    words = solution.message.split(":")[0]
    if solution.critical_levels is not None:
        if np.isnan(solution.critical_levels).any():
            return f"{words}: nothing of q is left"
        return f"{words}: the limit reaches {', '.join(f'{level:.4g}' for level in solution.critical_levels)} nats"
    return f"{words}, relative gap {solution.gap:.0e}"


def window(answer: ToySolution, points: int = 161) -> tuple[Array, ...]:
    """Axes of a picture that holds q, the q_i and the target: 3.3 deviations of each component, target's 99.9 %."""
    lower, upper = [], []
    for one in (answer.pretrained, *answer.unlearn):
        spread = 3.3 * np.sqrt(np.diagonal(one.covariances, axis1=1, axis2=2))
        lower.append((one.means - spread).min(axis=0))
        upper.append((one.means + spread).max(axis=0))
    masses = np.exp(np.asarray(answer.solution.log_weights))
    for axis in range(answer.nodes.dimension):
        order = np.argsort(answer.nodes.points[:, axis])
        cumulative = np.cumsum(masses[order]) / masses.sum()
        places = answer.nodes.points[order, axis]
        low, high = places[np.searchsorted(cumulative, [0.0005, 0.9995])]
        lower[0][axis], upper[0][axis] = min(lower[0][axis], low), max(upper[0][axis], high)
    low, high = np.min(lower, axis=0), np.max(upper, axis=0)
    return tuple(np.linspace(a, b, points if len(low) > 1 else 601) for a, b in zip(low, high, strict=True))


def _along(answer: ToySolution, best: Array, index: int, value: float) -> float:
    moved = best.copy()
    moved[index] = value
    return dual_value(answer.solution.problem, answer.ratios, moved)
