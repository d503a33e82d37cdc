"""Particles: exact mixtures by exact kernels, with potentials and proposals wrong on purpose; then pipelines."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp

import duality as du
from diffusion.guidance.particles import STOCHASTIC, SamplerProcess, particle_samples, run, systematic
from diffusion.guidance.rejection import rejection_samples
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.base import generators, noise_of
from diffusion.pipelines.law import under
from diffusion.ratios.detected import detect, estimate_detected
from diffusion.ratios.noised_detector import NoisedDetector
from diffusion.runtime.seeds import seeded_weights
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.detector_levels import constraints_of, problem_of
from diffusion.tasks.detectors import CheckedDetector, detector_of
from diffusion.tasks.prompts import Prompts
from tests.diffusion import families
from tests.diffusion.families import build

SHARES, MEANS, SPREADS = np.array([0.2, 0.4, 0.4]), np.array([-1.5, 0.5, 2.0]), np.array([0.6, 0.5, 0.4])
LAM = 5.0
STEPS = 8
RUNS, N = 200, 60


def logpdf(x, mean, spread):
    """Of a normal law, less a constant that no ratio sees."""
    return -0.5 * ((x - mean) / spread) ** 2 - np.log(spread)


class Mixture:
    """A noised mixture taken back by its exact reverse kernels, mixtures themselves: the end is the mixture's law.

    ``tilt``: how much less often proposals choose a component on the right; ``wrong``: how far psi is off; ``flaw``:
    what is left out of the weights on purpose.
    """

    steps = STEPS

    def __init__(self, n, chance, tilt, wrong, flaw=None):
        self.chance, self.tilt, self.wrong, self.flaw = chance, tilt, wrong, flaw
        self.noise = np.append(np.geomspace(4.0, 0.1, STEPS), 0.0)  # x_k = x_0 + noise_k eps
        component = chance.choice(3, n, p=SHARES)
        self.x = MEANS[component] + np.hypot(SPREADS[component], self.noise[0]) * chance.standard_normal(n)

    def responsibilities(self, k):
        scale = np.hypot(SPREADS, self.noise[k])
        said = np.log(SHARES) + logpdf(self.x[:, None], MEANS, scale)
        return said - logsumexp(said, axis=1, keepdims=True)

    def look(self, k):
        if k == self.steps:
            return -LAM * (self.x > 0)
        right = np.exp(self.responsibilities(k)) @ (MEANS > 0)
        return np.log1p(np.expm1(-LAM) * right) * (1 - self.wrong) + self.wrong * np.sin(3 * self.x)

    def move(self, k):
        own = self.responsibilities(k)
        asked = own - self.tilt * (MEANS > 0)
        asked -= logsumexp(asked, axis=1, keepdims=True)
        edges = np.exp(asked).cumsum(1)
        chosen = (self.chance.random((len(self.x), 1)) > edges).sum(1).clip(0, 2)
        v = SPREADS**2 + self.noise[k + 1] ** 2
        gain = v / (SPREADS**2 + self.noise[k] ** 2)
        mean, spread = MEANS + gain * (self.x[:, None] - MEANS), np.sqrt(v * (1 - gain))
        rows = np.arange(len(self.x))
        self.x = mean[rows, chosen] + spread[chosen] * self.chance.standard_normal(len(self.x))
        density = logpdf(self.x[:, None], mean, spread)
        ratio = logsumexp(own + density, axis=1) - logsumexp(asked + density, axis=1)
        return np.zeros(len(self.x)) if self.flaw == "ratio" else ratio

    def take(self, index):
        self.x = self.x[index]


def exact(cut):
    """E[w 1(x < cut)] in closed form."""
    below = (SHARES * stats.norm.cdf(min(cut, 0.0), MEANS, SPREADS)).sum()
    above = (SHARES * (stats.norm.cdf(cut, MEANS, SPREADS) - stats.norm.cdf(0, MEANS, SPREADS))).sum() if cut > 0 else 0
    return below + math.exp(-LAM) * above


CUTS = (-1.5, 0.5, math.inf)
# P(one of six normal means, three cuts in two settings, is off by that much) <= 1e-5.
LIMIT = stats.norm.isf(1e-5 / (2 * 6))


def deviations(tilt, wrong, flaw=None, seed=0):
    """Standardised errors (3,) of the unbiased estimates Z sum_j W_j f(x_j) of E[w f], over independent runs."""
    found = []
    for one in range(RUNS):
        chance = np.random.default_rng([seed, one])
        process = Mixture(N, chance, tilt, wrong, flaw)
        result = run(process, N, chance)
        weights = np.exp(result.log_weights + result.log_normaliser)
        found.append([weights @ (process.x < cut) for cut in CUTS])
    found = np.array(found)
    return (found.mean(0) - [exact(cut) for cut in CUTS]) / (found.std(0, ddof=1) / RUNS**0.5)


@pytest.mark.parametrize(("tilt", "wrong"), [(0.0, 0.0), (1.5, 0.4)])
def test_estimates_are_unbiased_at_any_size_whatever_guidance_says(tilt, wrong):
    assert np.abs(deviations(tilt, wrong)).max() < LIMIT


def test_a_weight_that_forgets_the_proposal_is_found_out():
    assert np.abs(deviations(1.5, 0.4, flaw="ratio")).max() > LIMIT


def test_the_law_is_the_target_s_in_the_limit():
    """One particle of each of many independent runs: exact samples, but for a bias of order 1/N."""
    picked, target = [], []
    for one in range(RUNS):
        chance = np.random.default_rng([5, one])
        process = Mixture(3 * N, chance, 1.0, 0.3)
        result = run(process, 3 * N, chance)
        picked.append(process.x[result.index[chance.integers(3 * N)]])
    z = exact(math.inf)

    def cdf(values):
        return np.array([exact(value) for value in np.atleast_1d(values)]) / z

    assert stats.kstest(picked, cdf).pvalue > 1e-4
    # Samples of q are not the target's.
    chance = np.random.default_rng(6)
    component = chance.choice(3, RUNS, p=SHARES)
    target = MEANS[component] + SPREADS[component] * chance.standard_normal(RUNS)
    assert stats.kstest(target, cdf).pvalue < 1e-4


def test_a_psi_near_doob_s_function_keeps_the_weights_even():
    left = []
    for wrong in (0.0, 0.9):
        results = []
        for seed in range(20):
            chance = np.random.default_rng([1, seed])
            results.append(run(Mixture(200, chance, 0.0, wrong), 200, chance))
        left.append(np.mean([each.effective[-1] for each in results]))
        last = results[-1]
        assert last.effective[-1] == pytest.approx(1 / np.exp(2 * last.log_weights).sum())
    assert left[0] > 1.5 * left[1]


def test_paths_are_drawn_in_proportion_and_no_more_than_one_beside():
    chance = np.random.default_rng(2)
    log_weights = np.log(np.array([0.5, 0.0, 0.3, 0.2]) + 1e-300)
    counts = np.array([np.bincount(systematic(log_weights, chance), minlength=4) for _ in range(4000)])
    assert np.abs(counts - 4 * np.exp(log_weights)).max() <= 1
    assert (counts[:, 1] == 0).all()
    np.testing.assert_allclose(counts.mean(0), [2, 0, 1.2, 0.8], atol=5 * 0.5 / 4000**0.5)
    assert systematic(np.array([0.0, -np.inf]), chance).tolist() == [0, 0]


class Fixed:
    """Weights that are given; nothing moves."""

    def __init__(self, *values):
        self.values, self.steps = values, len(values) - 1

    def look(self, k):
        return np.array(self.values[k], dtype=float)

    def move(self, k):
        return np.zeros(len(self.values[0]))

    def take(self, index):
        self.values = [np.asarray(value)[index] for value in self.values]


def test_weights_that_cannot_be_are_refused():
    chance = np.random.default_rng(0)
    with pytest.raises(ValueError, match="after 1 moves no particle has any weight"):
        run(Fixed([0, 0], [-np.inf, -np.inf]), 2, chance)
    with pytest.raises(FloatingPointError, match="after 0 moves: not a number"):
        run(Fixed([0, np.nan]), 2, chance)
    with pytest.raises(ValueError, match="n must be at least 1"):
        run(Fixed([]), 0, chance)
    found = run(Fixed([0, 0], [0, -np.inf]), 2, chance)
    assert (found.distinct, found.roots, found.effective[-1]) == (1, 1, pytest.approx(1))
    assert math.exp(found.log_normaliser) == pytest.approx(0.5)


def never(images):
    return np.zeros(len(images))


@pytest.mark.parametrize("scheduler", STOCHASTIC)
def test_without_a_weight_it_is_the_pipeline_s_own_call(scheduler):
    """Bit for bit the same noise: the chain that is corrected is the sampler's, at its guidance scale."""
    denoiser = under(denoiser_of(build(families.sd)), scheduler=scheduler)
    sampling = Sampling(num_inference_steps=3, guidance_scale=3, negative_prompt="one")
    rule = [CheckedDetector("never", never)], np.array([2.0])
    process = SamplerProcess(denoiser, "seven", sampling, rule, None, n=4, seed=7)
    made, found = particle_samples(process, 7)
    chances = generators(7, 4)
    start = noise_of(chances, denoiser.sample_shape)
    plain = denoiser.pipeline(
        ["seven"] * 4, latents=start, generator=chances, num_inference_steps=3, guidance_scale=3.0,
        negative_prompt=["one"] * 4, output_type="latent",
    ).images  # fmt: skip
    np.testing.assert_allclose(made, plain, atol=1e-4 * float(plain.abs().max()))
    assert found.effective == pytest.approx((4,) * 4)
    assert (found.distinct, found.resampled, process.evaluations) == (4, 0, 4 * 3 * 2)


def test_a_sampler_without_noise_is_refused():
    with pytest.raises(ValueError, match=r"DDIMScheduler has none, or remembers.*take DDPMScheduler or Euler"):
        SamplerProcess(
            denoiser_of(build(families.sd)), "", Sampling(num_inference_steps=2), ([], np.zeros(1)), None, n=2, seed=0
        )


def test_a_head_steers_and_its_error_is_corrected():
    """An untrained head's psi, with resampling at every step: Z is that of plain weights, within errors."""
    denoiser = under(denoiser_of(build(families.ddpm)), scheduler="DDPMScheduler")
    sampling, lam = Sampling(num_inference_steps=4), np.array([2.0])

    def bright(images):
        return (images.mean(axis=(1, 2, 3)) > 0).astype(float)

    detector = CheckedDetector("bright", bright)
    plain = SamplerProcess(denoiser, "", sampling, ([detector], lam), None, n=128, seed=1)
    made, _ = particle_samples(plain, 1)
    states = plain.states
    w = np.exp(-detect(denoiser.pipeline, states, [detector]).numpy() @ lam)
    from diffusion.ratios.classifier import features

    with seeded_weights(0):
        width = features(denoiser, states[:1], torch.tensor([5]), denoiser.condition([""])).shape[1]
        head = NoisedDetector(width, 1).eval()
    found = []
    for seed in range(6):
        process = SamplerProcess(denoiser, "", sampling, ([detector], lam), head, n=48, seed=seed + 10)
        _, result = particle_samples(process, seed, threshold=1.0)
        assert result.resampled == 4
        found.append(math.exp(result.log_normaliser))
    error = math.hypot(w.std(ddof=1) / 128**0.5, np.std(found, ddof=1) / 6**0.5)
    assert abs(np.mean(found) - w.mean()) < stats.t.isf(1e-4 / 2, 5) * error
    assert made.shape == (128, *denoiser.sample_shape)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_on_digits_the_share_is_rejection_s():
    """Both reach the share that the solver promises; independent runs give the error of dependent particles."""
    denoiser = under(denoiser_of(load_pipeline("digits")), scheduler="DDPMScheduler")
    sampling, detector = Sampling(num_inference_steps=14, guidance_scale=1), detector_of("digits:seven")
    budget = RatiosConfig(num_samples=600)
    law = estimate_detected(denoiser, Prompts([""]), {"seven": detector}, budget, sampling, None)
    asked = problem_of(constraints_of(["seven"], ["2%"], (), law.prompts), law.ratios)
    solution = du.solve(asked, law.ratios)
    rule = [detector], solution.multipliers
    shares = []
    for seed in range(8):
        process = SamplerProcess(denoiser, "", sampling, rule, law.noised_detector, n=100, seed=seed)
        made, found = particle_samples(process, seed)
        assert found.effective[-1] > 50
        shares.append(float(detect(denoiser.pipeline, made, [detector]).mean()))
    kept = rejection_samples(denoiser, Prompts([""]), np.zeros(800, dtype=np.int64), sampling, rule, seed=99)
    share = float(detect(denoiser.pipeline, kept.latents, [detector]).mean())
    error = math.hypot(np.std(shares, ddof=1) / 8**0.5, (share * (1 - share) / 800) ** 0.5)
    assert abs(np.mean(shares) - share) < stats.t.isf(1e-4 / 2, 7) * max(error, 0.005)
    before = float(law.detected.mean())
    assert max(np.mean(shares), share) < before / 2
    print(f"before {before:.4f}, rejection {share:.4f}, particles {np.mean(shares):.4f}")
