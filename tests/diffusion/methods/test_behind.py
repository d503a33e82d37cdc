"""All samples that may be behind a noised state: their probabilities, and what a step makes of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm

from diffusion.methods.behind import Behind, posterior
from diffusion.pipelines import add_noise, denoiser_of
from tests.diffusion import families
from tests.diffusion.families import build


@given(st.integers(1, 9), st.integers(1, 5), st.floats(0.02, 1), st.integers(0, 2**32 - 1))
def test_probabilities_are_those_of_bayes_rule(count, width, noise, seed):
    rng = np.random.default_rng(seed)
    samples, x, shares = rng.normal(size=(count, width)), rng.normal(size=(3, width)), rng.random(count) + 0.01
    signal = np.sqrt(1 - noise**2)
    log = norm.logpdf(x[:, None], signal * samples, max(noise, 1e-9)).sum(-1) + np.log(shares)
    right = np.exp(log - logsumexp(log, axis=1, keepdims=True))
    scales = torch.full((3,), signal, dtype=torch.float64), torch.full((3,), noise, dtype=torch.float64)
    found = posterior(torch.from_numpy(x), torch.from_numpy(samples), scales, torch.from_numpy(shares).log())
    # Exponents of up to |x|^2/noise^2 ~ 200/noise^2 are rounded, and so the ratios of probabilities by as much.
    np.testing.assert_allclose(found.numpy(), right, rtol=1e4 / noise**2 * np.finfo(float).eps, atol=1e-300)


@pytest.fixture(scope="module", params=["sd", "sd3", "ddpm"])
def denoiser(request):
    return denoiser_of(build(getattr(families, request.param)))


def pool_of(denoiser, count=40, spread=1.0):
    chance = torch.Generator().manual_seed(0)
    samples = spread * torch.randn(count, *denoiser.sample_shape, generator=chance)
    shares = torch.rand(count, generator=chance, dtype=torch.float64) + 0.1
    return Behind(denoiser, samples, torch.arange(count) % 2, shares / shares.sum())


def test_the_sum_of_targets_is_that_of_every_sample_by_itself(denoiser):
    pool = pool_of(denoiser, 6)
    chance = torch.Generator().manual_seed(1)
    x = torch.randn(3, *denoiser.sample_shape, generator=chance)
    t = torch.tensor([denoiser.levels - 2, denoiser.levels // 2, denoiser.levels // 4])
    factors = torch.randn(3, 6, generator=chance, dtype=torch.float64)
    signal, noise = denoiser.schedule(t)
    found = pool.targets(x, t, factors)
    right = torch.zeros_like(x)
    for j in range(6):
        x0 = pool.samples[j].expand_as(x)
        target = denoiser.target(x0, (x - signal * x0) / noise, t)
        right += factors[:, j].float().view(-1, *(1,) * (x.ndim - 1)) * target
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_at_low_noise_it_is_the_sample_itself_and_at_high_noise_all_of_its_prompt(denoiser):
    pool = pool_of(denoiser)
    chosen = torch.tensor([3, 8, 25])
    eps = torch.randn(3, *denoiser.sample_shape, generator=torch.Generator().manual_seed(2))
    for level, one in ((0, True), (denoiser.levels - 1, False)):
        t = torch.full((3,), level)
        x = add_noise(denoiser, pool.samples[chosen], eps, t)
        pi = pool(x, t, pool.prompts[chosen])
        assert float(pi[torch.arange(3), 1 - pool.prompts[chosen]].sum()) == 0
        others = pi[:, pool.prompts == 0][pool.prompts[chosen] == 1]
        assert float(others.sum()) == 0
        likely = pi.max(1)
        assert bool((likely.values > 0.999).all()) == one
        if one:
            assert torch.equal(likely.indices, chosen)


def test_a_step_has_the_same_mean_and_less_noise():
    """The pull on the network at one level, drawn sample by sample, and over all samples behind the same states."""
    denoiser = denoiser_of(build(families.ddpm))
    pool = pool_of(denoiser, spread=0.3)
    pool = Behind(denoiser, pool.samples, torch.zeros(40, dtype=torch.long), pool.shares)
    count, level = 4000, int(0.8 * denoiser.levels)
    chance = torch.Generator().manual_seed(3)
    chosen = torch.multinomial(pool.shares, count, replacement=True, generator=chance)
    eps = torch.randn(count, *denoiser.sample_shape, generator=chance)
    t = torch.full((count,), level)
    x = add_noise(denoiser, pool.samples[chosen], eps, t)
    weights = torch.linspace(0, 1, 40, dtype=torch.float64)
    pi = pool(x, t, torch.zeros(count, dtype=torch.long))
    drawn = pool.targets(x, t, torch.nn.functional.one_hot(chosen, 40).double() * weights)
    meant = pool.targets(x, t, pi * weights)
    # A function of the state, as a network is: what a gradient sees of the pull is its product with such functions.
    by = x.flatten(1)[:, :5].tanh().double()
    one, all_ = ((value.flatten(1)[:, :1].double() * by) for value in (drawn, meant))
    apart = (one - all_).mean(0) / ((one - all_).var(0) / count).sqrt()
    assert float(apart.abs().max()) < 4.5  # five standard normals, one-sided chance 2e-5 in all
    assert float(meant.var()) < 0.9 * float(drawn.var())
