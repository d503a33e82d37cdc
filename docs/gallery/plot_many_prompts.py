"""
Laws under many prompts
=======================

A model has a law under every prompt, and a level is a promise about what people ask. Promise it for all prompts
together, or for each? And what goes wrong if one forgets that there are prompts?
"""

# %%
# Five prompts
# ------------
# Four modes in the plane, of which the first shows what must go. How often it does depends on the prompt: almost always
# where it is asked for by name, never to speak of where something else is.

import numpy as np

import duality as du
import toy
from toy import plots

names = ["by name", "described", "related", "neighbour", "other"]
asked = np.array([0.05, 0.15, 0.30, 0.25, 0.25])
weights = [
    [0.85, 0.09, 0.03, 0.03],
    [0.40, 0.40, 0.10, 0.10],
    [0.12, 0.30, 0.38, 0.20],
    [0.02, 0.58, 0.20, 0.20],
    [0.001, 0.099, 0.40, 0.50],
]
q = toy.PromptedMixture(weights, [[-1.8, 0.0], [0.3, 0.7], [2.6, -1.2], [1.6, 2.9]], [0.6, 0.6, 0.5, 0.5], asked)
nodes = q.nodes(81)
ratios = q.log_ratios([0], nodes)
priors = q.priors(0)
level = 0.01
print(f"shown before, of a hundred answers: {100 * asked @ priors:.1f}; by prompt {100 * priors}")

# %%
# Three promises
# --------------
# *One level for what is asked*: E over prompts of E_p[l] is at most 1 %. One multiplier, and a normaliser for each
# prompt. *A level for each prompt*: five constraints, five multipliers. *The pooled law*: prompts are forgotten, and
# the mixture of all answers is tilted with one normaliser. That is the cheapest by far, as it may also ask less often
# what shows the concept; but nobody who serves a model chooses what it is asked. The last line is what becomes of the
# pooled multiplier once every prompt has to be answered.

shared = toy.solve_prompted(du.Likelihood(level, kind="detector"), q, [0], nodes)

seen = ratios.detectors[:, 0]
own = seen[:, None] * (ratios.groups[:, None] == np.arange(len(q))) / asked  # E over all of column c: E_{p_c}[l]
each = du.solve(
    du.Likelihood(level, kind="detector"),
    du.LogRatios(None, ratios.log_weights, groups=ratios.groups, group_weights=asked, detectors=own),
)

pooled = du.solve(
    du.Likelihood(level, kind="detector"), du.LogRatios(None, ratios.log_weights, detectors=ratios.detectors)
)


def by_prompt(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of the prompts, and E[l] and KL(p_c‖q_c) under each, of joint log masses."""
    p = np.exp(log_weights)
    share = np.bincount(ratios.groups, weights=p)
    shows = np.bincount(ratios.groups, weights=p * seen) / share
    cost = np.bincount(ratios.groups, weights=p * (log_weights - ratios.log_weights)) / share - np.log(share / asked)
    return share, shows, cost


def answered(lam: float) -> np.ndarray:
    """Joint log masses of q_c exp(-lam l)/Z_c: a multiplier that was found elsewhere, with the prompts' own shares."""
    tilted = ratios.log_weights - lam * seen
    z = np.bincount(ratios.groups, weights=np.exp(tilted))
    return tilted - np.log(z / asked)[ratios.groups]


served = answered(float(pooled.multipliers[0]))
table = {
    "one level for all": (shared.solution.primal, shared.solution.log_weights),
    "a level for each": (each.primal, each.log_weights),
    "pooled, prompts asked less": (pooled.primal, pooled.log_weights),
    "pooled multiplier, served": (asked @ by_prompt(served)[2], served),
}
print(f"{'':<28}{'cost':>7}{'shown':>8}   by prompt (%)")
for name, (cost, masses) in table.items():
    share, shows, _ = by_prompt(np.asarray(masses))
    print(f"{name:<28}{cost:7.3f}{100 * share @ shows:7.2f}%   " + " ".join(f"{100 * one:6.2f}" for one in shows))
print("prompts of the pooled law:", np.round(by_prompt(np.asarray(pooled.log_weights))[0], 3), "instead of", asked)
print(f"multipliers: {shared.solution.multipliers[0]:.3f} for all, {np.round(each.multipliers / asked, 3)} for each")

# %%
# The shared promise is kept in the mean, and broken where the concept is asked for by name: there the answers still
# show it several times as often as the level says, paid for by prompts that show it less. A level for each prompt
# costs what the prompts by name cost alone, and holds for whoever asks.

styles = {
    "one level for all": ("o", plots.TARGET),
    "a level for each": ("s", plots.SECOND),
    "pooled multiplier, served": ("D", plots.MARK),
}
plt = plots.pyplot()
places = np.arange(len(q))
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    left.semilogy(places, 100 * priors, "_", color=plots.PRETRAINED, ms=26, mew=3, label="q, before")
    for shift, (name, (mark, colour)) in zip((-0.16, 0.0, 0.16), styles.items(), strict=True):
        _, shows, cost = by_prompt(np.asarray(table[name][1]))
        left.semilogy(places + shift, 100 * shows, mark, color=colour, ms=7, label=name)
        right.bar(places + 1.4 * shift, cost, 0.2, color=colour)
    left.axhline(100 * level, color=plots.UNWANTED, ls="--", lw=1.4, label="level")
    left.set(title="Answers that show it, by prompt (%)", ylim=(0.004, 130))
    right.set(title="What each prompt pays (nats)")
    for ax in (left, right):
        ax.set_xticks(places, [f"{name}\n{100 * share:.0f} % asked" for name, share in zip(names, asked, strict=True)])
        ax.grid(axis="x", visible=False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)

# %%
# When people ask for something else
# ----------------------------------
# Levels in the mean refer to the prompts that were counted. Let the share of those who ask by name grow from the 5 %
# that it was, the others in proportion: the level for each prompt stays; the shared one is exceeded at once, in
# proportion to who asks; the pooled multiplier was never at its level. On the right, what the two honest promises
# cost at every level.

by_name = np.linspace(0, 0.5, 101)
mixes = np.column_stack([by_name, np.outer(1 - by_name, asked[1:] / asked[1:].sum())])
levels = np.geomspace(0.001, 0.13, 25)
cost_shared = [one.dual for one in du.frontier(du.Likelihood(level, kind="detector"), ratios, levels[:, None])]
alone = [toy.log_ratios(law, law.component(0), at) for law, at in zip(q.laws, nodes, strict=True)]
cost_each = [
    sum(
        share * du.solve(du.Likelihood(b, priors=float(prior)), one).dual
        for share, prior, one in zip(asked, priors, alone, strict=True)
    )
    for b in levels
]
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.3), layout="constrained")
    for name, (_, colour) in styles.items():
        left.plot(100 * by_name, 100 * mixes @ by_prompt(np.asarray(table[name][1]))[1], color=colour, label=name)
    left.axhline(100 * level, color=plots.UNWANTED, ls="--", lw=1.4, label="level")
    left.axvline(100 * asked[0], color=plots.GREY, ls=":", lw=1.2, label="share that was counted")
    left.set(xlabel="share of prompts by name (%)", title="Answers that show it (%)", ylim=(0, None))
    right.semilogx(100 * levels, cost_shared, color=plots.TARGET)
    right.semilogx(100 * levels, cost_each, color=plots.SECOND, ls="--")
    right.plot([100 * level] * 2, [shared.solution.primal, each.primal], "o", color=plots.INK, ms=5)
    right.set(xlabel="level (%)", title="Least cost (nats)", ylim=(0, None))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5)

# %%
# The law under a prompt
# ----------------------
# One multiplier, five targets: by name nearly everything moves, for neighbours next to nothing.

axes = nodes[0].axes
area = float(np.prod([axis[1] - axis[0] for axis in axes]))
with plt.rc_context(plots.STYLE):
    figure, panels = plt.subplots(1, 5, figsize=(12, 3.1), layout="constrained", sharey=True)
    for c, ax in enumerate(panels):
        base, target = (
            np.exp(one).reshape(len(axes[0]), -1) / area
            for one in (np.asarray(nodes[c].log_weights), shared.targets[c])
        )
        shades = ["#ececec", "#dadada", "#c4c4c4"]
        ax.contourf(*axes, base.T, levels=[*plots.contour_levels(base, area), float(base.max())], colors=shades)
        ax.contour(*axes, target.T, levels=plots.contour_levels(target, area), colors=plots.TARGET)
        ax.set(xlim=(-4.4, 5), ylim=(-3.6, 5.4), xlabel="x$_1$")
        ax.set_aspect("equal")
        ax.set_title(f"{names[c]}\n{100 * priors[c]:.3g} % → {100 * shared.shown[c, 0]:.2g} %")
    panels[0].set(ylabel="x$_2$")
