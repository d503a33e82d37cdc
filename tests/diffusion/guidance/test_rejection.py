"""Rejection: samples of the exact target, whatever the sampler, and what they cost."""

import numpy as np
import pytest
import torch
from scipy import stats

import duality as du
from diffusion.guidance import rejection
from diffusion.guidance.rejection import rejection_samples
from diffusion.pipelines import denoiser_of
from diffusion.ratios.detected import grouped
from diffusion.tasks.config import Sampling
from diffusion.tasks.detectors import CheckedDetector
from diffusion.tasks.prompts import Prompts
from tests.diffusion import families
from tests.diffusion.families import build

PROMPTS = Prompts(["one", {"prompt": "seven", "anchor": "a digit"}])
# Of each prompt's samples 10 % and 40 % show it.
SHARES = np.array([0.1, 0.4])


class Stub:
    """A sampler of numbers below 1 that show the concept below a prompt's share, and what a detector says of them."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(rejection, "sample_prompts", self.sample)
        monkeypatch.setattr(rejection, "detect", lambda _pipeline, latents, _detectors: latents[:, 1:].double())
        self.pipeline = None

    def sample(self, _denoiser, _prompts, chosen, _sampling, *, seed):
        uniform = np.random.default_rng(seed).random(len(chosen))
        return torch.from_numpy(np.column_stack([uniform, uniform < SHARES[chosen]]).astype(np.float32))


def test_the_law_is_the_solver_s_target_and_the_price_is_one_over_z(monkeypatch):
    stub = Stub(monkeypatch)
    row = np.repeat([0, 1], 1000)
    shown = np.concatenate([np.arange(1000) < 1000 * share for share in SHARES]).astype(float)[:, None]
    solution = du.solve(
        du.Likelihood(0.05, kind="detector"), grouped(PROMPTS, torch.from_numpy(row), torch.from_numpy(shown))
    )
    chosen = np.resize([0, 1], 40_000)
    found = rejection_samples(stub, PROMPTS, chosen, Sampling(), ([], solution.multipliers), seed=3)
    said = found.latents[:, 1].numpy()
    target = np.exp(solution.log_weights)
    for c in (0, 1):
        share = target[(row == c) & (shown[:, 0] > 0)].sum() / 0.5
        hits = int(said[chosen == c].sum())
        assert stats.binomtest(hits, 20_000, share).pvalue > 1e-4
        # What does not show the concept has the law that it had.
        rest = found.latents[:, 0].numpy()[(chosen == c) & (said == 0)]
        assert stats.kstest(rest, stats.uniform(SHARES[c], 1 - SHARES[c]).cdf).pvalue > 1e-4
    z = 1 - (1 - np.exp(-solution.multipliers[0])) * SHARES
    assert abs(found.drawn / 40_000 - (1 / z).mean()) < 0.05


def test_what_is_kept_is_drawn_more_often(monkeypatch):
    """A negative multiplier: odds of what shows it grow by its exponential, and the price is e^s/Z."""
    stub = Stub(monkeypatch)
    found = rejection_samples(
        stub, PROMPTS, np.zeros(40_000, dtype=np.int64), Sampling(), ([], np.array([-1.0])), seed=3
    )
    z = 0.9 + 0.1 * np.e
    share = 0.1 * np.e / z
    assert stats.binomtest(int(found.latents[:, 1].sum()), 40_000, share).pvalue > 1e-4
    assert abs(found.drawn / 40_000 - np.e / z) < 0.05


def test_a_prompt_that_always_shows_it_is_named(monkeypatch):
    stub = Stub(monkeypatch)
    monkeypatch.setattr(rejection, "detect", lambda _pipeline, latents, _detectors: torch.ones(len(latents), 1))
    with pytest.raises(ValueError, match="'a digit': 3 of 3 samples were rejected 5 times"):
        rejection_samples(stub, PROMPTS, np.array([1, 1, 1]), Sampling(), ([], np.array([1e9])), seed=0, rounds=5)


def test_on_a_pipeline_under_guidance():
    denoiser = denoiser_of(build(families.sd))
    sampling = Sampling(num_inference_steps=2, guidance_scale=3)
    seen = []

    def bright(images):
        seen.append(len(images))
        return (images.mean(axis=(1, 2, 3)) > np.median(images.mean(axis=(1, 2, 3)))).astype(float)

    rule = [CheckedDetector("bright", bright)], np.array([1e3])
    found = rejection_samples(denoiser, PROMPTS, np.resize([0, 1], 8), sampling, rule, seed=1)
    again = rejection_samples(denoiser, PROMPTS, np.resize([0, 1], 8), sampling, rule, seed=1)
    assert torch.equal(found.latents, again.latents)
    assert found.latents.shape == (8, *denoiser.sample_shape)
    assert found.drawn == sum(seen) / 2 > 8
