"""A law on images and data: its score against autograd, the width of its kernels, and what a tilt gains in nats."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.methods.images.kernel_density import Law, kernels, law_of
from duality.point_masses import water_filling

seeds = st.integers(0, 2**32 - 1)


def bandwidth(rows):
    return kernels(rows)[0]


def samples(seed, count, d):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seeds, st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.floats(0.01, 2.0), st.floats(-6.0, 6.0))
def test_clean_is_the_mean_that_the_score_implies(seed, m, k, d, width, log_snr):
    """Tweedie: E[x_0 | x] = (x + n² grad log q_t(x))/s, by autograd on the density as it is written down."""
    law = Law(samples(seed, m, d), samples(seed + 1, k, d), width, 1.0)
    masses = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(m + 1))[:m].clip(1e-12))
    s, n = (torch.full((4, 1), math.sqrt(1 / (1 + math.exp(-sign * log_snr))), dtype=torch.float64) for sign in (1, -1))
    x = (s * samples(seed + 2, 4, d)).requires_grad_()

    def log_normal(points, variance):
        square = (x[:, None] - s[:, :, None] * points[None]).square().sum(-1)
        return -square / (2 * variance) - d / 2 * (2 * math.pi * variance).log()

    rest = math.log((1 - float(masses.sum())) / k)
    images = log_normal(law.images, n**2) + masses.log()
    value = torch.cat([images, log_normal(law.rest, n**2 + s**2 * width**2) + rest], 1).logsumexp(1).sum()
    (score,) = torch.autograd.grad(value, x)
    expected = ((x + n**2 * score) / s).detach()
    # Rounding in |x - s u|²/n² of up to 1e-16 · e^6 · 100 in the exponents moves a mean by that times its spread.
    np.testing.assert_allclose(law.clean(x.detach(), s, n, masses.log()), expected, rtol=1e-8, atol=1e-8)


@given(seeds, st.floats(0.1, 10.0))
def test_width_goes_with_the_units_and_does_not_see_repeats(seed, unit):
    some = samples(seed, 12, 3)
    h = bandwidth(some)
    assert bandwidth(unit * some + 5) == pytest.approx(unit * h, rel=1e-4)
    assert bandwidth(torch.cat([some, some[:5]])) == pytest.approx(h, rel=1e-4)


def test_width_is_the_best_of_a_grid():
    some = samples(0, 80, 2)
    square = torch.cdist(some, some).square().fill_diagonal_(math.inf)
    grid = torch.linspace(0.05, 2.0, 400, dtype=torch.float64)
    densities = [(-square / (2 * h**2)).logsumexp(1) - 2 * h.log() for h in grid]
    best = int(np.argmax([float(each.mean()) for each in densities]))
    width, doubt = kernels(some)
    assert width == pytest.approx(float(grid[best]), abs=0.01)
    assert doubt == pytest.approx(float(densities[best].std()), rel=0.02)


def test_one_draw_has_its_width_from_the_images():
    image, only = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert law_of(image, only, 10).width == pytest.approx(1.0, rel=1e-3)  # |a - u|²/d
    assert len(law_of(image, samples(0, 7, 4).view(7, 1, 2, 2), 3).rest) == 3
    with pytest.raises(ValueError, match="two different"):
        bandwidth(only)


@pytest.mark.parametrize(("asked", "d"), [(1.0, 2), (8.0, 2), (60.0, 16)])
def test_the_tilted_law_gains_what_is_asked(asked, d):
    """At image i, 1/2 E int (|eps - E_p eps|² - |eps - E_q eps|²) d log SNR = log(pi_i/p_i), within 4 s.e. of noise.

    The integral has to reach levels at which the image is told from kernels around it: d/2 log(1 + SNR h²) > asked.
    """
    law = Law(samples(3, 2, d), samples(4, 6, d), 0.4, 1.0)
    shares = np.array([0.1, 0.25])
    answer = water_filling(shares, asked - np.log(shares))
    low, high, count, repeats = -14.0, 14.0, 280, 400
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros(repeats, dtype=torch.float64)
    for j in range(count):
        log_snr = low + (high - low) * (j + 0.5) / count
        s, n = (torch.full((repeats, 1), (1 / (1 + math.exp(-k * log_snr))) ** 0.5).double() for k in (1, -1))
        x = s * law.images[:1] + n * torch.randn(repeats, d, generator=generator, dtype=torch.float64)
        before, after = (
            (law.clean(x, s, n, torch.from_numpy(masses)) - law.images[:1]).square().sum(1)
            for masses in (np.log(shares), answer.log_masses)
        )
        total += 0.5 * (s / n)[:, 0] ** 2 * (after - before) * (high - low) / count
    error = float(total.std()) / repeats**0.5
    elbo_drop = float(np.log(shares[0]) - answer.log_masses[0])
    assert elbo_drop == pytest.approx(asked)
    # The integral is cut off and taken by the midpoint rule: a thousandth of what it is.
    assert float(total.mean()) == pytest.approx(asked, abs=4 * error + 2e-3 * asked)


def states(law, log_snr, seed=7, count=5):
    s, n = (torch.full((count, 1), (1 / (1 + math.exp(-k * log_snr))) ** 0.5).double() for k in (1, -1))
    return s * law.images[:1] + n * samples(seed, count, law.images.shape[1]), s, n


@given(seeds, st.integers(1, 3), st.floats(-6.0, 6.0), st.floats(0.0, 80.0), st.floats(0.0, 30.0))
def test_an_exact_teacher_becomes_the_exact_tilt(seed, m, log_snr, asked, doubt):
    """x_T + moved = E_p[x_0 | x_t] where x_T = E_q[x_0 | x_t], whatever the odds and the doubt."""
    law = Law(samples(seed, m, 3), samples(seed + 1, 4, 3), 0.5, doubt)
    shares = np.random.default_rng(seed).dirichlet(np.ones(m + 1))[:m].clip(1e-3) * 0.9
    answer = water_filling(shares, asked - np.log(shares))
    before, after = torch.from_numpy(np.log(shares)), torch.from_numpy(answer.log_masses)
    x, s, n = states(law, log_snr)
    said = law.clean(x, s, n, before)
    # Where the two means lie close together the odds are read off a difference of rounded numbers: that moves x* by the
    # rounding of the means, times p'/p <= 1 in the images' part, and not by the odds' own error.
    np.testing.assert_allclose(
        said + law.moved(x, s, n, said, before, after), law.clean(x, s, n, after), atol=1e-6, rtol=1e-6
    )


def test_nothing_moves_where_masses_do_not():
    law = Law(samples(0, 2, 3), samples(1, 4, 3), 0.5, 5.0)
    same = torch.tensor([0.2, 0.1], dtype=torch.float64).log()
    x, s, n = states(law, 1.0)
    said = samples(2, 5, 3)
    np.testing.assert_allclose(law.moved(x, s, n, said, same, same), 0.0, atol=1e-12)


def test_the_teacher_is_believed_within_the_doubt():
    """Kernels that give an image odds of e^-4 or less: a base model that says it is the image for sure loses all of it
    where the doubt allows odds of one and more, and keeps it where there is none."""
    image, rest = torch.zeros(1, 3).double(), torch.full((1, 3), 2.0).double()
    before, after = (torch.tensor([value], dtype=torch.float64) for value in (math.log(0.2), -50.0))
    s, n = (torch.full((1, 1), value).double() for value in (0.6, 0.8))
    x = s * rest
    sure = image.clone()
    odds = float(Law(image, rest, 0.5, 0.0).split(x, s, n, before).log_odds)
    assert odds < -2
    believed = Law(image, rest, 0.5, 30.0)
    to_rest = believed.split(x, s, n, before).of_rest
    np.testing.assert_allclose(sure + believed.moved(x, s, n, sure, before, after), to_rest, atol=1e-9)
    kept = Law(image, rest, 0.5, 0.0).moved(x, s, n, sure, before, after)
    assert float(kept.norm()) < 1.1 / (1 + math.exp(-odds)) * float((to_rest - image).norm())
