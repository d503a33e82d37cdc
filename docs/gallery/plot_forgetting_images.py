"""
Forgetting images
=================

Data unlearning on the smallest stage: the space is the data set, a density is a list of probabilities, and an image
is forgotten when it is surprising enough. Everything can be seen, and the answer is a water level.
"""

# %%
# Twelve images, four to be forgotten
# -----------------------------------
# Some images occur several times. Four of them are to be forgotten: each is to be as unlikely as an image that
# occurs with probability :math:`e^{-b}`. With one point mass for each forgotten image this is forward KL with four
# constraints.

import numpy as np

import duality as du
from duality.primal_dual import Ascent, ExactPlayer, PrimalDual
from toy import plots

repeats = np.array([12, 6, 3, 1, 8, 6, 5, 4, 4, 3, 2, 2])
pi = repeats / repeats.sum()
forgotten = np.array([0, 1, 2, 3])
levels = np.array([4.5, 4.5, 4.5, 4.0])

values = np.full((len(pi), len(forgotten)), -np.inf)
values[forgotten, np.arange(4)] = -np.log(pi[forgotten])
ratios = du.LogRatios(values, np.log(pi))
solution = du.solve(du.ForwardKL(levels), ratios)
target = np.exp(solution.log_weights)
print(solution)

# %%
# Water-filling
# -------------
# The closed form pours probability into all images in proportion to what they had, up to a lid at :math:`e^{-b}` on
# those to be forgotten. The first three are under their lid. The fourth occurs once; its lid lies just above its
# share, and it is the mass handed on by the others that lifts it there: constraints that are inactive alone can
# become active in company.

lids = np.full(len(pi), np.inf)
lids[forgotten] = np.exp(-levels)
low, high = 1.0, 100.0
for _ in range(200):
    level = 0.5 * (low + high)
    low, high = (level, high) if np.minimum(lids, level * pi).sum() < 1 else (low, level)
poured = np.minimum(lids, level * pi)
print(f"largest difference from the solver {np.abs(poured - target).max():.1e}, water level {level:.4f} = 1/(1 - L)")

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9), layout="constrained", width_ratios=(2, 1))
    place = np.arange(len(pi))
    left.bar(place - 0.2, pi, 0.38, color=plots.PRETRAINED, label="q, pretrained")
    left.bar(place + 0.2, target, 0.38, color=plots.TARGET, label="p*, target")
    for k in forgotten:
        left.plot([k - 0.42, k + 0.42], [lids[k]] * 2, color=plots.UNWANTED, lw=2.2)
    left.plot([], [], color=plots.UNWANTED, lw=2.2, label="lid e$^{-b}$ (to be forgotten)")
    left.set_xticks(place, [f"×{n}" for n in repeats])
    left.set(xlabel="images, with how often each occurs", ylabel="probability", title="Before and after")
    left.legend()
    right.plot(pi[forgotten], solution.multipliers, "o", color=plots.TARGET)
    right.plot([0, pi.max()], [0, pi.max()], color=plots.GREY, lw=1.0, ls="--", label="its share of q")
    for k, lam in zip(forgotten, solution.multipliers, strict=True):
        right.annotate(f"×{repeats[k]}", (pi[k], lam), xytext=(7, -9), textcoords="offset points", fontsize=9)
    right.set(xlabel="share of q", ylabel="multiplier", title="Seen more often, harder to forget")
    right.legend(loc="upper left")

# %%
# The alternating algorithm finds it too
# --------------------------------------
# In a network the same constraints are met by alternating a step on the weights with a step on the multipliers. With
# a player that answers exactly, the multipliers go to those of the solver; started from them, they stay.

problem = du.ForwardKL(levels)
path = PrimalDual(problem, ExactPlayer(problem, ratios), Ascent(0.01)).run(40)
with plt.rc_context(plots.STYLE):
    figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for i in range(4):
        ax.plot(
            path.multipliers[:, i], color=plots.CYCLE[i], ls=plots.DASHES[i], label=f"image ×{repeats[forgotten[i]]}"
        )
        ax.axhline(solution.multipliers[i], color=plots.GREY, lw=0.8)
    ax.set(xlabel="round", ylabel="multiplier", title="From zero to the solution")
    ax.legend(loc="center right", bbox_to_anchor=(1.0, 0.68))
print(f"largest difference after 40 rounds {np.abs(path.multipliers[-1] - solution.multipliers).max():.1e}")
