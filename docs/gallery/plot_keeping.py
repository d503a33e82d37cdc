"""
What keeping costs
==================

Where a concept goes, its neighbours go with it. How much of a neighbour can be kept, what does it cost, and when is it
too much to ask?
"""

# %%
# A neighbour in the way
# ----------------------
# The unwanted mode is broad, and a narrow neighbour stands on its slope. Leaving two per cent of the first takes two
# fifths of the second, although nobody asked for that. A keep-constraint asks for the opposite: the neighbour's mean
# posterior is to stay at least where it was.

import numpy as np
from scipy.spatial import ConvexHull

import duality as du
import toy
from toy import plots

names = ["unwanted", "neighbour", "second neighbour", "far away"]
shares = np.array([0.35, 0.25, 0.2, 0.2])
means = [[0.0, 0.0], [1.7, 0.6], [-1.9, -1.3], [4.6, 2.4]]
q = toy.GaussianMixture(shares, means, [1.0, 0.3, 0.35, 0.5])
modes = tuple(q.component(k) for k in range(4))
ratios = toy.log_ratios(q, modes, nodes=81, priors=shares)
level = 0.02


def constraints(*levels: float) -> du.Joint:
    """At most levels[0] of the unwanted, at least levels[1:] of the neighbours, in their order."""
    kept = len(levels) - 1
    parts = [du.Likelihood(levels[0]), *([du.Keep(list(levels[1:]), kind="posterior")] if kept else [])]
    return du.Joint(parts, columns=[[0], list(range(1, 1 + kept))][: len(parts)])


def mean_posteriors(solution: du.Solution) -> np.ndarray:
    """E_p[Pr(k|x)] of all modes."""
    return np.exp(solution.log_weights) @ (shares * np.exp(ratios.values))


free = du.solve(constraints(level), ratios)
held = du.solve(constraints(level, shares[1], shares[2]), ratios)
print(f"{'':<18}{'before':>8}{'unlearned':>11}{'neighbours kept':>17}")
for name, before, one, other in zip(names, shares, mean_posteriors(free), mean_posteriors(held), strict=True):
    print(f"{name:<18}{before:8.3f}{one:11.3f}{other:17.3f}")
print(f"cost (nats){free.primal:26.4f}{held.primal:17.4f}")
print(f"multipliers {np.round(free.multipliers, 3)} and {np.round(held.multipliers, 3)}")

# %%
# The multiplier of a neighbour is the price of keeping it: so many nats for each unit of its share. That of the
# unwanted concept rises as well, since what is kept stands in its way.

plt = plots.pyplot()
axes = tuple(np.linspace(low, high, 161) for low, high in ((-4.6, 6.4), (-4.6, 4.6)))
points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
area = float(np.prod([axis[1] - axis[0] for axis in axes]))
base = np.exp(q.log_prob(points))
rho = np.stack([toy.log_ratio(q, mode, points) for mode in modes], axis=-1)
shades = ["#ececec", "#dadada", "#c4c4c4"]
with plt.rc_context(plots.STYLE):
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained", width_ratios=[1, 1, 0.9])
    for ax, solution, columns, title in zip(
        panels, (free, held), ([0], [0, 1, 2]), ("2 % left", "2 % left, neighbours kept"), strict=False
    ):
        target = base * np.exp(solution.log_weight(rho[..., columns]))
        target /= target.sum() * area
        ax.contourf(*axes, base.T, levels=[*plots.contour_levels(base, area), float(base.max())], colors=shades)
        unwanted = np.exp(modes[0].log_prob(points))
        for density, colour, dash in ((unwanted, plots.UNWANTED, "--"), (target, plots.TARGET, "-")):
            ax.contour(*axes, density.T, levels=plots.contour_levels(density, area), colors=colour, linestyles=[dash])
        ax.set_aspect("equal")
        ax.set(title=f"{title}: {solution.primal:.3f} nats", xlabel="x$_1$", ylabel="x$_2$")
    places = np.arange(4)
    for shift, values, colour, label in (
        (-0.26, shares, plots.PRETRAINED, "q, before"),
        (0.0, mean_posteriors(free), plots.TARGET, "unlearned"),
        (0.26, mean_posteriors(held), plots.SECOND, "unlearned, neighbours kept"),
    ):
        panels[2].bar(places + shift, 100 * values, 0.24, color=colour, label=label)
    panels[2].set_xticks(places, ["unwanted", "neighbour", "second", "far away"])
    panels[2].grid(axis="x", visible=False)
    panels[2].set(title="Share of each mode (%)", ylim=(0, 100 * mean_posteriors(free)[3] * 1.05))
    panels[2].legend(loc="upper center", bbox_to_anchor=(0.5, -0.1))

# %%
# The trade-off
# -------------
# The least cost against how much of the neighbour is kept, at three levels for the unwanted concept. Up to what
# unlearning leaves of it anyway it is kept for nothing. From there on the curve rises, with the multiplier as its
# slope, until no density keeps so much.

kept = np.linspace(0.02, 0.98, 41)
curves = {}
for asked in (0.01, 0.02, 0.05):
    costs, prices = np.full(kept.shape, np.nan), np.full(kept.shape, np.nan)
    for k, share in enumerate(kept):
        try:
            found = du.solve(constraints(asked, share), ratios)
        except du.InfeasibleError:
            break
        costs[k], prices[k] = found.dual, found.multipliers[1]
    curves[asked] = costs, prices
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.0), layout="constrained")
    for (asked, (costs, prices)), colour, dash in zip(curves.items(), plots.CYCLE, plots.DASHES, strict=False):
        label = f"{100 * asked:g} % of the unwanted"
        left.plot(100 * kept, costs, color=colour, ls=dash, label=label)
        right.plot(100 * kept, prices / 100, color=colour, ls=dash)
    for ax in (left, right):
        ax.axvline(100 * shares[1], color=plots.GREY, ls=":", lw=1.4, label="what q has")
        ax.set(xlabel="share of the neighbour that is kept, at least (%)", xlim=(0, 100))
    left.set(title="Least cost (nats)", ylim=(0, 3.2))
    right.set(title="Price of one per cent more (nats)", ylim=(0, 0.3))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)

# %%
# The infeasible corner
# ---------------------
# Wherever the neighbour is, the broad mode is as well: at its best place Pr(neighbour|x) is some way below 1, and what
# is left of the posterior there is the unwanted concept's. So small levels for one and large ones for the other exclude
# each other. The error gives the nearest levels that can just be had, the same fraction of the way back to what q has
# for both (the arrow), and names the constraints that conflict where not all of them do.

asked = np.array([0.005, 0.7])
try:
    du.solve(constraints(*asked), ratios)
except du.InfeasibleError as error:
    print(error)
    nearest = error.least
# A third constraint is not blamed for what two others exclude.
try:
    du.solve(constraints(0.1, 0.6, 0.5), ratios)
except du.InfeasibleError as error:
    print(error)
    print("positions of the constraints that conflict:", error.conflict)

# What can be had of both is the convex hull of (Pr(unwanted|x), Pr(neighbour|x)) over all x: its upper edge is the
# border.
posteriors = (shares * np.exp(ratios.values))[:, :2]
hull = posteriors[ConvexHull(posteriors).vertices]
edge = hull[np.argsort(hull[:, 0])]
edge = edge[[one[1] >= edge[edge[:, 0] <= one[0], 1].max() for one in edge]]
unwanted = np.geomspace(1e-3, 0.3, 25)
most = np.interp(unwanted, *edge.T)
least = np.array([mean_posteriors(du.solve(constraints(b), ratios))[1] for b in unwanted])

table = np.linspace(0.02, 0.995, 21) * most[:, None]
cost = np.array(
    [[du.solve(constraints(b, c), ratios).dual for c in row] for b, row in zip(unwanted, table, strict=True)]
)
with plt.rc_context(plots.STYLE):
    figure, ax = plt.subplots(figsize=(7.6, 5.0), layout="constrained")
    ax.grid(False)
    ax.set_xscale("log")
    across = np.repeat(unwanted[:, None], table.shape[1], axis=1)
    steps = [0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.6, 2.0, 3.0]
    lines = ax.contour(100 * across, 100 * table, cost, levels=steps, colors=plots.TARGET, linewidths=1.3)
    ax.clabel(lines, fmt="%g", fontsize=8.5)
    ax.fill_between(100 * unwanted, 0, 100 * least, color=plots.GREY, alpha=0.25, lw=0)
    fine = np.geomspace(1e-3, 0.3, 400)
    border = 100 * np.interp(fine, *edge.T)
    ax.fill_between(100 * fine, border, 100, color="#f6dccb", lw=0)
    ax.plot(100 * fine, border, color=plots.UNWANTED, lw=1.6)
    arrow = {"arrowstyle": "->", "color": plots.INK, "lw": 1.4}
    ax.annotate("", xy=100 * nearest, xytext=100 * asked, arrowprops=arrow)
    ax.plot(*(100 * asked), "x", color=plots.INK, ms=8, mew=2)
    words = {"fontsize": 9, "color": plots.INK, "transform": ax.transAxes}
    white = {"fc": "#e4e4e4", "ec": "none", "pad": 1.5}
    ax.text(0.03, 0.94, "infeasible: the two conflict", **words)
    ax.text(0.97, 0.04, "kept for nothing: multiplier 0", ha="right", bbox=white, **words)
    ax.set(xlabel="unwanted, at most (%)", ylabel="neighbour kept, at least (%)", title="Least cost (nats)")
    ax.set(xlim=(0.1, 30), ylim=(0, 100))
