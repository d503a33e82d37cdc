r"""
A digit unlearned
=================

From a pipeline and a prompt to images without the concept, with the optimum solved for first and nothing trained
but a small classifier. Everything that the full command does is here, at a twentieth of its size.
"""

# %%
# What the pipeline makes
# -----------------------
# ``digits`` is a genuine Stable Diffusion pipeline, small enough to ship, trained on real handwritten digits. Asked for
# nothing, it makes all ten. A run samples from the concept's prompts, from those of the other digits, and from the
# empty prompt, and trains a classifier that gives the log ratio at every noise level.

import warnings

import numpy as np
from diffusers.utils.logging import disable_progress_bar
from tqdm import tqdm

import duality as du
from diffusion.digits.prompts import DigitsClassifiers, prompts_for
from diffusion.guidance.guided import Guided
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.latents import decode
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.estimate import estimate_ratios
from diffusion.tasks.config import RatiosConfig, Sampling
from toy import plots, studies

disable_progress_bar()
pipeline = load_pipeline("digits")
denoiser = denoiser_of(pipeline)
prompts = prompts_for(["a handwritten seven"])
budget = RatiosConfig(
    concept_samples=50,
    retained_samples=100,
    num_samples=120,
    noisings=5,
    classifier_steps=40,
    elbo_samples=10,
    elbo_noise_levels=2,
)
sampling = Sampling(num_inference_steps=6)
estimate = estimate_ratios(
    denoiser, prompts, budget, sampling, None, bar=lambda title, total: tqdm(total=total, disable=True)
)
print(f"classifier on held-out samples of known prompts: {estimate.validation[0]}")

# %%
# The answer, before anything is changed
# --------------------------------------
# At most 1 % of what is drawn may show a seven. One multiplier, its standard error, and what it will cost: about
# :math:`-\log(1 - \pi)` nats, the price of leaving out a share :math:`\pi`, and little besides. A level of 1 % among
# 120 samples rests on hardly more than one of them, and the solver says so.

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always", du.FewDrawsWarning)
    solution = du.solve(du.Likelihood(0.01), estimate.ratios)
print(solution)
print(caught[0].message)

# %%
# Drawn with guidance
# -------------------
# The same solution gives the strength of guidance at each noised state, from the same initial noise as before. A
# classifier that took no part in any of this says which images show a seven (orange frames).

image_classifier = DigitsClassifiers()
with Guided(denoiser, prompts, estimate.classifier, solution.guidance) as guided:
    latents = sample_latents(pipeline, [""] * len(estimate.anchor), seed=2, steps=sampling.num_inference_steps)

sheets = {"before": decode(pipeline, estimate.anchor), "guided": decode(pipeline, latents)}
found = {name: image_classifier(images)["CNN"] == 7 for name, images in sheets.items()}
plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.0), layout="constrained")
    for ax, (name, images) in zip(axes, sheets.items(), strict=True):
        studies.plot_pictures(images.mean(1), found[name], columns=12, ax=ax)
        ax.set_title(f"{name}: {found[name].sum()} sevens in {len(images)} samples")

# %%
# Samples that never were on their way to a seven are the same image left and right, up to small changes; the others
# have become something else. 120 samples tell little about one per cent; ``make demo`` counts thousands.
#
# When guidance acts
# ------------------
# The strength fades by itself where the concept is absent. While nothing but noise is seen every sample may still
# become a seven, and all are pushed a little; then those that classifier for one, and harder. Half-way most is decided:
# few samples are left to push, and they need hardly any.

levels = np.array([t for t, _, _ in guided.trace.steps])
strength = np.array([mean[0] for _, mean, _ in guided.trace.steps])
touched = np.array([share for _, _, share in guided.trace.steps])
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained", sharex=True)
    left.plot(levels, 100 * touched, "o-", color=plots.TARGET)
    left.set_ylim(0, 105)
    left.set(ylabel="samples (%)", title="How many samples are pushed")
    right.plot(levels, strength / touched, "s-", color=plots.UNWANTED)
    right.set_ylim(bottom=0)
    right.set(ylabel="strength k", title="How hard those are pushed, on average")
    left.invert_xaxis()
    for ax in (left, right):
        ax.set_xlabel("noise level t, 1,000 is pure noise; sampling goes to the right")
