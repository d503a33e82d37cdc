"""
Three problems on one mixture
=============================

The same density, the same unwanted part, three readings of "gone". The unwanted component (orange) sits on the
shoulder of one that must stay, so that removal and retention pull at the same points.
"""

# %%
# Solve
# -----
# Levels are in the unit of each problem: nats, nats, and a probability. To compare like with like we choose them so
# that the target shows the concept in 15 % of its draws in every case; before, it is 35 %. (Forward KL cannot go
# below 13 % here: even without the orange component some of what is left looks orange, because the modes overlap.)

import numpy as np
from scipy.optimize import brentq

import duality as du
import toy
from toy import plots

example = toy.example("overlapping")
ratios = toy.log_ratios(example.pretrained, example.unlearn, priors=example.priors)
posterior = example.priors[0] * np.exp(ratios.values[:, 0])


def share(problem: du.Problem) -> float:
    """The share of the target that shows the concept."""
    return float(np.exp(du.solve(problem, ratios).log_weights) @ posterior)


reverse = brentq(lambda b: share(du.ReverseKL(b)) - 0.15, 3.0, 30.0, xtol=1e-6)
forward = brentq(lambda b: share(du.ForwardKL(b)) - 0.15, 1.0, 2.2, xtol=1e-6)
problems = [du.ReverseKL(reverse), du.ForwardKL(forward), du.Likelihood(0.15)]
answers = [toy.solve(one, example.pretrained, example.unlearn, priors=example.priors) for one in problems]

for answer in answers:
    print(answer.solution, "\n")

# %%
# Look
# ----
# Contours enclose 50, 80 and 95 % of each density.
#
# Reverse KL asks for distance, and gets it by moving everything away from the orange density, also what never looked
# like it. Forward KL subtracts a share of the orange density and rescales. The likelihood problem weights points down
# by how likely they are to show the concept, and leaves the others where they were.

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.1), layout="constrained", sharex=True, sharey=True)
    for ax, answer in zip(axes, answers, strict=True):
        plots.plot_densities(answer, ax)
        ax.set_title(plots.problem_name(answer.solution.problem))
        if ax is not axes[1]:
            ax.get_legend().remove()

# %%
# The price of removal
# --------------------
# At the same share of the concept, the three pay differently. RU and LU count the cost as :math:`\mathrm{KL}(p\|q)`, FU
# as :math:`\mathrm{KL}(q\|p)`; to compare, here are both for every target. LU is the cheapest in its own measure, as it
# must be: among all densities with this mean posterior it is the closest. The same holds for FU only among densities at
# the same *level*.

print(f"{'':<28}{'KL(p|q)':>10}{'KL(q|p)':>10}")
for problem in problems:
    log_p = np.asarray(du.solve(problem, ratios).log_weights)
    there = float(np.exp(log_p) @ (log_p - ratios.log_weights))
    back = float(np.exp(ratios.log_weights) @ (ratios.log_weights - log_p))
    print(f"{plots.problem_name(problem):<28}{there:>10.4f}{back:>10.4f}")
