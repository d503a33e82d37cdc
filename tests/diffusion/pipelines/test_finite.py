"""A component that returns NaN or inf is named, at the first batch, and nothing of it is kept."""

import pytest
import torch

import duality as du
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.latents import decode, encode
from diffusion.pipelines.sampling import sample_latents
from tests.diffusion import families
from tests.diffusion.families import FAMILIES, build
from tests.diffusion.jobs import unlearn
from tests.diffusion.workflows.test_concepts import TASK, TINY, quiet


def broken(module, value):
    """The last weight of a network becomes ``value``: whatever it returns does, too."""
    with torch.no_grad():
        list(module.parameters())[-1].fill_(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_network_is_named_in_its_first_batch(family, value):
    """Also where the sampler cuts its samples to [-1, 1], so that inf would not be seen in them."""
    pipeline = build(FAMILIES[family])
    denoiser = denoiser_of(pipeline)
    broken(denoiser.network, value)
    asked = ["one" if denoiser.prompt_inputs else ""] * 4
    with pytest.raises(FloatingPointError, match=f"^{denoiser.component} returned NaN or inf in batch 1 of 2"):
        sample_latents(pipeline, asked, seed=0, steps=2, batch=2)
    x = torch.randn(2, *denoiser.sample_shape)
    with torch.no_grad(), pytest.raises(FloatingPointError, match=rf"^{denoiser.component} .* at timesteps"):
        denoiser.predict(x, torch.tensor([1, 2]), denoiser.condition(asked[:2]))


def test_a_text_encoder_is_named():
    pipeline = build(families.sd)
    broken(pipeline.text_encoder, float("nan"))
    with pytest.raises(FloatingPointError, match=r"^a text encoder .* returned NaN or inf"):
        sample_latents(pipeline, ["one"], seed=0, steps=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_vae_is_named(value):
    pipeline = build(families.sd)
    latents = sample_latents(pipeline, ["one"], seed=0, steps=2)
    broken(pipeline.vae.decoder, value)
    with pytest.raises(FloatingPointError, match=r"^vae returned NaN or inf in decoding"):
        decode(pipeline, latents)
    broken(pipeline.vae.encoder, value)
    with pytest.raises(FloatingPointError, match=r"^vae returned NaN or inf in encoding"):
        encode(pipeline, torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_nothing_of_it_is_cached_and_no_sample_of_many_is_made(part, tmp_path, monkeypatch):
    pipeline, asked = build(families.sd), []
    broken(pipeline.unet if part == "unet" else pipeline.vae.decoder, float("nan"))
    real = type(pipeline).__call__

    def counted(self, prompts, **call):
        asked.append(len(prompts))
        return real(self, prompts, **call)

    monkeypatch.setattr(type(pipeline), "__call__", counted)
    with pytest.raises(FloatingPointError, match=f"^{part} returned NaN or inf"):
        unlearn(pipeline, ["seven"], du.ReverseKL(0.3), **TASK, **TINY, cache_folder=tmp_path, bar=quiet)
    assert asked == [1]
    assert not list(tmp_path.iterdir())
