"""
Three Gaussians, as in the paper
================================

The paper shows its three formulations on a mixture of three Gaussians, and compares solved multipliers with equal
weights where several concepts must go. On densities both are exact: no network, no samples, a certificate for each
answer. The rest of its experiments, point by point: :doc:`/paper`.
"""

# %%
# One component must go
# ---------------------
# Each problem has a closed form: a product, a difference, a tilt. The gap of each solution is what is left between the
# cost of the target shown and the least cost of any density whatever.

import numpy as np
from scipy.optimize import brentq

import duality as du
import toy
from toy import plots

example = toy.example("worked")
answers = [
    toy.solve(problem, example.pretrained, example.unlearn, priors=example.priors) for problem in example.problems
]
for answer in answers:
    print(answer.solution, "\n")

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.1), layout="constrained", sharex=True, sharey=True)
    for ax, answer in zip(axes, answers, strict=True):
        plots.plot_densities(answer, ax)
        ax.set_title(plots.problem_name(answer.solution.problem))
        if ax is not axes[1]:
            ax.get_legend().remove()

# %%
# Two components must go: solved multipliers against equal weights
# ----------------------------------------------------------------
# Two of three components must go, one of them to twice its present distance in nats and the other to 1.2 times. Let
# them be more or less alike: their similarity is the Bhattacharyya coefficient, 1 where they coincide. One weight for
# both has to be as large as the harder promise needs.
#
# The second promise is then kept 1.67 times over, however alike the two are: the components have equal
# shares and shapes, so that equal weights move both by equal parts. What *differs* is the price. Alike, the second is
# pushed along with the first in any case, and a solved multiplier of zero says so. Apart, each must be moved on its
# own, and one weight for both costs twice what is needed.

spread = 0.5
distances = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0])
similarity = np.exp(-(distances**2) / (8 * spread))
found = []
print(f"{'similarity':>10}{'multipliers':>18}{'cost':>9}{'equal weight':>14}{'its cost':>10}{'deviation':>11}")
for alike, distance in zip(similarity, distances, strict=True):
    means = [[-distance / 2, -1.0], [distance / 2, -1.0], [0.0, 1.5]]
    q = toy.GaussianMixture([0.3, 0.3, 0.4], means, spread)
    ratios = toy.log_ratios(q, (q.component(0), q.component(1)), priors=(0.3, 0.3))
    present = du.ReverseKL([0.0, 0.0]).levels_of(ratios, ratios.log_weights)
    problem = du.ReverseKL(present * np.array([2.0, 1.2]))
    best = du.solve(problem, ratios)

    def missing(weight: float, problem: du.Problem = problem, ratios: du.LogRatios = ratios) -> float:
        """The largest miss of a promise, in nats; positive where one is broken."""
        ((_, reached),) = du.fixed_weights(problem, ratios, [weight])
        return float((problem.levels - reached).max())

    weight = brentq(missing, 1e-6, 0.49)
    ((cost, reached),) = du.fixed_weights(problem, ratios, [weight])
    deviation = float((reached / problem.levels).max() - 1)
    found.append((best.primal, cost, deviation))
    own = np.array2string(best.multipliers, precision=3, floatmode="fixed")
    print(f"{alike:>10.3f}{own:>18}{best.primal:>9.4f}{weight:>14.4f}{cost:>10.4f}{deviation:>11.1%}")

# %%
# Both promises are kept at every point; what lies between the curves is paid for nothing.

solved, equal, _ = np.array(found).T
with plt.rc_context(plots.STYLE):
    ax = plots.new_axes()
    ax.plot(similarity, solved, "o-", color=plots.TARGET, label="solved multipliers")
    ax.plot(similarity, equal, "s--", color=plots.UNWANTED, label="one weight for both")
    ax.set(xlabel="similarity of the two concepts", ylabel="cost (nats)", ylim=(0, None))
    ax.set_title("The same two promises, kept in two ways", **plots.TITLE)
    plots.legend_below(ax, ncols=2)
