"""Pictures of problems and answers: functions that take data and return Axes, in one style.

Colours are Okabe and Ito's, told apart by every kind of colour vision, and lines differ in dash as well. Matplotlib is
loaded on first use: ``pip install unlearning-duality[plot]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import numpy as np

import duality as du
from toy.dual import domain_end, dual_value
from toy.mixtures import Array
from toy.solving import ToySolution

P = ParamSpec("P")

INK, GREY = "#222222", "#8a8a8a"
PRETRAINED, UNWANTED, TARGET, MARK, SECOND, THIRD = "#7f7f7f", "#D55E00", "#0072B2", "#CC79A7", "#009E73", "#E69F00"
CYCLE = (TARGET, UNWANTED, SECOND, MARK, THIRD, "#56B4E9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "figure.dpi": 110,
    "savefig.dpi": 150,
}
# A title that is set outside of this style.
TITLE: dict[str, Any] = {"loc": STYLE["axes.titlelocation"], "fontsize": STYLE["axes.titlesize"]}
# Mass enclosed by the contours of a density: the core, most of it, nearly all.
ENCLOSED = (0.95, 0.8, 0.5)


def pyplot() -> Any:
    """matplotlib.pyplot, or an ImportError that says what to install."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'unlearning-duality[plot]'") from error
    return plt


def styled(draw: Callable[P, Any]) -> Callable[P, Any]:
    """The same function, drawing in the common style: legends and titles take theirs when they are made."""

    @functools.wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Any:
        with pyplot().rc_context(STYLE):
            return draw(*args, **kwargs)

    return inside


def new_axes(width: float = 5.0, height: float = 3.8) -> Any:
    """One empty Axes in the common style."""
    plt = pyplot()
    with plt.rc_context(STYLE):
        return plt.subplots(figsize=(width, height), layout="constrained")[1]


def problem_name(problem: du.Problem) -> str:
    """What tables and titles call a problem."""
    if isinstance(problem, du.ReverseKL):
        return "Reverse KL (RU)"
    if isinstance(problem, du.ForwardKL):
        return "Forward KL (FU)"
    return f"Likelihood (LU, {getattr(problem, 'kind', '')})"


def level_unit(problem: du.Problem) -> str:
    """The unit of a problem's levels."""
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
        area = float(np.prod([axis[1] - axis[0] for axis in axes]))
        shades = ["#ececec", "#dadada", "#c4c4c4"]
        ax.contourf(*axes, base.T, levels=[*contour_levels(base, area), float(base.max())], colors=shades)
        for number, part in enumerate(parts):
            ax.contour(
                *axes, part.T, levels=contour_levels(part, area), colors=UNWANTED, linestyles=[DASHES[1 + number % 4]]
            )
        ax.contour(*axes, target.T, levels=contour_levels(target, area), colors=TARGET, linestyles="-")
        ax.set_aspect("equal")
        ax.set(xlabel="x$_1$", ylabel="x$_2$")
    unwanted = "q$_1$, to be unlearned" if len(parts) == 1 else "q$_i$, to be unlearned"
    handles = [
        Patch(color="#dadada", label="q, pretrained"),
        Line2D([], [], color=UNWANTED, ls=DASHES[1], label=unwanted + (" (scaled)" if len(axes) == 1 else "")),
        Line2D([], [], color=TARGET, label="p*, target" if answer.solution.attained else "limit of p"),
    ]
    _legend_below(ax, handles=handles, ncols=3, handlelength=1.6)
    return ax


@styled
def plot_dual(answer: ToySolution, index: int = 0, ax: Any = None) -> Any:
    """g along lam_index, the other multipliers at their optimum: lam*, the value, and the end of the domain."""
    solution, ratios = answer.solution, answer.ratios
    best, lam = np.asarray(solution.multipliers), float(solution.multipliers[index])
    end = domain_end(solution.problem, answer.pretrained, answer.unlearn, ratios, best, index)
    # Where the domain ends close by, show its end. Where the constraint is inactive g falls from the start at the rate
    # of its slack: show about one nat of it.
    inactive = min(end, 1 / max(float(solution.slack[index]), 1e-6))
    right = inactive if lam == 0 else (end if end < 8 * lam else 2.2 * lam)
    grid = np.unique(np.concatenate([np.linspace(0, right, 161), right * (1 - np.logspace(-1, -9, 33)), [lam]]))
    values = np.array([_along(answer, best, index, float(one)) for one in grid])
    finite = np.isfinite(values)
    if ax is None:
        ax = new_axes()
    symbol = f"λ$_{index + 1}$" if len(best) > 1 else "λ"
    ax.plot(grid[finite], values[finite], color=TARGET)
    ax.plot([lam], [solution.dual], "o", color=INK, ms=6, zorder=5)
    ax.axhline(solution.dual, color=GREY, lw=0.9, ls=":")
    top = max(float(solution.dual), float(values[finite].max()))
    # A deep plunge at the end of the domain would flatten the rest: show as much below g(0) as there is above it.
    rise = top - float(values[0])
    bottom = max(float(values[finite].min()), float(values[0]) - 1.2 * rise if lam > 0 else -np.inf)
    span = max(top - bottom, 1e-9)
    ax.set_ylim(bottom - 0.06 * span, top + 0.22 * span)
    ax.set_xlim(-0.03 * right, right * 1.12)
    ax.annotate(
        f"{symbol}* = {lam:.6g}\nvalue = {solution.dual + 0.0:.6g} nats",
        (lam, solution.dual),
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
        ax.text(end, bottom, f" domain ends at {end:.4g} ", color=UNWANTED, fontsize=9, ha="right", va="bottom")
    ax.set(xlabel=f"multiplier {symbol}", ylabel="dual function g (nats)")
    return ax


@styled
def plot_frontier(solutions: Sequence[du.Solution], index: int = 0, mark: int | None = None, ax: Any = None) -> Any:
    """Cost against level: V(b), its slope at one point (the multiplier), and where the level is not attained.

    solutions : along a frontier, sorted by level. index : whose level is on the axis. mark : position in the list.
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
    solid = np.where(attained, values, np.nan)
    ax.plot(levels, values if attained.all() else solid, color=TARGET, label="least cost V(b)")
    if not attained.all():
        # The last point that is attained begins the rest, so that the line has no gap.
        joint = ~attained | np.append(~attained[1:], False) | np.append(False, ~attained[:-1])
        ax.plot(levels, np.where(joint, values, np.nan), color=UNWANTED, ls="--", label="not attained")
    level, value = float(point.problem.levels[index]), float(point.dual)
    sign = float(point.problem.direction)
    slope = sign * float(point.multipliers[index])
    reach = 0.22 * (levels.max() - levels.min())
    near = np.clip([level - reach, level + reach], levels.min(), levels.max())
    ax.plot(near, value + slope * (near - level), color=INK, lw=1.1, ls=(0, (4, 2)))
    said = f"b = {level:.4g}, V = {value:.4g} nats, slope {'−λ*' if sign < 0 else 'λ*'} = {slope:.4g}"
    ax.plot([level], [value], "o", color=INK, ms=6, zorder=5, label=said.replace("= -", "= −"))
    ax.margins(x=0.04, y=0.16)
    number = f"$_{index + 1}$" if len(point.multipliers) > 1 else ""
    ax.set(xlabel=f"level b{number} ({level_unit(point.problem)})", ylabel="cost (nats)")
    _legend_below(ax)
    return ax


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


def contour_levels(density: Array, cell: float, enclosed: Sequence[float] = ENCLOSED) -> list[float]:
    """Density values whose superlevel sets hold the given masses, increasing; cell : area of a pixel."""
    values = np.sort(density.ravel())[::-1]
    mass = np.cumsum(values) * cell
    places = np.searchsorted(mass / mass[-1], sorted(enclosed, reverse=True))
    return [float(values[place]) for place in places]


def _legend_below(ax: Any, **settings: Any) -> None:
    """A legend 34 points below the axes, however short they are: clear of the label, and of all data."""
    from matplotlib.transforms import ScaledTranslation

    below = ax.transAxes + ScaledTranslation(0, -34 / 72, ax.figure.dpi_scale_trans)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, **settings)


def _along(answer: ToySolution, best: Array, index: int, value: float) -> float:
    moved = best.copy()
    moved[index] = value
    return dual_value(answer.solution.problem, answer.ratios, moved)
