"""What people report of their own pipelines: half precision, one channel, VAEs that overflow."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.guidance.guided import Guided, constant
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.latents import decode, encode
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.config import EvaluationConfig, FitConfig
from diffusion.training.lora import ADAPTER
from tests.diffusion import families, jobs
from tests.diffusion.families import build
from tests.diffusion.pipelines.test_families import PROMPTS, classifier_for

TASK = jobs.TINY | {"retained": ["one", ("three", "a handwritten three")], "priors": 0.1}
BRIEF = {
    "sampling": jobs.TINY["sampling"],
    "fit": FitConfig(max_train_steps=3, train_batch_size=6, rank=1),
    "evaluation": EvaluationConfig(samples=8),
}
pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")


def adapters(pipeline):
    network = denoiser_of(pipeline).network
    return [parameter for name, parameter in network.named_parameters() if ADAPTER in name]


def check_delivered(pipeline):
    """Adapters have the network's type in the end, which stock pipelines load them in: measured as delivered."""
    found = adapters(pipeline)
    assert {parameter.dtype for parameter in found} == {denoiser_of(pipeline).network.dtype}
    assert all(bool(parameter.isfinite().all()) for parameter in found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["guidance", "primal-dual", "esd", "neggrad", "siss", "erasediff"])
def test_every_method_fits_in_float16(method):
    pipeline = build(families.sd).to(torch.float16)
    result = jobs.unlearn(pipeline, ["seven"], ("ReverseKL", "1.05x"), method=method, **TASK)
    assert np.isfinite(result.outcome.losses).all()
    check_delivered(pipeline)


@pytest.mark.slow
def test_images_are_forgotten_in_float16():
    pipeline = build(families.sd).to(torch.float16)
    images = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    result = jobs.forget(pipeline, images, prompts="seven", levels=2.0, shares=0.01, **BRIEF)
    assert np.isfinite(result.outcome.losses).all()
    assert np.isfinite([each.mean for each in result.measured.elbo_drop]).all()
    check_delivered(pipeline)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_prompts_fall_back_in_half_precision_in_any_batch(dtype, family):
    """Rows of different batches differ by rounding in half precision; a prompt is known in all of them."""
    denoiser = denoiser_of(build(families.FAMILIES[family]).to(dtype))
    asking, rest = 5, 3
    with Guided(denoiser, PROMPTS, classifier_for(denoiser), constant(0.0)):
        made = sample_latents(denoiser.pipeline, ["seven"] * asking + ["one"] * rest, seed=0, steps=2)
    anchor = sample_latents(denoiser.pipeline, [""] * asking + ["one"] * rest, seed=0, steps=2)
    scale = float(anchor.abs().max())
    np.testing.assert_allclose(made, anchor, atol=2e-2 * scale)
    own = sample_latents(denoiser.pipeline, ["seven"] * asking, seed=0, steps=2)
    assert not torch.allclose(own, anchor[:asking], atol=1e-3 * scale)


def grey():
    return families.ddpm(channels=1)


def pictures(count, *shape):
    chance = np.random.default_rng(0)
    return [Image.fromarray(chance.integers(0, 255, shape, np.uint8)) for _ in range(count)]


@pytest.mark.slow
def test_a_model_of_one_channel_unlearns_by_images(tmp_path):
    pipeline = build(grey)
    more = TASK | {"retained": []}
    result = jobs.unlearn(pipeline, [pictures(12, 16, 16)], ("ReverseKL", "1.05x"), output=tmp_path / "out", **more)
    assert result.estimate.anchor.shape[1:] == (1, 16, 16)
    with Image.open(tmp_path / "out" / "before_after.png") as sheet:
        assert sheet.size[0] > 16


@pytest.mark.slow
def test_a_model_of_one_channel_forgets_images(tmp_path):
    pipeline = build(grey)
    result = jobs.forget(pipeline, pictures(2, 16, 16), levels=2.0, shares=0.01, output=tmp_path / "out", **BRIEF)
    assert result.images.shape == (2, 1, 16, 16)
    with Image.open(tmp_path / "out" / "samples.png") as sheet:
        assert sheet.size[0] > 16


def overflowing():
    """As SDXL's own VAE: beyond half precision inside, and GroupNorm divides it out again."""
    pipeline = families.sdxl()
    pipeline.vae.register_to_config(force_upcast=True)
    with torch.no_grad():
        for part in (pipeline.vae.encoder, pipeline.vae.decoder):
            part.conv_in.weight.mul_(2e5)
    return pipeline


def test_a_vae_that_overflows_in_float16_reads_and_writes_images():
    single, pipeline = build(overflowing), build(overflowing).to(torch.float16)
    some = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted, found = encode(single, some), encode(pipeline, some)
    np.testing.assert_allclose(found, wanted, atol=2e-2 * float(wanted.abs().max()))
    assert pipeline.vae.dtype == torch.float16
    assert np.isfinite(decode(pipeline, sample_latents(pipeline, ["one"], seed=0, steps=2))).all()


@pytest.mark.slow
def test_images_are_forgotten_by_a_model_whose_vae_overflows_in_float16():
    pipeline = build(overflowing).to(torch.float16)
    result = jobs.forget(pipeline, pictures(2, 16, 16, 3), prompts="seven", levels=2.0, shares=0.01, **BRIEF)
    assert np.isfinite([each.mean for each in result.measured.elbo_drop]).all()
    check_delivered(pipeline)
