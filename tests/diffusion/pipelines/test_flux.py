"""FLUX.1: tokens instead of latents, guidance as an embedding, no classifier-free guidance."""

import numpy as np
import pytest
import torch

from diffusion.guidance.guided import Guided, constant
from diffusion.pipelines import Denoiser, denoiser_of, repeat
from diffusion.pipelines.latents import decode, encode, image_shape
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import base_model, save_lora
from tests.diffusion import families
from tests.diffusion.methods.conftest import Material, fit_tilted
from tests.diffusion.pipelines.test_families import PROMPTS, classifier_for, states


@pytest.fixture(scope="module", params=["dev", "schnell"])
def kind(request):
    return request.param


def make(kind):
    return families.build(lambda: families.flux(kind == "dev"))


@pytest.fixture(scope="module")
def reader(kind):
    return denoiser_of(make(kind))


def test_what_the_network_is_told_is_what_the_pipeline_tells_it(reader, kind):
    """Every call of the stock sampler, made again from what is read of it: the same output, bit for bit."""
    assert isinstance(reader, Denoiser)
    seen = []

    def keep(_module, args, kwargs, output):
        seen.append((args, kwargs, output[0]))

    handle = reader.network.register_forward_hook(keep, with_kwargs=True)
    try:
        sample_latents(reader.pipeline, ["one", "seven"], seed=1, steps=2)
    finally:
        handle.remove()
    assert len(seen) == 2
    for args, kwargs, output in seen:
        x, timestep, condition = reader.read(args, kwargs)
        assert torch.allclose(timestep, kwargs["timestep"] * 1000)
        with torch.no_grad():
            np.testing.assert_allclose(reader.call(x, timestep, condition), output, atol=1e-5)
        own = reader.condition(["one", "seven"])
        assert own.keys() == condition.keys()
        assert ("guidance" in own) == (kind == "dev")
        for name, value in own.items():
            np.testing.assert_allclose(condition[name], value, atol=1e-5)


def test_samples_images_and_back(reader):
    whole, parts = (sample_latents(reader.pipeline, ["one", "", "seven"], seed=1, steps=2, batch=b) for b in (3, 2))
    assert whole.shape == (3, *reader.sample_shape) == (3, 16, 16)
    np.testing.assert_allclose(whole, parts, atol=1e-4 * float(whole.abs().max()))
    images = decode(reader.pipeline, whole)
    assert images.shape == (3, *image_shape(reader.pipeline)) == (3, 3, 16, 16)
    stock = reader.pipeline(["one"], latents=states(reader, 1), num_inference_steps=1, output_type="np").images
    latents = reader.pipeline(["one"], latents=states(reader, 1), num_inference_steps=1, output_type="latent").images
    np.testing.assert_allclose(decode(reader.pipeline, latents), 2 * stock.transpose(0, 3, 1, 2) - 1, atol=1e-5)
    vae, some = reader.pipeline.vae, torch.from_numpy(images)
    with torch.no_grad():
        inner = (vae.encode(some).latent_dist.mode() - vae.config.shift_factor) * vae.config.scaling_factor
    unpacked = reader.pipeline._unpack_latents(encode(reader.pipeline, some), 16, 16, 2)
    np.testing.assert_allclose(unpacked, inner, atol=1e-5)


def test_guided_output_is_the_formula(reader):
    classifier, x, level = classifier_for(reader), states(reader, 2), torch.full((2,), 600)
    base = reader.condition(["one", ""])
    with torch.no_grad():
        q = reader.predict(x, level, base)
        free, concept = (reader.predict(x, level, repeat(reader.condition([p]), 2)) for p in ("", "seven"))
        with Guided(reader, PROMPTS, classifier, constant(0.7)):
            guided = reader.predict(x, level, base)
    assert not torch.allclose(guided, q, atol=1e-5)
    np.testing.assert_allclose(guided, q + 0.7 * (free - concept), atol=1e-4)


def test_a_lora_is_fitted_and_loaded_by_the_stock_pipeline(kind, tmp_path):
    denoiser = denoiser_of(make(kind))
    x, t, condition = states(denoiser, 2), torch.tensor([5, 900]), denoiser.condition(["", "seven"])
    with torch.no_grad():
        before = denoiser.predict(x, t, condition)
    material = Material(
        states(denoiser, 6, 2),
        torch.rand(6, generator=torch.Generator().manual_seed(1)),
        states(denoiser, 4, 3),
        ("one",) * 4,
        lambda rho: -0.05 * rho[:, 0].exp(),
    )
    fit = FitConfig(max_train_steps=6, train_batch_size=6, rank=2, learning_rate=2e-2, seed=3)
    fit_tilted(denoiser, PROMPTS, classifier_for(denoiser), material, fit)
    fitted = sample_latents(denoiser.pipeline, ["", "one"], seed=1, steps=2)
    with base_model(denoiser):
        np.testing.assert_allclose(denoiser.predict(x, t, condition), before, atol=1e-5)
    save_lora(denoiser, tmp_path)
    fresh = make(kind)
    plain = sample_latents(fresh, ["", "one"], seed=1, steps=2)
    fresh.load_lora_weights(tmp_path)
    scale = float(fitted.abs().max())
    np.testing.assert_allclose(sample_latents(fresh, ["", "one"], seed=1, steps=2), fitted, atol=1e-5 * scale)
    assert not torch.allclose(plain, fitted, atol=1e-3 * scale)


def test_control_networks_are_refused():
    pipeline = make("dev")
    pipeline.transformer.register_to_config(out_channels=8)
    with pytest.raises(ValueError, match="takes 16 and returns 8"):
        denoiser_of(pipeline)
