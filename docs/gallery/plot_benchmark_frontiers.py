r"""
Fourteen concepts, and what removing them costs
===============================================

Every object and every style of the embedded wardrobe, taken away by ours and by baselines, some of them at several
strengths and budgets. Each dot is a setting of a method: what it leaves of the concept, under prompts that it was
fitted on, paraphrases and contexts, against what samples under retained prompts pay. Best is below on the left.

The figures are in ``docs/benchmarks``, a JSON file for each point with the command that made it;
:doc:`/benchmarks` has the table, what was measured, and what was not. A task takes minutes to an hour of one core, so
nothing of it ran while the page was built.
"""

# %%
# What is left, against nats
# --------------------------
# Nats are KL along the sampler's chain at guidance scale 3, under prompts that do not ask for the concept, in all
# templates and on all backgrounds. A chain that pays ten or more counts ten: it ends in a sample that the base model
# makes next to never. A line joins the settings of a method that no other one of its own beats. Where a setting was
# fitted with several seeds the dot is their mean, and small dots are the seeds. ``rejection`` is the target itself,
# drawn exactly: it costs retained prompts nothing and lies on the lower edge. How far ours is from it is its fit's.

from pathlib import Path

from diffusion.evaluation.sweep.frontier import read_points
from diffusion.evaluation.sweep.frontier_plots import frontiers
from toy import plots

folders = sorted(path for path in Path("../benchmarks").iterdir() if path.is_dir())
tasks = {points[0].concept: points for points in map(read_points, folders)}

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    frontiers(tasks, "kernel machine", plt.figure(figsize=(9.2, 10.5), layout="constrained"))
