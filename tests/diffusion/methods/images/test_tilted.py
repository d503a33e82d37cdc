"""Forgetting images by regression on the exact answer: where the target differs from the base model, and its dual
rule."""

import math

import numpy as np
import pytest
import torch

from diffusion.methods.base import ImageFitContext
from diffusion.methods.images.pairing import Pairs
from diffusion.methods.images.tilted import TiltedImages, Tilting
from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images
from diffusion.training.lora import add_lora, base_model
from duality.point_masses import water_filling
from tests.diffusion.families import FAMILIES
from tests.diffusion.methods.conftest import make_denoiser

QUICK = TiltedImages(inner=1, warmup=0, noise_levels=2, repeats=2, extra=0)


def make_images(denoiser):
    data = torch.randn(12, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    prompts = ("one", "two", "one"), ("one", "two", "three") * 4
    return Images(data[:3].flip(0) * 0.5, [0.2, 0.1, 0.05], data, *prompts)


def test_what_is_moved_is_the_difference_of_two_posterior_means():
    """By brute force over images and kernels of the row's own prompt; nothing under a prompt without images."""
    denoiser = make_denoiser("sd")
    images = make_images(denoiser)
    run = QUICK.run(ImageFitContext(denoiser, images, [3.0, 40.0, 2.0], FitConfig(train_batch_size=4)))
    pairs = Pairs(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 0, 2]), torch.tensor([0.25, 0.1, 0.0, 0.25]))
    t = torch.tensor([900, 500, 300, 700])
    s, n = (value.view(-1).double() for value in denoiser.schedule(t))
    x = s.view(-1, 1, 1, 1) * images.forget[pairs.image] + n.view(-1, 1, 1, 1) * torch.randn(
        images.forget[pairs.image].shape, generator=torch.Generator().manual_seed(1)
    )
    # Of a base model that says what the law of images and kernels says; the third row's prompt has no image.
    before = [torch.from_numpy(np.log(images.shares[list(group)])) for group in images.groups]
    said = torch.zeros_like(x)
    for row, index in ((0, 0), (1, 1), (3, 0)):
        at = x[row : row + 1].flatten(1).double(), s[row : row + 1, None], n[row : row + 1, None]
        clean = run.laws[index].clean(*at, before[index])
        said[row] = ((at[0] - at[1] * clean) / at[2]).view_as(x[row])
    moved = run.moved(x, t, said, pairs).double()
    assert not moved[2].any()
    for row, group, asked in ((0, [0, 2], [3.0, 2.0]), (1, [1], [40.0]), (3, [0, 2], [3.0, 2.0])):
        shares = images.shares[group]
        answer = water_filling(shares, np.array(asked) - np.log(shares))
        law = run.laws[0 if len(group) == 2 else 1]
        state = x[row].flatten().double()
        means = []
        for log_masses in (np.log(shares), answer.log_masses):
            weights, clean = [], []
            for point, log_mass, width in (
                *((u, m, 0.0) for u, m in zip(law.images, log_masses, strict=True)),
                *((a, math.log1p(-np.exp(log_masses).sum()) - math.log(len(law.rest)), law.width) for a in law.rest),
            ):
                variance = float(n[row] ** 2 + s[row] ** 2 * width**2)
                square = float((state - s[row] * point).square().sum())
                weights.append(log_mass - square / (2 * variance) - len(state) / 2 * math.log(variance))
                clean.append(point + float(s[row]) * width**2 / variance * (state - s[row] * point))
            w = torch.tensor(weights, dtype=torch.float64).softmax(0)
            means.append((w[:, None] * torch.stack(clean)).sum(0))
        expected = -s[row] / n[row] * (means[1] - means[0])
        np.testing.assert_allclose(moved[row].flatten(), expected, atol=1e-4, rtol=1e-4)


def test_the_loss_is_the_distance_to_the_target():
    """Its gradient in the adapters is that of |f - T - moved|², and it is least where f = T + moved."""
    denoiser = make_denoiser("sd")
    images = make_images(denoiser)
    run = QUICK.run(ImageFitContext(denoiser, images, 5.0, FitConfig(train_batch_size=6)))
    parameters = add_lora(denoiser, 1, 0)
    untrained = run.objective(0, torch.Generator().manual_seed(3))
    with base_model(denoiser), torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        pairs = run.pairing(generator)
        states, t = run.states(pairs, generator)
        condition = run.condition(pairs)
        said = denoiser.epsilon(denoiser.predict(states.x, t, condition), states.x, t)
        expected = run.moved(states.x, t, said, pairs).square().mean()
    assert float(untrained.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(expected) > 0
    untrained.backward()
    assert any(bool(parameter.grad.abs().sum() > 0) for parameter in parameters)


def test_what_is_asked_moves_by_what_is_missed():
    denoiser = make_denoiser("sd")
    images = make_images(denoiser)
    run = TiltedImages(inner=1, warmup=0, gain=0.5, damping=0.0, margin=0.0, noise_levels=2, repeats=2).run(
        ImageFitContext(denoiser, images, 10.0, FitConfig(train_batch_size=4, max_train_steps=100))
    )
    rule = run.rule()
    lam = rule.update(images.start(np.full(3, 10.0)), np.array([4.0, -100.0, 0.0]))
    decay = run.decays[0]
    # A miss counts as the level at most.
    np.testing.assert_allclose(run.asked.asked, [10 + 2 * decay, 10 - 5 * decay, 10.0])
    np.testing.assert_allclose(lam, images.start(run.asked.asked))
    assert (lam <= images.shares).all()
    saved = rule.state_dict()
    again = run.rule()
    again.load_state_dict(saved)
    np.testing.assert_array_equal(run.asked.asked, [10 + 2 * decay, 10 - 5 * decay, 10.0])
    for _ in range(40):
        rule.update(lam, np.full(3, -100.0))
    assert (run.asked.asked >= 0).all()


def test_a_level_that_is_just_met_is_aimed_beyond():
    denoiser = make_denoiser("sd")
    run = QUICK.run(
        ImageFitContext(
            denoiser, make_images(denoiser), [10.0, 20.0, 0.0], FitConfig(train_batch_size=4, max_train_steps=100)
        )
    )
    before = run.asked.asked.copy()
    run.asked.update(before, np.zeros(3))
    moved = run.asked.asked - before
    assert moved[0] > 0
    assert moved[1] == pytest.approx(2 * moved[0])
    assert moved[2] == 0


@pytest.mark.parametrize(
    ("levels", "elbo_drop", "steps"),
    # Three rounds belong to the fit, four more are to be had. Passed by far is met; just met, within the error, is not.
    [
        ([10.0, 20.0], [90.0, 25.0], 3),
        pytest.param([10.0, 20.0], [10.2, 20.2], 3, marks=pytest.mark.slow),
        ([10.0, 20.0], [10.0, 25.0], 7),
        pytest.param([10.0, 20.0], [90.0, 19.0], 7, marks=pytest.mark.slow),
        ([10.0, 0.0], [11.0, -0.05], 3),  # nothing asked, nothing lost
        ([10.0, 0.0], [11.0, -0.5], 7),
    ],
)
def test_rounds_after_the_last_step_end_when_levels_are_surely_met(levels, elbo_drop, steps, monkeypatch):
    monkeypatch.setattr(Tilting, "estimate", lambda *_: (np.array(elbo_drop), np.full(2, 0.1)))
    denoiser = make_denoiser("ddpm")
    data = torch.randn(12, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    method = TiltedImages(inner=1, warmup=0, noise_levels=2, repeats=2, extra=4)
    outcome = method.fit(
        ImageFitContext(denoiser, Images(data[:2], 0.1, data), levels, FitConfig(max_train_steps=3, train_batch_size=4))
    )
    assert len(outcome.losses) == len(outcome.levels) == steps
    patient = TiltedImages(inner=1, warmup=0, noise_levels=2, repeats=2, extra=4, patience=2)
    outcome = patient.fit(
        ImageFitContext(
            make_denoiser("ddpm"), Images(data[:2], 0.1, data), levels, FitConfig(max_train_steps=3, train_batch_size=4)
        )
    )
    assert len(outcome.levels) == (7 if elbo_drop[1] < levels[1] - 0.2 else 2)


def test_no_kernels_and_margins_below_nothing_are_refused():
    with pytest.raises(ValueError, match="kernels"):
        TiltedImages(kernels=0)
    with pytest.raises(ValueError, match="margin"):
        TiltedImages(margin=-0.1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_nothing_moves_at_pure_noise_and_all_is_finite(family):
    """Flow matching and rescaled schedules begin where the signal is zero."""
    denoiser = make_denoiser(family)
    data = torch.randn(12, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    run = QUICK.run(ImageFitContext(denoiser, Images(data[:2] * 0.5, 0.1, data), 400.0, FitConfig(train_batch_size=4)))
    t = torch.tensor([0, 9 * denoiser.levels // 10, denoiser.levels - 1])
    pairs = Pairs(torch.tensor([2, 3, 4]), torch.tensor([0, 1, 0]), torch.full((3,), 0.2))
    signal, noise = denoiser.schedule(t)
    x = (signal * data[:3] + noise * data[3:6]).float()
    moved = run.moved(x, t, data[3:6], pairs)
    assert torch.isfinite(moved).all()
    if float(signal[2].max()) == 0:
        assert not moved[2].any()
    # Where much is noise a base model that is sure of an image is moved off it.
    at = signal[1:2] * run.images.forget[1:2] + noise[1:2] * data[3:4]
    one = Pairs(pairs.data[1:2], pairs.image[1:2], pairs.share[1:2])
    assert bool(run.moved(at.float(), t[1:2], data[3:4], one).any())
