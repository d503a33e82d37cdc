r"""
Eight images that a model copies
================================

The same problem on a network. A small DDPM of real handwritten digits was trained further on data in which eight odd
digits occur 16 to 92 times, until it copies them. Each is then to be as surprising as a digit never seen: eight
constraints, eight multipliers, one LoRA.

This page shows what ``python -m diffusion.studies.planted --output OUT`` left in ``OUT/study.json``: one seed, a shared
2-core container. That takes about half an hour of one core, so it did not run while the page was built. NegGrad, SISS
and EraseDiff ran beside it on the same adapters, budget and seed, at the strengths that come out of the box.
"""

# %%
# What was asked, and what came out
# ---------------------------------
# A draw counts as a copy when it is more similar to an image than 99.9 % of other draws of the model that was never
# shown it, so of eight images that model "copies" up to 0.8 % by definition. Similarity is the cosine between features
# of a network trained on real digits. KID is measured there as well, to real digits that no model was trained on; its
# change is paired: the same noise, the same digits. "Primal-dual" is
# :class:`diffusion.methods.forget_data.ForgetImages`. All eight levels are met, and copies fall from a fifth of all
# draws to 2.0 ± 0.4 %, against 1.2 ± 0.3 % for the model that was never shown the images. What is left is spread
# over the images, at most 0.8 % of draws near one of them. Quality does not suffer measurably. Multipliers rank nearly
# as repeats do, and all lie above the shares: what is forgotten takes neighbours along. EraseDiff forgets as much and
# loses quality (its change of KID is more than four standard errors), NegGrad misses seven of the levels, SISS all.

import json
from pathlib import Path

from diffusion.studies.planted_picture import picture
from diffusion.studies.planted_report import table
from toy import plots

result = json.loads(Path("../images/planted.json").read_text())
print(table(result))

# %%
# Images, draws, multipliers
# --------------------------
# The rows are the planted images and the draw that comes nearest to each, with its similarity: from the model that was
# never shown the images, from the one that copies them, and from that one after forgetting.

plt = plots.pyplot()
with plt.rc_context(plots.STYLE | {"axes.grid": False}):
    picture(result, plt.figure(figsize=(9.2, 8.2), layout="constrained"))
