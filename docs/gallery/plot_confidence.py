"""
What samples show
=================

A fitted model is sampled, a detector looks, and some of the samples show the concept. How many samples does it take to
show a level, which bound deserves its 95 %, and what if one looks before the end?
"""

# %%
# How many samples
# ----------------
# Of n samples at most k may be hits for the level to be shown (``plan``), and a model solved for the very level fails
# that test 95 times in 100. Left: what to solve for, as a part of the level, so that the test is passed nine times in
# ten (``solve_for``). A level of 1 % takes 299 samples if there is no hit at all; with 2,000 one aims at less than half
# of it, with 50,000 at nearly nine tenths. Right: how often 500 to 20,000 samples show 1 %, against the true share.

import numpy as np
from scipy.stats import binom

import duality as du
from toy import plots

bounds = du.confidence
plt = plots.pyplot()
sizes = np.unique(np.geomspace(300, 1e6, 90).astype(int))
true = np.linspace(0, 0.0125, 251)
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.1), layout="constrained")
    for level, colour, dash in zip((0.1, 0.01, 0.001), plots.CYCLE, plots.DASHES, strict=False):
        enough = [int(n) for n in sizes if n >= bounds.fewest(level)]
        left.semilogx(enough, [bounds.solve_for(level, n) / level for n in enough], color=colour, ls=dash)
        at = enough[max(len(enough) // 3, 1)]
        place = {"xytext": (6, -4), "textcoords": "offset points", "color": colour, "va": "top"}
        left.annotate(f"level {100 * level:g} %", (at, bounds.solve_for(level, at) / level), **place)
    left.set(xlabel="samples", title="What to solve for, as a part of the level", ylim=(0, 1))
    for n, colour, dash in zip((500, 2000, 5000, 20_000), plots.CYCLE, plots.DASHES, strict=False):
        most = bounds.plan(0.01, n)
        right.plot(
            100 * true, binom.cdf(most, n, true), color=colour, ls=dash, label=f"{n:,} samples, at most {most} hits"
        )
    right.axvline(1.0, color=plots.UNWANTED, lw=1.2, ls="--")
    right.set(xlabel="true share (%); the level is 1 %", title="Chance that the samples show the level", ylim=(0, 1.02))
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
for n in (299, 2000, 50_000):
    print(
        f"{n:>6} samples show 1 % with at most {bounds.plan(0.01, n)} hits: solve for {bounds.solve_for(0.01, n):.5f}"
    )

# %%
# Which bound deserves its name
# -----------------------------
# The chance that an upper bound at 95 % lies at or above the true share, summed exactly over all counts of hits among
# 1,000 samples. Clopper and Pearson's is never below 95 % and touches it; betting is a little wider, since it serves
# values that are no counts as well. The normal interval, mean plus 1.64 standard errors, fails for rare concepts up to
# everywhere: without a hit it has no width.

n = 1000
counts = np.arange(81)
zeros_and_ones = [np.repeat([1.0, 0.0], [k, n - k]) for k in counts]
uppers = {
    "Clopper–Pearson": bounds.clopper_pearson(counts, n),
    "betting": np.array([bounds.mean_upper(one) for one in zeros_and_ones]),
    "normal approximation": counts / n + 1.645 * np.sqrt(counts / n * (1 - counts / n) / n),
}
shares = np.linspace(1e-4, 0.03, 600)
covered = {
    name: (binom.pmf(counts, n, shares[:, None]) * (upper >= shares[:, None])).sum(axis=1) + binom.sf(80, n, shares)
    for name, upper in uppers.items()
}
for name, rate in covered.items():
    print(f"{name:<22} worst coverage over shares of 0.01 to 3 %: {100 * rate.min():.2f} %")

# %%
# A detector that gives probabilities gives more than a count. Below, 600 times 1,000 scores from a Beta law with a
# mean of 1 %, most of them tiny. The first three bounds hold for every law on [0, 1]; they differ in how close to the
# truth they come. Empirical Bernstein's pays 7 log(2/0.05)/(3n) whatever the variance is, Hoeffding's does not look
# at it. The normal interval comes near its 95 % here, and nothing says for which laws it does.

rng = np.random.default_rng(0)
scores = rng.beta(0.3, 29.7, size=(600, n))
means, deviations = scores.mean(axis=1), scores.std(axis=1, ddof=1)
logarithm = np.log(2 / 0.05)
found = {
    "betting": np.array([bounds.mean_upper(row) for row in scores]),
    "empirical Bernstein": means + deviations * np.sqrt(2 * logarithm / n) + 7 * logarithm / (3 * (n - 1)),
    "Hoeffding": means + np.sqrt(np.log(1 / 0.05) / (2 * n)),
    "normal approximation": means + 1.645 * deviations / np.sqrt(n),
}
for name, upper in found.items():
    missed = float((upper < 0.01).mean())
    error = np.sqrt(max(missed, 1 / 600) * (1 - missed) / 600)
    print(f"{name:<22} median {100 * np.median(upper):5.2f} %, missed {100 * missed:4.1f} ± {100 * error:.1f} % of 600")

styles = dict(zip(("Clopper–Pearson", "betting", "normal approximation"), ("-", "--", ":"), strict=True))
colours = {
    "Clopper–Pearson": plots.TARGET,
    "betting": plots.SECOND,
    "normal approximation": plots.UNWANTED,
    "empirical Bernstein": plots.MARK,
    "Hoeffding": plots.THIRD,
}
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for name, rate in covered.items():
        left.plot(100 * shares, 100 * rate, color=colours[name], ls=styles[name], lw=1.4, label=name)
    left.axhline(95, color=plots.INK, lw=0.9)
    left.set(xlabel="true share (%)", title=f"Coverage of {n:,} counted samples (%)", ylim=(60, 101), xlim=(0, 3))
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, columnspacing=1.0, handlelength=1.6)
    for row, (name, upper) in enumerate(found.items()):
        right.plot(100 * upper, row + rng.uniform(-0.25, 0.25, len(upper)), ".", ms=2.5, color=colours[name])
        right.plot([100 * np.median(upper)] * 2, [row - 0.32, row + 0.32], color=plots.INK, lw=1.6)
    right.axvline(1.0, color=plots.INK, ls="--", lw=1.0)
    right.set_yticks(range(len(found)), list(found))
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set(xlabel="upper bound on the mean (%); the truth is 1 %", title="Bounds from 1,000 scores, 600 times")

# %%
# Looking before the end
# ----------------------
# Draw, look, draw more, and stop as soon as the bound is below the level: a bound for one sample size is then wrong
# more and more often, as every look is another chance. Here the true share *is* the level, 1 %, so that every success
# is an error; 100,000 runs, looked at 60 times between 100 and 20,000 samples. Clopper and Pearson's 5 % become a
# quarter. ``MeanSequence`` holds at all times at once, and is paid for in hits: the last picture says how many either
# allows.

looks = np.unique(np.geomspace(100, 20_000, 60).astype(int))
level = 0.01


def of_counts(hits: int, n: int) -> float:
    """MeanSequence's bound where hits of n samples were seen, looked at once."""
    sequence = bounds.MeanSequence()
    sequence.update(np.repeat([1.0, 0.0], [hits, n - hits]))
    return sequence.upper


def most_hits(n: int) -> int:
    """The most hits at which MeanSequence shows the level at n; -1 for none. Bounds grow with the hits."""
    low, high = -1, int(level * n) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if of_counts(middle, n) <= level else (low, middle)
    return low


passed = {
    "Clopper–Pearson, for one look": np.array([bounds.plan(level, int(n)) for n in looks]),
    "MeanSequence, for all": np.array([most_hits(int(n)) for n in looks]),
}
runs = 100_000
seen = np.cumsum(rng.binomial(np.diff(looks, prepend=0), level, size=(runs, len(looks))), axis=1)
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.1), layout="constrained")
    for (name, most), colour, dash in zip(passed.items(), (plots.UNWANTED, plots.TARGET), ("--", "-"), strict=True):
        wrong = (np.cumsum(seen <= most, axis=1) > 0).mean(axis=0)
        print(f"{name:<30} wrong in {100 * wrong[-1]:.2f} ± {100 * np.sqrt(wrong[-1] / runs):.2f} % of {runs:,} runs")
        left.semilogx(looks, 100 * wrong, color=colour, ls=dash, label=name)
        right.semilogx(looks[most >= 0], 100 * (most / looks)[most >= 0], color=colour, ls=dash)
    left.axhline(5, color=plots.INK, lw=0.9)
    left.set(xlabel="samples so far", title="Runs that a look has shown what is not so (%)", ylim=(0, None))
    right.axhline(1.0, color=plots.INK, lw=0.9)
    right.set(xlabel="samples so far", title="The most hits that still show 1 %, of the samples (%)", ylim=(0, 1.05))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
print(
    f"10 hits in 2,000: Clopper–Pearson {bounds.clopper_pearson(10, 2000):.5f}, at all times {of_counts(10, 2000):.5f}"
)
