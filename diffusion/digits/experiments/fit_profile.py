r"""Where along the noise a fitted network leaves its target.

::

    python -m diffusion.digits.experiments.fit_profile --samples 8000 --max-train-steps 340

What states promise of the concept, eta(x_t) = E[l | x_t] by the noised detector, has three means at each level of
noise, ::

    base     E_q[eta]                       the same at every level: eta is a martingale
    target   E_q[h eta] / E_q[h]            h = E[e^{-lam·l} | x_t]: the noised target's
    student  the mean along its own chain   of what is fitted, from noise to image

and what the student has spent on the way from one level to the next is its share of the cost. The target falls where
the image is decided; a student that falls less there has not learned the drift, and one that spends more than its fall
is worth has learned another one. Levels are solved for a law of one prompt, the empty one, at guidance scale 1.

What a student spends is V of the level that it reaches and, to the last nat, its chain's distance from the target of
that level (theory, "The parameterisation gap"). ``--permuted`` deals what the detector says out to other samples: the
weights then say nothing of images, nothing is to be changed, and all that is spent is the noise of the fit.
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
from diffusion.methods.base import DetectedFitContext
from diffusion.methods.chain import Chain, chain_of, chain_step
from diffusion.methods.detected import DetectedTilt
from diffusion.pipelines import Denoiser, add_noise, denoiser_of, load_pipeline, repeat
from diffusion.pipelines.base import predicted_x0
from diffusion.ratios.classifier import Bottleneck, log_snr, pooled
from diffusion.ratios.detected import DetectedSamples, detect, estimate_detected
from diffusion.ratios.noised_detector import NoisedDetector
from diffusion.tasks.config import FitConfig, RatiosConfig, Sampling
from diffusion.tasks.detectors import detector_of
from diffusion.tasks.prompts import Prompts
from diffusion.training.lora import base_model, undo

STEPS = 40  # of the chain
EVERY = 3  # levels of the table: one of so many


def promised(denoiser: Denoiser, noised_detector: NoisedDetector, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The base model's word on x_0 (n, ...), and eta (n,), at states x (n, ...) of levels t (n,)."""
    empty = repeat(denoiser.condition([""]), len(x))
    with torch.no_grad(), base_model(denoiser), Bottleneck(denoiser) as caught:
        said = denoiser.predict(x, t, empty)
        eta = noised_detector(pooled(cast(Tensor, caught.last), said), log_snr(denoiser, t))[:, 0]
    return predicted_x0(denoiser, said, x, t), eta.double()


def along_chain(
    denoiser: Denoiser, noised_detector: NoisedDetector, chain: Chain, count: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """eta and the cost of every step, both (k, n), along ``count`` runs of the student's chain; and where they end."""
    generator = torch.Generator().manual_seed(seed)
    snr = log_snr(denoiser, chain.t).double().exp()
    signal, noise = (value.flatten() for value in denoiser.schedule(chain.t))
    x, empty = torch.randn(count, *denoiser.sample_shape, generator=generator), repeat(denoiser.condition([""]), count)
    etas, costs = [], []
    for k in range(chain.steps):
        t = chain.t[k].expand(count)
        plain, eta = promised(denoiser, noised_detector, x, t)
        with torch.no_grad():
            clean = predicted_x0(denoiser, denoiser.predict(x, t, empty), x, t)
        etas.append(eta)
        costs.append(0.5 * (snr[k + 1] - snr[k]) * (clean - plain).flatten(1).double().square().sum(1))
        fresh = torch.randn(x.shape, generator=generator)
        x = chain_step(x, clean, fresh, (signal[k : k + 2], noise[k : k + 2]))
    return torch.stack(etas), torch.stack(costs), x


def of_target(
    denoiser: Denoiser, estimate: DetectedSamples, t: Tensor, multiplier: float, generator: torch.Generator
) -> tuple[float, float]:
    """``E_q[eta]`` and ``E_q[h eta] / E_q[h]`` at one level t, over the samples of q noised once."""
    x0, level = estimate.latents, t.expand(len(estimate.latents))
    x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator), level)
    parts = zip(x.split(256), level.split(256), strict=True)
    eta = torch.cat([promised(denoiser, estimate.noised_detector, some, at)[1] for some, at in parts])
    h = 1 + np.expm1(-multiplier) * eta
    return float(eta.mean()), float((h * eta).mean() / h.mean())


def dealt_out(estimate: DetectedSamples, seed: int) -> DetectedSamples:
    """The same samples with each other's detections; the noised detector stays."""
    order = torch.randperm(len(estimate.detected), generator=torch.Generator().manual_seed(seed + 3))
    return replace(estimate, detected=estimate.detected[order])


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000, help="base-model samples, of the empty prompt")
    parser.add_argument("--level", type=float, default=0.01, help="share of sevens that is solved for")
    parser.add_argument("--max-train-steps", type=int, default=FitConfig().max_train_steps)
    parser.add_argument("--learning-rate", type=float, default=None)
    parser.add_argument("--corrected", action="store_true", help="multipliers moved by measured levels")
    parser.add_argument("--permuted", action="store_true", help="detections dealt out to other samples: noise alone")
    parser.add_argument("--chains", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    denoiser, detector = denoiser_of(load_pipeline("digits")), detector_of("digits:seven")
    budget, sampling = RatiosConfig(num_samples=given.samples, seed=given.seed), Sampling(guidance_scale=1)
    estimate = estimate_detected(denoiser, Prompts([""]), {"seven": detector}, budget, sampling, None)
    solution = du.solve(du.Likelihood([given.level], kind="detector"), estimate.ratios)
    fitted = dealt_out(estimate, given.seed) if given.permuted else estimate
    settings = FitConfig(max_train_steps=given.max_train_steps, learning_rate=given.learning_rate, seed=given.seed)
    method = DetectedTilt() if given.corrected else DetectedTilt(at=())
    outcome = method.fit(DetectedFitContext(denoiser, fitted, solution, settings), [detector])
    chain = chain_of(denoiser, sampling.steps(denoiser), STEPS)
    eta, cost, ends = along_chain(denoiser, estimate.noised_detector, chain, given.chains, given.seed + 1)
    shown = float(detect(denoiser.pipeline, ends, [detector]).mean())
    undo(denoiser)
    generator = torch.Generator().manual_seed(given.seed + 2)
    print("log SNR: eta of the base model, the target, the student; cost from here to the next row, nats")
    for k in range(0, chain.steps, EVERY):
        base, target = of_target(denoiser, estimate, chain.t[k], float(solution.multipliers[0]), generator)
        at, spent = float(log_snr(denoiser, chain.t[k : k + 1])), float(cost[k : k + EVERY].sum(0).mean())
        print(f"{at:+5.1f}: {base:.4f} {target:.4f} {float(eta[k].mean()):.4f}; {spent:.4f}")
    total = cost.sum(0)
    reached = du.Likelihood([max(shown, 1 / len(ends))], kind="detector")
    least = du.solve(reached, estimate.ratios).primal
    print(f"multipliers: {', '.join(f'{value:.2f}' for value in outcome.multipliers[:, 0])}")
    print(f"the chain ends in {100 * shown:.2f} % sevens at {total.mean():.3f} ± {total.std() / len(total) ** 0.5:.3f} "
          f"nats; the target of that level costs {least:.3f}, the rest is the distance from it")  # fmt: skip


if __name__ == "__main__":
    main()
