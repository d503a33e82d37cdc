"""
Solving from 500 draws
======================

A model gives draws, not densities. How much does the answer lose?
"""

# %%
# One answer, with its standard errors
# ------------------------------------
# 500 draws of the worked mixture, log ratios at them, and nothing else.

import warnings

import numpy as np

import duality as du
import toy
from toy import plots

example = toy.example("worked")
generator = np.random.default_rng(1)
exact = [
    du.solve(one, toy.log_ratios(example.pretrained, example.unlearn, priors=example.priors))
    for one in example.problems
]


def drawn(n: int) -> du.LogRatios:
    """Log ratios at n fresh draws of q."""
    nodes = toy.draws(example.pretrained, n, generator)
    return toy.log_ratios(example.pretrained, example.unlearn, nodes=nodes, priors=example.priors)


ratios = drawn(500)
for problem, truth in zip(example.problems, exact, strict=True):
    print(du.solve(problem, ratios))
    print(f"on a grid: multiplier {truth.multipliers[0]:.6f}, cost {truth.primal:.6f}\n")

# %%
# How it scatters
# ---------------
# Repeat 200 times for several numbers of draws. Multipliers scatter by about the reported standard error, which falls
# with the square root of the number of draws. Reverse KL scatters most: its weights are not bounded, and the tail of
# the log ratio decides.

sizes = np.array([125, 250, 500, 1000, 2000, 4000])
names = [plots.problem_name(problem) for problem in example.problems]
spread, reported, warned = np.zeros((3, len(sizes))), np.zeros((3, len(sizes))), np.zeros((3, len(sizes)))
clouds = []
for column, n in enumerate(sizes):
    found, said = np.zeros((200, 3)), np.zeros((200, 3))
    for repetition in range(200):
        ratios = drawn(int(n))
        for kind, problem in enumerate(example.problems):
            with warnings.catch_warnings(record=True) as caught:  # counted here, shown below
                warnings.simplefilter("always", du.FewDrawsWarning)
                answer = du.solve(problem, ratios)
            warned[kind, column] += len(caught) / 200
            found[repetition, kind] = answer.multipliers[0] / exact[kind].multipliers[0] - 1
            said[repetition, kind] = answer.multipliers_stderr[0] / exact[kind].multipliers[0]
    spread[:, column], reported[:, column] = found.std(axis=0), np.median(said, axis=0)
    if n == 500:
        clouds = [found[:, kind] for kind in range(3)]

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.0), layout="constrained")
    for kind, name in enumerate(names):
        left.loglog(sizes, 100 * spread[kind], "o", color=plots.CYCLE[kind], label=name)
        left.loglog(sizes, 100 * reported[kind], color=plots.CYCLE[kind], ls=plots.DASHES[kind])
    left.plot([], [], color=plots.INK, label="standard error, as reported")
    left.plot([], [], "o", color=plots.INK, label="scatter over 200 repetitions")
    left.set(xlabel="draws of q", ylabel="multiplier, relative error (%)", title="Reported and actual scatter")
    left.set_xticks(sizes, [str(n) for n in sizes])
    left.set_xticks([], minor=True)
    left.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    left.set_yticks([], minor=True)
    left.set_ylim(0.3, 60)
    left.legend(fontsize=8, loc="upper right", ncols=2)
    right.boxplot([100 * cloud for cloud in clouds], widths=0.5, medianprops={"color": plots.UNWANTED})
    right.axhline(0, color=plots.GREY, lw=0.9)
    right.set_xticklabels([name.split("(")[1].rstrip(")") for name in names])
    right.set(ylabel="multiplier, relative error (%)", title="500 draws, 200 repetitions")

for kind, name in enumerate(names):
    print(f"{name:<24} relative standard deviation at 500 draws {100 * spread[kind, 2]:.1f} %")

# %%
# Few draws are announced
# -----------------------
# An answer that rests on the equivalent of fewer than a hundred draws comes with a warning that says on how many.

print("share of the repetitions above that warned:")
for kind, name in enumerate(names):
    print(f"{name:<28}" + "".join(f"{n:>7}: {share:4.0%}" for n, share in zip(sizes, warned[kind], strict=True)))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    du.solve(du.ReverseKL(60.0), drawn(500))
print(caught[0].message)
