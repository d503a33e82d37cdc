r"""How much of a target's drift the slopes of a detector have, alone and at predicted images, under prompts' anchors.

::

    python -m diffusion.wardrobe.experiments.slope_gain --concept "a dress"

The target weighs samples by w = e^{-lam l}, lam solved for the level on the survey; h = E[w | x_t], as the noised
detector reads it off the network's features, or the detector at the predicted image beside it
(:mod:`diffusion.ratios.foreseen`); G = (noise²/signal) grad log h is what either asks of the predicted x_0. With u the
change that is right, T the sampler's word under guidance, and means under the target, from samples that no detector was
fitted on, ::

    along = E<u, G> = E[(w - h) <x_0 - T, G>]/E[w],        gain = along/E|G|²,        share = along²/E|G|²

in nats of a step of the sampler's chain. Asked as many times over as it takes to bring about what u does, G costs
1/(the sum of shares over the target's nats) times as much, to first order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.api import open_denoiser
from diffusion.evaluation.sweep.canvas import CanvasTask, law_of
from diffusion.methods.chain import chain_of, halves
from diffusion.pipelines import Denoiser, add_noise, rows
from diffusion.pipelines.base import predicted_x0
from diffusion.ratios.classifier import Bottleneck, log_snr, pooled
from diffusion.ratios.detected import DetectedSamples, estimate_detected, sample_law
from diffusion.ratios.foreseen import Foreseen, foresee
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.prompts import Prompts
from diffusion.tasks.sampling import at_law

BATCH = 128
SEEN = (-6.0, 4.0)  # log SNRs that are looked at
FIELDS = ("alone", "foreseen")


def anchored(prompts: Prompts) -> Prompts:
    """A law's prompts that ask for the concept and their anchors, sampled as they are: what is to be tilted."""
    return Prompts([each for each in prompts.prompts if each.group != "retained"])


def at_step(
    denoiser: Denoiser, estimate: DetectedSamples, foreseen: Foreseen, lam: float, t: Tensor, seed: int
) -> dict[str, Tensor]:
    """``along`` and ``energy`` (n, fields) of every sample at one level (1,), and its weight (n,)."""
    generator, scale = torch.Generator().manual_seed(seed), estimate.sampling.mixed_scale(denoiser)
    conditions, empty = denoiser.condition(estimate.prompts.sampled), denoiser.condition([""])
    parts: dict[str, list[Tensor]] = {"along": [], "energy": [], "weight": []}
    for some in torch.arange(len(estimate.latents)).split(BATCH):
        x0, level = estimate.latents[some], t.expand(len(some))
        x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator), level).requires_grad_()
        with Bottleneck(denoiser) as caught:
            said = denoiser.predict(x, level, rows(conditions, estimate.rows[some]))
        snr, ahead = log_snr(denoiser, level), predicted_x0(denoiser, said, x, level)
        plain = estimate.noised_detector(pooled(cast(Tensor, caught.last), said), snr)
        with torch.no_grad():
            free = denoiser.predict(x, level, rows(empty, torch.zeros(len(some), dtype=torch.long)))
        sampled = predicted_x0(denoiser, free + scale * (said.detach() - free), x.detach(), level)
        signal, noise = denoiser.schedule(level)
        weight = (-lam * estimate.detected[some, 0]).exp()
        along, energy = [], []
        for eta in (plain, foreseen(denoiser, ahead, plain, snr)):
            log_h = torch.log1p(float(np.expm1(-lam)) * eta[:, 0])
            (slope,) = torch.autograd.grad(log_h.sum(), x, retain_graph=True)
            field = (noise**2 / signal * slope).flatten(1).double()
            rest = weight - log_h.detach().double().exp()
            along.append(rest * (field * (x0 - sampled).flatten(1)).sum(1))
            energy.append(weight * field.square().sum(1))
        parts["along"].append(torch.stack(along, 1))
        parts["energy"].append(torch.stack(energy, 1))
        parts["weight"].append(weight)
    return {name: torch.cat(each) for name, each in parts.items()}


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--concept", default="a dress", help="an object, a style, or an object in one style")
    parser.add_argument("--level", type=float, default=0.02, help="share of the anchors' samples")
    parser.add_argument("--samples", type=int, default=2000, help="of the survey, and again to look at")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    task = CanvasTask.of(given.concept)
    denoiser, sampling = at_law(open_denoiser("wardrobe"), Sampling(guidance_scale=3.0))
    law, detector = anchored(law_of(task)), task.detector()
    budget = RatiosConfig(num_samples=given.samples, seed=given.seed)
    estimate = estimate_detected(denoiser, law, {task.name: detector}, budget, sampling, None)
    solution = du.solve(du.Likelihood([given.level], kind="detector"), estimate.ratios)
    lam = float(solution.multipliers[0])
    foreseen = cast(Foreseen, foresee(denoiser, estimate, [detector]))
    prompts, latents, detected = sample_law(denoiser, law, [detector], budget.but(seed=given.seed + 1), sampling, None)
    fresh = replace(estimate, rows=prompts, latents=latents, detected=detected)
    weight = (-lam * detected[:, 0]).exp()
    nats = float((weight / weight.mean() * (weight / weight.mean()).log()).mean())
    print(f"share {float(detected.mean()):.3f}, multiplier {lam:.2f}, the target's nats {nats:.4f}")
    chain = chain_of(denoiser, sampling.steps(denoiser), sampling.steps(denoiser))
    worth = halves(denoiser, chain)
    total = torch.zeros(len(FIELDS), dtype=torch.float64)
    for k in range(chain.steps):
        level = float(log_snr(denoiser, chain.t[k : k + 1]))
        if not SEEN[0] <= level <= SEEN[1]:
            continue
        found = at_step(denoiser, fresh, foreseen, lam, chain.t[k : k + 1], given.seed + 2 + k)
        mean = found["weight"].mean()
        along, energy = (worth[k] * found[name].mean(0) / mean for name in ("along", "energy"))
        error = worth[k] * found["along"].std(0) / len(weight) ** 0.5 / mean
        share = along.clamp_min(0) ** 2 / energy
        total += share
        said = [
            f"{name} gain {along[j] / energy[j]:.2f} ± {error[j] / energy[j]:.2f}, share {share[j] / nats:.3f}"
            for j, name in enumerate(FIELDS)
        ]
        print(f"log SNR {level:+.1f}: {'; '.join(said)}", flush=True)
    print("of the target's nats: " + ", ".join(f"{name} {total[j] / nats:.2f}" for j, name in enumerate(FIELDS)))


if __name__ == "__main__":
    main()
