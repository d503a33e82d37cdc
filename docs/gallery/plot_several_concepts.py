"""
Several concepts
================

Each concept has its own level, and so its own multiplier. What does a level for one cost the other, and what is lost by
one weight for all?
"""

# %%
# Two concepts that share a border
# --------------------------------
# Five modes, two of which have to go. They overlap, so that pushing away from one pushes away from the other, and a
# third mode, which must stay, leans against the first. Both targets below promise 12 nats for one concept and less for
# the other.

import numpy as np
from scipy.optimize import brentq

import duality as du
import toy
from toy import plots

means = [[-1.2, 0.0], [0.9, 0.6], [-2.6, 1.9], [2.6, -2.2], [2.9, 2.6]]
q = toy.GaussianMixture([0.2, 0.2, 0.2, 0.2, 0.2], means, [0.6, 0.6, 0.6, 0.5, 0.5])
concepts = (q.component(0), q.component(1))
priors = np.array([0.2, 0.2])
ratios = toy.log_ratios(q, concepts, priors=priors)
now = du.ReverseKL([0.0, 0.0]).levels_of(ratios, ratios.log_weights)
print(f"before: {now[0]:.2f} nats from the first concept, {now[1]:.2f} from the second")

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 5.2), layout="constrained")
    for ax, levels in zip(axes, ([12.0, 6.5], [8.5, 12.0]), strict=True):
        answer = toy.solve(du.ReverseKL(levels), q, concepts, priors=priors)
        print(answer.solution)
        plots.plot_densities(answer, ax)
        ax.set_title(f"RU, at least {levels[0]:g} and {levels[1]:g} nats")

# %%
# The second time the first multiplier is zero: what is done for the second concept is enough for both. Two constraints
# are not twice the work of one, and nobody could have told which of them would matter.
#
# The price of every pair of levels
# ---------------------------------
# The least cost is a convex function of both levels; its gradient are the multipliers. In the shaded regions one of
# them is zero. The black line is all that *equal weights* can reach, from doing nothing upwards. A pair of promises off
# that line is kept by equal weights only with more than was asked, and the picture on the right says what this costs.

first, second = np.linspace(7.0, 16.0, 25), np.linspace(4.5, 13.0, 25)
pairs = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
solved = [du.frontier(du.ReverseKL([0.0, 0.0]), ratios, row) for row in pairs]
cost = np.array([[one.dual for one in row] for row in solved])

weights = np.concatenate([[0.0], np.geomspace(1e-4, 0.25, 120)])
swept = du.fixed_weights(du.ReverseKL([0.0, 0.0]), ratios, np.column_stack([weights, weights]))
equal_cost, equal_levels = np.array([one for one, _ in swept]), np.array([levels for _, levels in swept])
# The least equal weight that keeps a pair is the larger of those that keep one of the two.
needed = np.maximum(
    np.interp(first, equal_levels[:, 0], equal_cost)[:, None], np.interp(second, equal_levels[:, 1], equal_cost)[None]
)

# Where only one multiplier is positive the other concept gets a level for nothing: the border of its region.
alone = [
    np.array([levels for _, levels in du.fixed_weights(du.ReverseKL([0.0, 0.0]), ratios, np.outer(weights, only))])
    for only in ([0.0, 1.0], [1.0, 0.0])
]

steps = [0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.8), layout="constrained", sharex=True, sharey=True)
    axes[0].fill_betweenx(alone[0][:, 1], 0, alone[0][:, 0], color=plots.GREY, alpha=0.25, lw=0)
    axes[0].fill_between(alone[1][:, 0], 0, alone[1][:, 1], color=plots.THIRD, alpha=0.25, lw=0)
    for place, name in (
        ((7.2, 10.9), "first multiplier 0:\nit comes for nothing"),
        ((11.2, 4.9), "second multiplier 0"),
    ):
        axes[0].text(*place, name, fontsize=9, color=plots.INK, bbox={"fc": "white", "ec": "none", "alpha": 0.85})
    for ax, values in zip(axes, (cost, needed - cost), strict=True):
        ax.set(xlim=(7, 16), ylim=(4.5, 13), xlabel="level of the first concept (nats)")
        lines = ax.contour(first, second, values.T, levels=steps, colors=plots.TARGET, linewidths=1.3)
        ax.clabel(lines, fmt="%g", fontsize=8.5)
        ax.plot(equal_levels[:, 0], equal_levels[:, 1], color=plots.INK, lw=2, label="equal weights")
    axes[0].set(title="Least cost (nats)", ylabel="level of the second concept (nats)")
    axes[1].set_title("What equal weights cost beyond it (nats)")
    axes[1].legend(loc="lower right")

# %%
# A promise off the line
# ----------------------
# Nine and nine nats, in numbers; and the same in the language of shares, where the second concept may stay at 10 % and
# the first must fall to 1 %.


def table(problem: du.Problem, high: float) -> None:
    """Solved multipliers against the least equal weight, below ``high``, that keeps all levels."""
    best = du.solve(problem, ratios)

    def margin(weight: float) -> float:
        ((_, reached),) = du.fixed_weights(problem, ratios, [weight])
        return float((problem.direction * (reached - problem.levels)).min())

    weight = brentq(margin, 1e-6, high)
    ((paid, reached),) = du.fixed_weights(problem, ratios, [weight])
    print(f"{plots.problem_name(problem)}, asked {problem.levels}")
    for name, lam, levels, price in (
        ("solved", best.multipliers, best.levels, best.primal),
        ("equal weights", np.full(2, weight), reached, paid),
    ):
        numbers = np.array2string(lam, precision=4), np.array2string(levels, precision=4)
        print(f"  {name:<14} multipliers {numbers[0]:<20} levels {numbers[1]:<20} cost {price:.4f} nats")


table(du.ReverseKL([9.0, 9.0]), 0.3)
table(du.Likelihood([0.01, 0.1], priors=priors), 50.0)
