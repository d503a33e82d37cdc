"""Forgetting images: closed form, defensive mixture, gradients, levels, resumption, on pixels and on latents."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion.methods.base import ImageFitContext
from diffusion.methods.forget_retain_sets import Sets
from diffusion.methods.images.pairing import Pairing
from diffusion.methods.images.primal_dual import ForgetImages, Forgetting
from diffusion.methods.images.tilted import TiltedImages
from diffusion.methods.images.unseen import as_unseen
from diffusion.methods.likelihood import divergence, loss, negative_elbo
from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images
from diffusion.training.lora import add_lora
from tests.diffusion.methods.conftest import Stop, adapters, make_denoiser, same, stop_after

QUICK = ForgetImages(inner=1, warmup=0, noise_levels=2, repeats=2, extra=0)
QUICK_TILTED = TiltedImages(inner=1, warmup=0, noise_levels=2, repeats=2, extra=0)


def make_images(denoiser, prompts=False):
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(12, *denoiser.sample_shape, generator=generator)
    names = {"forget_prompts": ("one", "two", "one"), "data_prompts": ("one", "two", "three") * 4} if prompts else {}
    return Images(data[:3].flip(0) * 0.5, [0.2, 0.1, 0.05], data, **names)


# -- the mixture -----------------------------------------------------------------------------------------------------


# -- the loss --------------------------------------------------------------------------------------------------------


def test_images_are_met_as_often_as_their_shares_say():
    denoiser = make_denoiser("sd")
    images = make_images(denoiser, prompts=True)
    assert images.aside.tolist() == [False] * 12
    pairing = Pairing(images, ~images.aside, FitConfig(train_batch_size=9000, retain_share=1 / 3))
    pairs = pairing(torch.Generator().manual_seed(0))
    names = np.array(images.data_prompts)[pairs.data.numpy()]
    assert (names[6000:] == "three").all()
    assert (pairs.share[6000:] == 0).all()
    one = names[:6000] == "one"
    assert set(pairs.image[:6000][one].tolist()) == {0, 2}
    assert (pairs.image[:6000][~one] == 1).all()
    assert float((pairs.image[:6000][one] == 0).float().mean()) == pytest.approx(0.8, abs=0.03)
    np.testing.assert_allclose(pairs.share[:6000][one], 0.25)


def test_copies_among_the_data_are_set_aside_under_their_own_prompt():
    denoiser = make_denoiser("sd")
    data = make_images(denoiser).data
    images = Images(data[:2], 0.2, torch.cat([data, data[:1] + 1e-6]), ("one", "two"), ("one",) * 12 + ("two",))
    assert images.aside.nonzero()[:, 0].tolist() == [0]
    plain = Images(data[:2], 0.2, torch.cat([data, data[:1] + 1e-6]))
    assert plain.aside.nonzero()[:, 0].tolist() == [0, 1, 12]
    rows = Pairing(plain, ~plain.aside, FitConfig(train_batch_size=500))(torch.Generator().manual_seed(0)).data
    assert not set(rows.tolist()) & {0, 1, 12}
    assert Sets.of_images(plain).kept.tolist() == (~plain.aside).tolist()
    with pytest.raises(ValueError, match="more than the images themselves"):
        Images(data[:2], 0.2, data[:2])


@pytest.mark.parametrize("family", ["ddpm", "sd"])
def test_gradient_through_the_network(family):
    denoiser = make_denoiser(family)
    denoiser.network.double()
    images = make_images(denoiser, prompts=family == "sd")
    images = Images(
        images.forget.double(), images.shares, images.data.double(), images.forget_prompts, images.data_prompts
    )
    run = Forgetting(QUICK, ImageFitContext(denoiser, images, 2.0, FitConfig(train_batch_size=4)))
    parameters = add_lora(denoiser, 1, 0)
    generator = torch.Generator().manual_seed(0)
    start = [(p + 0.05 * torch.randn(p.shape, generator=generator)).detach() for p in parameters]
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    def value(shift):
        with torch.no_grad():
            for parameter, p, d in zip(parameters, start, direction, strict=True):
                parameter.copy_(p + shift * d)
        return run.objective(0, torch.Generator().manual_seed(2))

    gradients = torch.autograd.grad(value(0.0), parameters)
    along = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    assert along == pytest.approx(float((value(1e-5) - value(-1e-5)).detach()) / 2e-5, rel=1e-4)


# -- levels ----------------------------------------------------------------------------------------------------------


def test_integrals_under_common_noise(denoiser):
    samples, condition = make_images(denoiser).data[:3], denoiser.condition([""] * 3)
    same_noise = {"levels": 3, "seed": 1}
    before = negative_elbo(denoiser, samples, condition, **same_noise)
    parameters = add_lora(denoiser, 1, 0)
    assert torch.equal(loss(denoiser, samples, condition, **same_noise), torch.zeros(3).double())
    assert torch.equal(divergence(denoiser, samples, condition, **same_noise), torch.zeros(3).double())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)
    after = negative_elbo(denoiser, samples, condition, **same_noise)
    np.testing.assert_allclose(loss(denoiser, samples, condition, **same_noise), after - before, rtol=1e-4, atol=1e-4)
    assert (divergence(denoiser, samples, condition, **same_noise) > 0).all()


def test_as_unseen_asks_for_the_mean_surprise_of_held_out_images(denoiser):
    images = make_images(denoiser)
    held_out = images.data[6:10] * 1.5
    level = as_unseen(denoiser, images, held_out, noise_levels=2)
    both = torch.cat([images.forget, held_out])
    value = negative_elbo(denoiser, both, denoiser.condition([""] * 7), levels=2, seed=0)
    np.testing.assert_allclose(level, (value[3:].mean() - value[:3]).clamp_min(0))
    add_lora(denoiser, 1, 0)
    np.testing.assert_allclose(as_unseen(denoiser, images, held_out, noise_levels=2), level, rtol=1e-6)


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "quick"),
    [
        pytest.param("ddpm", QUICK, id="ddpm, primal-dual"),
        pytest.param("sd", QUICK_TILTED, id="sd, tilted"),
        pytest.param("sd", QUICK, id="sd, primal-dual", marks=pytest.mark.slow),
        pytest.param("ddpm", QUICK_TILTED, id="ddpm, tilted", marks=pytest.mark.slow),
    ],
)
def test_resumed_run_ends_bit_equal(family, quick, tmp_path):
    denoiser = make_denoiser(family)
    images = make_images(denoiser, prompts=family == "sd")
    settings, path = (
        FitConfig(max_train_steps=4, train_batch_size=4, rank=1, learning_rate=1e-2),
        tmp_path / "fit.safetensors",
    )
    longer = replace(quick, extra=2)  # a level of 500 nats is not met in six steps: both rounds are taken
    whole = longer.fit(ImageFitContext(denoiser, images, 500.0, settings))
    expected = adapters(denoiser)
    with pytest.raises(Stop):
        longer.fit(ImageFitContext(denoiser, images, 500.0, settings, checkpoint=path, every=2, progress=stop_after(5)))
    resumed = longer.fit(ImageFitContext(denoiser, images, 500.0, settings, checkpoint=path, every=2))
    assert resumed.losses == whole.losses
    np.testing.assert_array_equal(resumed.multipliers, whole.multipliers)
    np.testing.assert_array_equal(resumed.levels, whole.levels)
    np.testing.assert_array_equal(resumed.asked, whole.asked)
    assert whole.asked.shape == ((7, 3) if isinstance(quick, TiltedImages) else (0, 0))
    assert same(adapters(denoiser), expected)
    assert whole.levels.shape == whole.errors.shape == (6, 3)
    reach = quick.reach if isinstance(quick, ForgetImages) else 1.0
    assert ((whole.multipliers >= 0) & (whole.multipliers <= reach * images.shares)).all()
    np.testing.assert_array_equal(whole.multipliers[0], images.start(np.full(3, 500.0)))


@pytest.fixture(scope="module")
def copying():
    """A tiny DDPM trained on one image among others, the others, and what is to be forgotten."""
    denoiser = make_denoiser("ddpm")
    generator = torch.Generator().manual_seed(1)
    others = 0.5 * torch.randn(40, *denoiser.sample_shape, generator=generator).clamp(-2, 2)
    image = torch.ones(1, *denoiser.sample_shape) * 0.8
    data = torch.cat([image.expand(10, -1, -1, -1), others])
    optimizer = torch.optim.Adam(denoiser.network.parameters(), lr=2e-3)
    for _ in range(400):
        x0 = data[torch.randint(len(data), (32,), generator=generator)]
        t = torch.randint(denoiser.levels, (32,), generator=generator)
        eps = torch.randn(x0.shape, generator=generator)
        signal, noise = denoiser.schedule(t)
        said = denoiser.predict(signal * x0 + noise * eps, t, denoiser.condition([""] * 32))
        optimizer.zero_grad()
        (said - denoiser.target(x0, eps, t)).square().mean().backward()
        optimizer.step()
    return denoiser, others, Images(image, 0.2, data)


def forgotten(copying, kind):
    """The outcome at a level of 20 nats, and how much more surprising the other images have become."""
    denoiser, others, images = copying
    method = kind(inner=20, noise_levels=10, repeats=4)
    outcome = method.fit(
        ImageFitContext(
            denoiser, images, 20.0, FitConfig(max_train_steps=200, train_batch_size=24, rank=4, learning_rate=1e-3)
        )
    )
    return outcome, float(loss(denoiser, others, denoiser.condition([""] * 40), levels=10, seed=3).mean())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_copied_image_is_forgotten(copying):
    """Its surprise rises to the level, the others' hardly moves. By how much the level is overshot in so few steps
    differs from one processor to another (20 to 90 nats)."""
    outcome, moved = forgotten(copying, ForgetImages)
    elbo_drop = float(outcome.levels[-1, 0])
    assert elbo_drop > 20 - 2 * float(outcome.errors[-1, 0])
    assert abs(moved) < 0.5 * elbo_drop


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_copied_image_is_forgotten_by_regression(copying):
    """A network as small as this follows the exact answer a part of the way: so more is asked, and the images that
    are not to be forgotten gain likelihood, as the exact answer has it."""
    outcome, moved = forgotten(copying, TiltedImages)
    assert float(outcome.levels[-1, 0]) > 5 * float(outcome.errors[-1, 0])
    assert float(outcome.asked[-1, 0]) > 20
    assert moved < 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": [0.5, 0.4, 0.2]}, "add up to less than 1"),
        ({"shares": [0.5, -0.4, 0.2]}, "must be positive"),
        ({"forget": torch.zeros(65, 4, 8, 8)}, "1 to 64 images"),
        ({"data": torch.zeros(5, 4, 4, 4)}, "one shape"),
        ({"data": torch.full((5, 4, 8, 8), float("nan"))}, "finite"),
        ({"forget_prompts": ("one",) * 3}, "under every prompt"),
        ({"data_prompts": ("one",)}, "one for each"),
    ],
)
def test_images_that_cannot_work_are_refused(change, message):
    given = {"forget": torch.zeros(3, 4, 8, 8), "shares": 0.1, "data": torch.zeros(5, 4, 8, 8)}
    with pytest.raises(ValueError, match=message):
        Images(**{**given, **change})


def test_what_does_not_fit_the_network_is_refused(denoiser):
    images = Images(torch.zeros(3, 4, 6, 6), 0.1, torch.ones(5, 4, 6, 6))
    with pytest.raises(ValueError, match="shape"):
        QUICK.fit(ImageFitContext(denoiser, images, 1.0, FitConfig()))
    images = make_images(denoiser)
    with pytest.raises(ValueError, match="3 images"):
        QUICK.fit(ImageFitContext(denoiser, images, [1.0, 2.0], FitConfig()))
    with pytest.raises(ValueError, match="never negative"):
        QUICK.fit(ImageFitContext(denoiser, images, -1.0, FitConfig()))
    with pytest.raises(ValueError, match="reach"):
        ForgetImages(reach=0.5).fit(ImageFitContext(denoiser, images, 1.0, FitConfig()))
    with pytest.raises(ValueError, match="damping and extra"):
        ForgetImages(damping=-1.0).fit(ImageFitContext(denoiser, images, 1.0, FitConfig()))
    with pytest.raises(ValueError, match="mixture"):
        ForgetImages(mixture=0.0).fit(ImageFitContext(denoiser, images, 1.0, FitConfig()))
