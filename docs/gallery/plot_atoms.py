"""
Why atoms break duality
=======================

The theorem of strong duality asks for a space without atoms. On two atoms one sees why, and splitting them shows what
is missing.
"""

# %%
# Two atoms
# ---------
# :math:`q = (0.7, 0.3)` and :math:`q_1 = (0.55, 0.45)`: the first atom is the one that :math:`q` prefers, so reverse KL
# moves mass there. At :math:`-\log 0.55 = 0.598` nats all the mass has arrived, and tilting can do no more. Larger
# levels, up to :math:`-\log 0.45 = 0.799`, are feasible, but at the *other* atom. The cheapest density jumps; the dual
# value does not.

import numpy as np

import duality as du
from toy import plots

q, q_1 = np.array([0.7, 0.3]), np.array([0.55, 0.45])
levels = np.unique(np.concatenate([np.linspace(0.02, 2.6, 150), -np.log(q_1) - 1e-9, -np.log(q_1) + 1e-9]))
curves = du.atoms.gap_curves(q, q_1, levels, parts=(1, 2, 4))

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), layout="constrained", sharex=True, sharey=True)
    for ax, parts, primal, gap in zip(axes, curves.parts, curves.primal, curves.gap, strict=True):
        feasible = np.isfinite(primal)
        ax.fill_between(
            levels[feasible], curves.dual[feasible], primal[feasible], color=plots.UNWANTED, alpha=0.2, lw=0
        )
        ax.plot(levels[feasible], primal[feasible], color=plots.UNWANTED, ls="--", label="least cost on the atoms")
        ax.plot(levels, curves.dual, color=plots.TARGET, label="dual value")
        if not feasible.all():
            last = float(levels[feasible].max())
            ax.axvspan(last, levels.max(), color=plots.GREY, alpha=0.15, lw=0)
            ax.text(last + 0.12, 0.03, "infeasible", fontsize=9, color=plots.INK, rotation=90, va="bottom")
        ax.set_title("two atoms" if parts == 1 else f"each split into {parts}")
        ax.set(xlabel="level b (nats)", xlim=(0, 2.6), ylim=(0, 2.6))
        closed = levels[gap < 1e-9].max()
        print(f"parts {parts}: gap zero up to {closed:.3f} nats, then up to {np.where(feasible, gap, 0).max():.3f}")
    axes[0].set_ylabel("cost (nats)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

# %%
# What splitting does
# -------------------
# The dual function depends on nothing but the law of the density ratio, which splitting leaves alone: the blue line is
# the same in all three panels. The primal gains room. On the parts of the first atom a density may be uneven, and
# unevenness is divergence from :math:`q_1` at the price of the same divergence from :math:`q`. With *N* parts the gap
# is exactly zero up to :math:`-\log 0.55 + \log N`. In the limit there are no atoms and no gap.
#
# So the dual value on a grid is not an approximation to what the grid's own atoms can do. It is the value on the
# continuum that the grid stands for.
