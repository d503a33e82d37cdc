"""Pipelines, components, prompts and images that cannot work are named."""

import pytest
import torch
from diffusers import DDIMPipeline, DDPMScheduler, StableDiffusionImg2ImgPipeline

from diffusion.guidance.guided import Guided, constant
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.latents import encode
from diffusion.pipelines.sampling import sample_latents
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.pipelines.test_families import classifier_for


def test_other_pipelines_are_named():
    pipeline = build(families.sd)
    variant = StableDiffusionImg2ImgPipeline.from_pipe(pipeline)
    with pytest.raises(ValueError, match="FluxPipeline, got StableDiffusionImg2ImgPipeline"):
        denoiser_of(variant)
    with pytest.raises(ValueError, match="got object"):
        denoiser_of(object())


def test_unfit_components_are_named():
    pipeline = build(families.sd3)
    pipeline.scheduler = DDPMScheduler()
    with pytest.raises(ValueError, match="flow-matching one"):
        denoiser_of(pipeline)
    pipeline = build(families.sdxl)
    pipeline.vae = None
    with pytest.raises(ValueError, match="must have a vae: StableDiffusionXLPipeline has none"):
        denoiser_of(pipeline)
    pipeline = build(families.ddpm)
    pipeline.unet.register_to_config(out_channels=6)
    with pytest.raises(ValueError, match="takes 3, returns 6"):
        denoiser_of(pipeline)


def test_a_pipeline_without_prompts_refuses_them():
    pipeline = build(lambda: families.ddpm(DDIMPipeline))
    with pytest.raises(ValueError, match="DDIMPipeline takes no prompts, got 'seven'"):
        sample_latents(pipeline, ["", "seven"], seed=0)
    denoiser = denoiser_of(build(families.sd))
    with pytest.raises(ValueError, match="prompts must be given"):
        Guided(denoiser, None, classifier_for(denoiser), constant(0.1))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 3, 8, 8), r"\(n, 3, 16, 16\), got \(2, 3, 8, 8\)"),
        (torch.zeros(2, 1, 16, 16), r"got \(2, 1, 16, 16\)"),
        (torch.zeros(0, 3, 16, 16), "got"),
        (torch.full((1, 3, 16, 16), 255.0), r"\[-1, 1\]"),
        (torch.full((1, 3, 16, 16), float("nan")), r"\[-1, 1\]"),
    ],
)
def test_unfit_pictures_are_named(images, words):
    with pytest.raises(ValueError, match=words):
        encode(build(families.sd), images)


def test_adapters_of_others_are_refused():
    from peft import LoraConfig

    from diffusion.training.lora import add_lora

    denoiser = denoiser_of(build(families.sd))
    denoiser.network.add_adapter(LoraConfig(r=1, target_modules=["to_q"]), "style")
    with pytest.raises(ValueError, match=r"carries the adapters \['style'\]"):
        add_lora(denoiser, 2, 0)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_offloaded_pipelines_are_refused_at_once(part):
    from accelerate import cpu_offload

    pipeline = build(families.sd)
    cpu_offload(getattr(pipeline, part), torch.device("cpu"), offload_buffers=True)
    with pytest.raises(ValueError, match=f"{part} is offloaded or dispatched by hooks"):
        denoiser_of(pipeline)
    pipeline.remove_all_hooks()
    assert denoiser_of(pipeline).component == "unet"
