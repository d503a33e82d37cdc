"""
Beyond the critical level
=========================

Forward KL can be asked for any level, and beyond a critical one no density attains the answer. What happens there?
"""

# %%
# The frontier has a kink that is not there
# -----------------------------------------
# Two modes that overlap, the first of which makes up 35 % and has to go. The cost rises, ever more steeply, until at
# the critical level as much of the first mode has been subtracted as can be: the multiplier is 0.3514, the least
# value of q/q_1. (That is a little more than 0.35, because the mode that stays is the wider one and covers the other
# everywhere. For equal widths it would be the share itself, and the limit exact forgetting.) From there on the curve
# is a straight line. The straight part is the value of the problem, and strong duality holds on it, but no density
# has that cost and that level.

import numpy as np

import duality as du
import toy
from toy import plots

example = toy.example("overlapping")
ratios = toy.log_ratios(example.pretrained, example.unlearn, priors=example.priors)
levels = np.linspace(0.4, 4.0, 73)
curve = du.frontier(du.ForwardKL(1.0), ratios, levels)
beyond = du.solve(du.ForwardKL(4.0), ratios)
critical = float(beyond.critical_levels[0])
print(beyond)
print(f"critical level on this grid {critical:.3f} nats")

ax = plots.plot_frontier(curve, mark=12, ax=plots.new_axes(6.4, 3.8))
ax.axvline(critical, color=plots.GREY, lw=1.0, ls=":")
ax.text(critical + 0.06, 0.18, f"critical level {critical:.2f}", fontsize=9)
ax.set_title("Forward KL: cost against level", **plots.TITLE)

# %%
# Minimising sequences dig
# ------------------------
# Take the limit density and lower it, by just enough to meet a level one nat above the critical one, on ever smaller
# parts of the unwanted mode. Every such density is feasible, its cost tends to the value from above, and it tends to
# the limit density: the missing level is bought by a hole that holds next to nothing.

log_p = np.asarray(beyond.log_weights)
under = np.exp(ratios.log_weights + ratios.values[:, 0])
order = np.argsort(-ratios.values[:, 0], kind="stable")
goal = critical + 1.0
value = du.solve(du.ForwardKL(goal), ratios).dual
shares, costs, distances = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005]), [], []
for share in shares:
    hole = order[np.cumsum(under[order]) <= share]
    lowered = log_p.copy()
    lowered[hole] -= (goal - critical - np.log1p(-np.exp(log_p[hole]).sum())) / under[hole].sum()
    lowered -= np.log(np.exp(lowered).sum())
    costs.append(float(np.exp(ratios.log_weights) @ (ratios.log_weights - lowered)))
    distances.append(0.5 * float(np.abs(np.exp(lowered) - np.exp(log_p)).sum()))

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    left.semilogx(shares, costs, "o-", color=plots.TARGET, label="cost of the lowered density")
    left.axhline(value, color=plots.INK, ls="--", lw=1.2, label="value (dual optimum)")
    left.set(
        xlabel="share of the unwanted mode that is lowered",
        ylabel="cost (nats)",
        title="The cost tends to the value ...",
    )
    left.legend()
    right.loglog(shares, distances, "o-", color=plots.TARGET)
    right.set(
        xlabel="share of the unwanted mode that is lowered",
        ylabel="total variation to the limit",
        title="... and the density to the limit density",
    )

# %%
# What the solver says
# --------------------
# A grid is a finite set, and on it the missing level could be had formally, by driving one node to zero. The solver
# does not: it stops where nodes cannot be told from their limit, reports ``attained=False``, and says what the limit
# density reaches. Ask for the critical level at most; beyond, one pays without getting anything.

print(f"asked {beyond.problem.levels[0]:g}, attained: {beyond.attained}, reached {beyond.critical_levels[0]:.2f} nats,")
print(f"multiplier {beyond.multipliers[0]:.6f}, the share of the concept in q {example.priors[0]}")
