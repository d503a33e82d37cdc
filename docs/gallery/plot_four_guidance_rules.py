r"""
Four guidance rules
===================

At a noised state every problem becomes negative guidance, :math:`\text{score} = s_q + k\,(s_q - s_1)`. The rules
differ in the strength :math:`k`, and in how right they are. On mixtures the exact score of the noised target is
known, so one can tell.
"""

# %%
# Errors over the noise levels
# ----------------------------
# Three modes of unequal shape, the second of which has to go, solved as RU, FU and LU. For each rule: the root mean
# square distance to the exact score under the noised target, relative to what guidance has to supply (a value of one
# means that doing nothing would have been as good). Noise grows to the right.

import numpy as np

import toy
from toy import plots, studies

example = toy.example("unequal")
alpha_bars = [0.999, 0.99, 0.97, 0.9, 0.75, 0.5, 0.3, 0.15, 0.05, 0.01]
answers = [
    toy.solve(problem, example.pretrained, example.unlearn, priors=example.priors) for problem in example.problems
]
errors = [one for answer in answers for one in toy.guidance_errors(answer, alpha_bars, 31)]
print(toy.guidance_table([one for one in errors if one.alpha_bar in (0.99, 0.75, 0.3, 0.05)]))

ax = studies.plot_guidance_errors(errors)
ax.set_title("How far each rule is from the exact score", **plots.TITLE)

# %%
# - **FU** is exact at every noise level, whatever the shapes: mixtures noise linearly. What is left is rounding.
# - **LU, two-valued closure** is off to the extent that a *clean* point is ambiguous, at every noise level. The modes
#   here overlap, and near the data it is the worst of the rules; once the noise dominates it is the best of the three
#   that are not exact.
# - **LU, first order** is exact at the data and forgets that a weight cannot fall below :math:`e^{-\lambda}`: with
#   noise its error becomes as large as the whole correction.
# - **RU, constant strength**, which is what concept erasure by negative guidance trains towards, is exact at the data
#   and drifts away from there; the shapes here are unequal.
#
# Strengths over the plane
# ------------------------
# Where do the rules push? At a middle noise level the strengths of FU and LU live where the concept may be present.
# RU's is the same everywhere. Colour covers 99.9 % of the noised q.

alpha_bar = 0.75
base, part = example.pretrained.noised(alpha_bar), example.unlearn[0].noised(alpha_bar)
axis = np.linspace(-4.5, 4.5, 161)
plane = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
rho = toy.log_ratio(base, part, plane)[..., None]
density = np.exp(base.log_prob(plane))

area = (axis[1] - axis[0]) ** 2
seen = density >= plots.contour_levels(density, area, (0.999,))[0]
plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.3), layout="constrained", sharey=True)
    for ax, answer in zip(axes, answers, strict=True):
        strength = np.where(seen, np.asarray(answer.solution.guidance(rho))[..., 0], np.nan)
        top = float(np.nanmax(strength))
        image = ax.pcolormesh(axis, axis, strength.T / top, cmap="Blues", vmin=0, vmax=1, rasterized=True)
        ax.contour(axis, axis, density.T, levels=plots.contour_levels(density, area), colors=plots.INK, linewidths=0.8)
        ax.set_box_aspect(1)
        ax.grid(False)
        ax.set(title=f"{plots.problem_name(answer.solution.problem)}: up to k = {top:.2g}", xlabel="x$_1$")
    axes[0].set_ylabel("x$_2$")
    figure.colorbar(image, ax=axes, label="strength / largest strength", shrink=0.9)
