r"""How much of a correction guidance has right, by noise level.

::

    python -m diffusion.digits.experiments.guidance_gain

What a tilt by a yes-or-no detector l changes of E[x_0 | x_t] is proportional to C = Cov(l, x_0 | x_t). Guidance puts
one of three fields G in its place, ::

    prompts    eta (xhat(x_t | the concept's prompt) - xhat(x_t)), eta = E[l | x_t] by the noised detector
    gradient   (noise²/signal) grad eta, its own gradient: C itself, were it exact (Tweedie)
    foreseen   the same of eta by the detector at the predicted image and the noised detector together
               (diffusion.ratios.foreseen)

States are of samples that neither has seen. Every sample of q gives an unbiased value (l - eta)(x_0 - xhat) of C, so
by least squares over many ::

    gain   = E<C, G> / E|G|²            1: right in the mean; 0: has nothing to do with what is to be changed
    share  = E<C, G>² / E|G|²           the energy of C that lies along G, in units of SNR (nats at small tilts)

with standard errors over states, from independent noises. All fields are in units of x_0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from diffusion.digits.data import paraphrases
from diffusion.pipelines import Denoiser, add_noise, denoiser_of, load_pipeline, rows
from diffusion.pipelines.base import predicted_x0
from diffusion.ratios.classifier import Bottleneck, log_snr, pooled
from diffusion.ratios.detected import DetectedSamples, estimate_detected, sample_law
from diffusion.ratios.foreseen import Foreseen, foresee
from diffusion.ratios.noise_integral import spread_log_snr
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.detectors import detector_of
from diffusion.tasks.prompts import Prompts

EDGES = (-7.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)
BATCH = 128
FIELDS = ("prompts", "gradient", "foreseen")


def gain(covariance: Tensor, field: Tensor) -> tuple[float, float]:
    """E<C, G>/E|G|² of fields (n, ...) at n states, and its standard error (delta method, of a ratio of means)."""
    along = (covariance * field).flatten(1).sum(1).double()
    energy = field.flatten(1).square().sum(1).double()
    found = along.mean() / energy.mean()
    error = (along - found * energy).std() / energy.mean() / len(along) ** 0.5
    return float(found), float(error)


def fields(
    denoiser: Denoiser, estimate: DetectedSamples, foreseen: Foreseen, states: int, seed: int
) -> dict[str, Tensor]:
    """log SNR (n,), C, and the fields (n, ...) at ``states`` noised ones of the samples of ``estimate``, all of the
    empty prompt."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(estimate.latents), (states,), generator=generator)
    x0, t = estimate.latents[chosen], spread_log_snr(denoiser, states, generator)
    x = add_noise(denoiser, x0, torch.randn(x0.shape, generator=generator), t)
    empty, asked = denoiser.condition([""]), denoiser.condition(paraphrases(7)[:1])
    parts: dict[str, list[Tensor]] = {"covariance": [], **{name: [] for name in FIELDS}}
    for some in torch.arange(states).split(BATCH):
        at, level, row = x[some].requires_grad_(), t[some], torch.zeros(len(some), dtype=torch.long)
        signal, noise = denoiser.schedule(level)
        with Bottleneck(denoiser) as caught:
            said = denoiser.predict(at, level, rows(empty, row))
        base, snr = predicted_x0(denoiser, said, at, level), log_snr(denoiser, level)
        plain = estimate.noised_detector(pooled(cast(Tensor, caught.last), said), snr)
        eta, ahead = plain[:, 0], foreseen(denoiser, base, plain, snr)[:, 0]
        (slope,) = torch.autograd.grad(eta.sum(), at, retain_graph=True)
        (steeper,) = torch.autograd.grad(ahead.sum(), at)
        with torch.no_grad():
            pulled = predicted_x0(denoiser, denoiser.predict(at, level, rows(asked, row)), at, level)
            by = eta.view(-1, *(1,) * (base.ndim - 1))
            shown = estimate.detected[chosen[some], 0].float().view_as(by)
            parts["covariance"].append((shown - by) * (x0[some] - base))
            parts["prompts"].append(by * (pulled - base))
            parts["gradient"].append(noise**2 / signal * slope)
            parts["foreseen"].append(noise**2 / signal * steeper)
    return {"log_snr": log_snr(denoiser, t)} | {name: torch.cat(each) for name, each in parts.items()}


def table(found: dict[str, Tensor]) -> list[dict[str, float]]:
    """One row a band of log SNR: its ends, states, and gain, standard error and share of each field."""
    result = []
    for low, high in pairwise(EDGES):
        here = (found["log_snr"] >= low) & (found["log_snr"] < high)
        row = {"from": low, "to": high, "states": float(here.sum())}
        snr = float(found["log_snr"][here].double().exp().mean())
        for name in FIELDS:
            covariance, field = found["covariance"][here], found[name][here]
            value, error = gain(covariance, field)
            energy = float(field.flatten(1).square().sum(1).double().mean())
            row |= {f"{name}_gain": value, f"{name}_stderr": error, f"{name}_share": value**2 * energy * snr}
        result.append(row)
    return result


def main(words: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000, help="samples of the empty prompt")
    parser.add_argument("--states", type=int, default=12000, help="noised states, even in log SNR")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    denoiser = denoiser_of(load_pipeline("digits"))
    detector = detector_of("digits:seven")
    budget = RatiosConfig(num_samples=given.samples, seed=given.seed)
    estimate = estimate_detected(denoiser, Prompts([""]), {"seven": detector}, budget, Sampling(guidance_scale=1), None)
    foreseen = foresee(denoiser, estimate, [detector])
    assert foreseen is not None  # the embedded classifier has log odds
    # Fresh ones: noised detectors are steeper at samples that they know.
    again = budget.but(seed=given.seed + 1)
    rows_, latents, detected = sample_law(denoiser, estimate.prompts, [detector], again, estimate.sampling, None)
    fresh = replace(estimate, rows=rows_, latents=latents, detected=detected)
    for row in table(fields(denoiser, fresh, foreseen, given.states, given.seed + 1)):
        said = [
            f"{name} {row[f'{name}_gain']:.2f} ± {row[f'{name}_stderr']:.2f} ({row[f'{name}_share']:.4f})"
            for name in FIELDS
        ]
        print(f"log SNR {row['from']:+.0f} to {row['to']:+.0f}, {row['states']:.0f} states: {', '.join(said)}")


if __name__ == "__main__":
    main()
