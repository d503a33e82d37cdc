"""
Weights against levels
======================

Most methods expose a *weight*: how hard to push against the unwanted. Two questions about that practice have exact
answers here. Is a weight as good as a level? And may several concepts share one?
"""

# %%
# One concept: every weight is some level
# ---------------------------------------
# Sweep the multiplier of the likelihood problem by hand, and separately solve for levels. The points of the sweep lie
# on the curve of the solved levels: a tilt is optimal for the level that it reaches. With one constraint a sweep walks
# along the frontier; what it does not know is where on it a given promise lies.

import numpy as np
from scipy.optimize import brentq

import duality as du
import toy
from toy import plots, studies

example = toy.example("overlapping")
ratios = toy.log_ratios(example.pretrained, example.unlearn, priors=example.priors)
problem = du.Likelihood(0.1)
levels = np.geomspace(0.3, 0.005, 40)
solved = du.frontier(problem, ratios, levels)
weights = np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0])
swept = du.fixed_weights(problem, ratios, weights)

ax = studies.plot_weights(solved, swept, weights)
ax.set_title("Fixed weights lie on the frontier", **plots.TITLE)

# %%
# Three concepts: one weight for all is off it
# --------------------------------------------
# Three modes of six are to go, each to its own share. Find the smallest *equal* weight at which all three promises are
# kept. Some are then kept far beyond what was asked, and that is paid for.

example = toy.example("several")
ratios = toy.log_ratios(example.pretrained, example.unlearn, priors=example.priors)
asked = np.array([0.002, 0.05, 0.15])


def worst_miss(weight: float) -> float:
    """The largest miss of a promise, positive where one is broken."""
    ((_, reached),) = du.fixed_weights(du.Likelihood(asked), ratios, [weight])
    return float((reached - asked).max())


weight = brentq(worst_miss, 0.1, 50.0)
((equal_cost, equal_levels),) = du.fixed_weights(du.Likelihood(asked), ratios, [weight])
best = du.solve(du.Likelihood(asked), ratios)

print(f"{'':<16}{'concept 1':>11}{'concept 2':>11}{'concept 3':>11}{'cost (nats)':>13}")
print(f"{'asked':<16}" + "".join(f"{one:>11.4g}" for one in asked))
print(f"{'equal weights':<16}" + "".join(f"{one:>11.4g}" for one in equal_levels) + f"{equal_cost:>13.4f}")
print(f"{'solved':<16}" + "".join(f"{one:>11.4g}" for one in best.levels) + f"{best.primal:>13.4f}")
print(f"multipliers: equal {weight:.3f}, solved {np.array2string(best.multipliers, precision=3)}")

ax = studies.plot_equal_weights(best, equal_cost, equal_levels)
ax.set_title("The same promises, kept in two ways", **plots.TITLE)
