"""The guider in a stock modular pipeline: `Guided`'s correction to rounding, there and back through a folder."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3AutoBlocks, StableDiffusionXLAutoBlocks

import duality as du
from diffusion.guidance.guided import Guided
from diffusion.guidance.guider import SOLUTION, DualityGuidance
from diffusion.pipelines import denoiser_of
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.pipelines.test_families import PROMPTS, classifier_for


class Estimate:
    """What a guider reads of one."""

    prompts = PROMPTS

    def __init__(self, denoiser):
        self.classifier = classifier_for(denoiser)


@pytest.fixture(scope="module")
def stock():
    return denoiser_of(build(families.sdxl))


@pytest.fixture(scope="module")
def solution():
    m = len(PROMPTS.concepts)
    values = 0.5 * np.random.default_rng(0).standard_normal((400, m))
    return du.solve(du.ReverseKL(np.full(m, 0.3)), du.LogRatios(values - np.log(np.exp(values).mean(0))))


def modular(stock, guider):
    pipeline = StableDiffusionXLAutoBlocks().init_pipeline()
    names = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    pipeline.update_components(**{name: getattr(stock.pipeline, name) for name in names}, guider=guider)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(pipeline, prompt):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return pipeline(
        prompt=prompt, latents=noise, num_inference_steps=3, height=16, width=16, output_type="latent", output="images"
    )


def plain(stock, prompt, scale):
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return stock.pipeline(
        prompt, latents=noise, num_inference_steps=3, height=16, width=16, guidance_scale=scale, output_type="latent"
    ).images


@pytest.mark.parametrize(("prompt", "scale"), [("one", 1.0), ("one", 3.0), ("seven", 3.0)])
def test_a_stock_modular_pipeline_makes_what_guided_makes(stock, solution, prompt, scale, tmp_path):
    estimate = Estimate(stock)
    with Guided(stock, PROMPTS, estimate.classifier, solution.guidance):
        wanted = plain(stock, prompt, scale)
    guider = DualityGuidance.of(stock, estimate, solution, guidance_scale=scale)
    found = made(modular(stock, guider), prompt)
    size = float(wanted.abs().max())
    np.testing.assert_allclose(found, wanted, atol=1e-4 * size)
    assert not torch.allclose(wanted, plain(stock, prompt, scale), atol=1e-2 * size)  # it is a correction
    guider.save_pretrained(tmp_path)
    again = DualityGuidance.from_pretrained(tmp_path)
    assert np.array_equal(again.carried.solution.multipliers, solution.multipliers)
    assert again.guidance_scale == scale
    np.testing.assert_allclose(made(modular(stock, again), prompt), found, atol=1e-6 * size)
    # Nothing is left on the network.
    assert not stock.network._forward_hooks


def test_a_copy_carries_the_same(stock, solution):
    guider = DualityGuidance.of(stock, Estimate(stock), solution, guidance_scale=3.0)
    other = guider.new(guidance_scale=1.0)
    assert other.carried is guider.carried
    assert (guider.guidance_scale, other.guidance_scale) == (3, 1)


def test_what_does_not_fit_is_refused(stock, solution, tmp_path):
    with pytest.raises(ValueError, match="modular pipelines for StableDiffusionXL, StableDiffusion3, got Stable"):
        DualityGuidance.of(denoiser_of(build(families.sd)), Estimate(stock), solution)
    with pytest.raises(ValueError, match="carries nothing"):
        DualityGuidance().save_pretrained(tmp_path / "none")
    with pytest.raises(ValueError, match="family must be one of"):
        DualityGuidance(family="Other")
    DualityGuidance.of(stock, Estimate(stock), solution).save_pretrained(tmp_path)
    (tmp_path / SOLUTION).unlink()
    with pytest.raises(ValueError, match=r"holds no guider: solution.json missing"):
        DualityGuidance.from_pretrained(tmp_path)


def test_stable_diffusion_3_has_one_too(solution):
    """At scale 1: above it diffusers' modular and stock pipelines differ by themselves, 3 % with their own guider."""
    stock = denoiser_of(build(families.sd3))
    estimate = Estimate(stock)
    pipeline = StableDiffusion3AutoBlocks().init_pipeline()
    names = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    parts = {name: getattr(stock.pipeline, name) for name in names}
    pipeline.update_components(**parts, guider=DualityGuidance.of(stock, estimate, solution))
    pipeline.set_progress_bar_config(disable=True)
    with Guided(stock, PROMPTS, estimate.classifier, solution.guidance):
        wanted = plain(stock, "one", 1.0)
    size = float(wanted.abs().max())
    np.testing.assert_allclose(made(pipeline, "one"), wanted, atol=1e-4 * size)
    assert not torch.allclose(wanted, plain(stock, "one", 1.0), atol=1e-3 * size)  # it is a correction
