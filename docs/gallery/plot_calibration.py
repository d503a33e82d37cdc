r"""
Calibration of a network's ratios
=================================

The solver is exact on the log ratios that it is given. A network's ratios are estimates, and two estimators that rank
images alike can still disagree about what a level means. Here both are held against real handwritten digits, where
one knows what is shown.
"""

# %%
# Two estimators for one concept
# ------------------------------
# ``digits`` is a small Stable Diffusion pipeline that ships with this package. The concept is the seven. A *contrast
# classifier* learns to tell samples of the concept's prompts from samples of the other digits' prompts; 150 samples are
# few, but this page should take seconds. (``unlearn ratios digits --concept "a handwritten seven"`` takes ten times as
# many.)

import warnings

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from tqdm import tqdm

import duality as du
from diffusion.digits import load_digits
from diffusion.digits.data import enlarge
from diffusion.digits.prompts import prompts_for
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.latents import encode
from diffusion.ratios.calibration import calibration
from diffusion.ratios.classifier_ratios import classifier_ratios, posterior
from diffusion.ratios.elbo import elbo_differences
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
    num_samples=20,
    noisings=5,
    classifier_steps=40,
    elbo_samples=10,
    elbo_noise_levels=2,
)
sampling = Sampling(num_inference_steps=6)
estimate = estimate_ratios(
    denoiser, prompts, budget, sampling, None, bar=lambda title, total: tqdm(total=total, disable=True)
)

# %%
# The other estimator needs no training: the difference of the evidence bounds of an image with the concept's prompt
# and without any, under common noise. More than five noise levels for each image would sharpen the order; the scale
# is the network's own.
#
# The test set is half of the held-out digits: real scans that neither the pipeline nor the classifier has seen. They
# are a fair sample of what the pipeline was trained on, so the share of sevens, 10 %, is the prior.

held_out = load_digits("held-out")
labels = held_out.labels[::2] == 7
latents = encode(pipeline, torch.from_numpy(enlarge(held_out.images[::2])))
ratios = {
    "ratio classifier": classifier_ratios(denoiser, estimate.classifier, latents, seed=1),
    "difference of ELBOs": elbo_differences(denoiser, latents, prompts, levels=5, seed=2),
}
posteriors = {name: posterior(values, prompts.priors)[:, 0].numpy() for name, values in ratios.items()}
for name, p in posteriors.items():
    print(f"{name:<20} {calibration(p, labels)}")

# %%
# Order and scale
# ---------------
# Left: the posterior against the facts. Right: the log ratios themselves. On an image that certainly shows a concept
# of prior 0.1 the log ratio is :math:`\log 10 = 2.3` nats, never more; the classifier cannot exceed it by construction.
# The ELBO difference puts the sevens on the right-hand side, but it spreads over many nats on both sides of what can
# be.

plt = plots.pyplot()
with plt.rc_context(plots.STYLE):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6), layout="constrained")
    studies.plot_reliability(posteriors, labels, ax=left)
    left.set_title(f"Posterior of a seven, {len(labels)} real digits")
    generator = np.random.default_rng(0)
    for row, values in enumerate(ratios.values()):
        rho = values[:, 0].numpy()
        for shows, color, marker, shift in ((False, plots.PRETRAINED, ".", -0.15), (True, plots.UNWANTED, "o", 0.15)):
            place = row + shift + generator.uniform(-0.1, 0.1, int((labels == shows).sum()))
            right.plot(rho[labels == shows], place, marker, color=color, ms=5, alpha=0.7)
    for color, marker, name in ((plots.UNWANTED, "o", "sevens"), (plots.PRETRAINED, ".", "other digits")):
        right.plot([], [], marker, color=color, label=name)
    right.axvline(np.log(10), color=plots.INK, lw=1.0, ls="--", label="log 10, the most there can be")
    right.set_yticks(range(len(ratios)), list(ratios))
    right.set_ylim(-0.5, len(ratios) - 0.5)
    right.grid(axis="y", visible=False)
    right.set(xlabel="log ratio of an image (nats)", title="The log ratios behind it")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, columnspacing=1.0, handletextpad=0.4)

# %%
# What a level means then
# -----------------------
# Ask for at most 1 % and solve on either. Both answers are exact, for the ratios that they were given: the level is
# met to the last digit. The labels say how much of the weighted images still shows a seven.

warnings.simplefilter("ignore", du.FewDrawsWarning)  # 180 images are few, and here the labels are the evidence
for name, values in ratios.items():
    solution = du.solve(du.Likelihood(0.01), du.LogRatios(values.double().numpy(), priors=list(prompts.priors)))
    weights = np.exp(solution.log_weights)
    print(
        f"{name:<20} level {100 * solution.levels[0]:.2f} %, multiplier {solution.multipliers[0]:5.2f}, "
        f"truly sevens {100 * float(weights @ labels):.2f} %, gap {solution.gap:.0e}"
    )

# %%
# So a certificate keeps the two apart: its verdict ``solution`` is on the duality gap on the given ratios, ``ratios``
# on what their validation said. See :doc:`/how-to/certificate`.
