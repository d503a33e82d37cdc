"""What detectors would say of predicted images: the regression that makes a probability of it, and its slope."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.pipelines import denoiser_of
from diffusion.pipelines.latents import decode, differentiable_images
from diffusion.ratios.classifier import log_snr
from diffusion.ratios.detected import held_out
from diffusion.ratios.foreseen import KNOTS, Foreseen, foresee, hats, regressed
from diffusion.tasks.detectors import DifferentiableDetector, detector_of
from diffusion.tasks.prompts import Prompts
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.methods.test_guided_tilt import noised_detector_of, samples_of


@pytest.fixture(scope="module")
def denoiser():
    return denoiser_of(build(families.sd))


def bright(images):
    """Log odds of an image being bright."""
    return 8 * images.mean((1, 2, 3))


BRIGHT = DifferentiableDetector(lambda images: (images.mean((1, 2, 3)) > 0).astype(float), bright)


@given(st.lists(st.floats(-12, 12), min_size=1, max_size=8))
def test_hats_add_up_to_one_and_give_back_what_is_linear_between_knots(levels):
    level = torch.tensor(levels, dtype=torch.float64)
    weight = hats(level)
    ones = torch.ones(len(levels), dtype=torch.float64)
    eps = float(torch.finfo(torch.float64).eps)
    torch.testing.assert_close(weight.sum(1), ones, rtol=0, atol=100 * eps)
    knots = torch.tensor(KNOTS, dtype=torch.float64)
    torch.testing.assert_close(weight @ knots, level.clamp(KNOTS[0], KNOTS[-1]), rtol=0, atol=100 * eps)


def rows(count, seed, sure):
    """Log SNRs, z that says half of the truth of late states, a noised detector's logit, and labels of both."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(-7, 5, count)
    z, logit = 4 * rng.standard_normal(count), rng.standard_normal(count)
    truth = logit + np.where(level > 0, sure, 0.0) * z
    return hats(torch.from_numpy(level)).numpy(), z, logit, (rng.random(count) < 1 / (1 + np.exp(-truth))) * 1.0, level


def test_detectors_are_believed_where_they_have_been_right():
    near, z, logit, said, _ = rows(20000, 0, 0.5)
    beta = regressed(near, z, logit, said)
    # Beyond the turn .5, and before it 0, to what 20,000 labels tell.
    assert abs(beta[-1, 0] - 0.5) < 0.1
    assert abs(beta[:2, 0]).max() < 0.1
    # The gradient is zero there: by differences of the loss as it is written down.
    design = (near[:, :, None] * np.stack([z, logit, np.ones_like(z)], 1)[:, None]).reshape(len(z), -1)

    def loss(at):
        value = logit + design @ at
        return float((np.logaddexp(0, value) - said * value).sum() + 0.5 * at @ at)

    least = loss(beta.ravel())
    for j in range(beta.size):
        for side in (-1e-2, 1e-2):
            other = beta.ravel().copy()
            other[j] += side
            assert loss(other) >= least


@given(st.integers(0, 2**31))
def test_what_says_nothing_is_hardly_believed(seed):
    near, z, logit, said, _ = rows(2000, seed, 0.0)
    beta = regressed(near, z, logit, said)
    fresh = rows(20000, seed + 1, 0.0)
    design = (fresh[0][:, :, None] * np.stack([fresh[1], fresh[2], np.ones_like(fresh[1])], 1)[:, None]).reshape(
        20000, -1
    )

    def cross_entropy(value):
        return float((np.logaddexp(0, value) - fresh[3] * value).mean())

    # Eighteen coefficients from 2,000 rows cost 18/(2 · 2,000) nats in the mean; ten times that is far out.
    assert cross_entropy(fresh[2] + design @ beta.ravel()) < cross_entropy(fresh[2]) + 10 * 18 / 4000


def test_without_rows_the_noised_detector_stays_as_it_is():
    none = np.zeros((0, len(KNOTS))), np.zeros(0), np.zeros(0), np.zeros(0)
    assert not regressed(*none).any()


def latents_of(denoiser, count):
    return 0.5 * torch.randn(count, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))


def survey(denoiser, detector, count=60):
    prompts = Prompts(["seven", "one"])
    estimate, latents = samples_of(denoiser, prompts), latents_of(denoiser, count)
    said = torch.from_numpy(detector(decode(denoiser.pipeline, latents)))[:, None]
    return replace(estimate, latents=latents, rows=torch.arange(count) % 2, detected=said)


def test_a_detector_that_sees_ahead_is_better_than_a_noised_detector_that_learned_nothing(denoiser):
    # Brighter than half of them, by odds that are no guess.
    means = decode(denoiser.pipeline, latents_of(denoiser, 300)).mean((1, 2, 3))
    middle, width = float(np.median(means)), float(means.std()) / 4
    detector = detector_of(
        DifferentiableDetector(
            lambda images: (images.mean((1, 2, 3)) > middle).astype(float),
            lambda images: (images.mean((1, 2, 3)) - middle) / width,
        )
    )
    estimate = survey(denoiser, detector, 300)
    assert 0.4 < float(estimate.detected.mean()) < 0.6
    found = foresee(denoiser, estimate, [detector])
    assert found.complete
    t = torch.full((64,), 1)
    x0 = estimate.latents[:64]
    level = log_snr(denoiser, t)
    with torch.no_grad():
        plain = torch.full((64, 1), float(estimate.detected.mean()))
        better = found(denoiser, x0, plain, level)

    def cross_entropy(eta):
        return float(torch.nn.functional.binary_cross_entropy(eta.double(), estimate.detected[:64]))

    assert cross_entropy(better) < 0.8 * cross_entropy(plain)
    again = foresee(denoiser, estimate, [detector], batch=17)
    torch.testing.assert_close(again.coefficients, found.coefficients, rtol=1e-2, atol=1e-2)


def test_the_slope_is_that_of_differences(denoiser):
    coefficients = torch.zeros(1, len(KNOTS), 3)
    coefficients[..., 0], coefficients[..., 1], coefficients[..., 2] = 0.4, -0.5, 0.3
    found = Foreseen((bright,), coefficients)
    t = torch.tensor([200, 700])
    x0 = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1))
    eta, level = torch.tensor([[0.3], [0.8]]), log_snr(denoiser, t)
    state = x0.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(found(denoiser, state, eta, level).sum(), state)
    size = slope.flatten(1).norm(dim=1)
    assert (size > 0).all()
    step = 0.05 * slope / size.view(-1, 1, 1, 1)
    with torch.no_grad():
        moved = found(denoiser, x0 + step, eta, level) - found(denoiser, x0 - step, eta, level)
    torch.testing.assert_close(moved[:, 0] / 0.1, size, rtol=0.02, atol=0)
    # By hand: the logit that is written in the module's docstring.
    z = bright(differentiable_images(denoiser.pipeline, x0)).detach()
    by_hand = torch.sigmoid(0.5 * torch.logit(eta[:, 0]) + 0.4 * z + 0.3)
    torch.testing.assert_close(found(denoiser, x0, eta, level)[:, 0].detach(), by_hand, rtol=1e-5, atol=1e-6)


def test_detectors_without_a_gradient_are_left_to_the_noised_detector(denoiser):
    blind = detector_of(lambda images: (images.mean((1, 2, 3)) > 0).astype(float))
    assert blind.log_odds is None
    estimate = survey(denoiser, blind)
    assert foresee(denoiser, estimate, [blind]) is None
    both = replace(estimate, detected=estimate.detected.repeat(1, 2), noised_detector=noised_detector_of(denoiser, 2))
    found = foresee(denoiser, both, [blind, detector_of(BRIGHT)])
    assert not found.complete
    eta = torch.tensor([[0.2, 0.2]]).repeat(3, 1)
    said = found(denoiser, both.latents[:3], eta, torch.zeros(3))
    assert torch.equal(said[:, 0], eta[:, 0])
    assert not torch.equal(said[:, 1], eta[:, 1])


@pytest.mark.parametrize(
    ("log_odds", "words"),
    [
        (lambda images: images.mean((1, 2)), "must have shape"),
        (lambda images: images.mean((1, 2, 3)) * float("nan"), "must be finite"),
    ],
)
def test_log_odds_that_are_none(denoiser, log_odds, words):
    detector = detector_of(DifferentiableDetector(BRIGHT.ask, log_odds))
    estimate = survey(denoiser, detector)
    with pytest.raises(ValueError, match=words):
        foresee(denoiser, estimate, [detector])


def test_it_is_fitted_on_samples_that_the_noised_detector_never_saw(denoiser):
    detector = detector_of(BRIGHT)
    estimate = survey(denoiser, detector)
    seen = ~held_out(len(estimate.latents))
    other = replace(estimate, detected=torch.where(seen[:, None], 1 - estimate.detected, estimate.detected))
    first, second = (foresee(denoiser, some, [detector]).coefficients for some in (estimate, other))
    assert torch.equal(first, second)
    flipped = replace(estimate, detected=1 - estimate.detected)
    assert not torch.equal(first, foresee(denoiser, flipped, [detector]).coefficients)


@pytest.mark.parametrize("family", [families.sd, families.ddpm])
def test_images_with_a_gradient_are_the_ones_that_are_decoded(family):
    denoiser = denoiser_of(build(family))
    x = 0.3 * torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    images = differentiable_images(denoiser.pipeline, x.requires_grad_(True))
    np.testing.assert_allclose(
        images.detach().clamp(-1, 1).numpy(), decode(denoiser.pipeline, x.detach()), rtol=0, atol=1e-5
    )
    (slope,) = torch.autograd.grad(images.sum(), x)
    assert bool((slope != 0).any())
