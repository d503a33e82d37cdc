"""A pipeline under another scheduler, size or told guidance: a view whose every reading is of that law."""

import copy

import numpy as np
import pytest
import torch

from diffusion.methods.chain import chain_of
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.latents import decode, encode, image_shape
from diffusion.pipelines.law import call_defaults, own_size, under
from diffusion.pipelines.sampling import sample_latents
from diffusion.pipelines.stepping import level_after, scheduler_of, stepped
from diffusion.ratios.classifier import Bottleneck
from tests.diffusion import families
from tests.diffusion.families import build

MAKERS = {
    **families.FAMILIES,
    "ddim": lambda: families.ddpm(families.DDIMPipeline),
    "flux": families.flux,
    "schnell": lambda: families.flux(guidance=False),
}
PROMPTED = ("sd", "sdxl", "sd3", "flux", "schnell")


@pytest.fixture(scope="module")
def readers():
    return {name: denoiser_of(build(make)) for name, make in MAKERS.items()}


@pytest.mark.parametrize("name", PROMPTED)
def test_another_size_reaches_samples_networks_and_images(readers, name):
    """24 x 16 pixels: what the stock pipeline makes of the same noise at that size, and reads back."""
    own = readers[name]
    view = under(own, size=(24, 16))
    assert (own.size, view.size, own_size(view)) == ((16, 16), (24, 16), (16, 16))
    assert image_shape(view.pipeline) == (3, 24, 16)
    assert view.network is own.network
    latents = sample_latents(view.pipeline, ["one", ""], seed=3, steps=2)
    assert latents.shape == (2, *view.sample_shape)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    told = {"guidance_scale": own.told_guidance or 1.0, "num_inference_steps": 2}
    with torch.no_grad():
        plain = own.pipeline(["one", ""], latents=noise, height=24, width=16, output_type="np", **told).images
    images = decode(view.pipeline, latents)
    np.testing.assert_allclose(images, 2 * plain.transpose(0, 3, 1, 2) - 1, atol=1e-4)
    assert encode(view.pipeline, torch.from_numpy(images)).shape == latents.shape
    # What the network is told at that size, sizes and places included, is what the stock pipeline tells it.
    seen = []

    def keep(_module, args, kwargs, output):
        seen.append((args, kwargs, output[0]))

    handle = view.network.register_forward_hook(keep, with_kwargs=True)
    try:
        sample_latents(view.pipeline, ["one", ""], seed=3, steps=1)
    finally:
        handle.remove()
    x, timestep, condition = view.read(*seen[0][:2])
    with torch.no_grad(), Bottleneck(view) as caught:
        said = view.call(x, timestep, view.condition(["one", ""]))
        assert caught.last.shape[2:] == (view.size[0] // 4, view.size[1] // 4)
    np.testing.assert_allclose(said, seen[0][2], atol=1e-5)
    assert condition.keys() <= view.condition([""]).keys()


@pytest.mark.parametrize("name", PROMPTED)
def test_a_size_that_does_not_fit_is_refused(readers, name):
    with pytest.raises(ValueError, match=r"width must be a multiple of \d+, got 17: say \d+ or \d+"):
        under(readers[name], size=(16, 17))


def test_a_size_beyond_the_transformer_s_places_is_refused(readers):
    with pytest.raises(ValueError, match="places for sides of 32 at most, got 48 x 16"):
        under(readers["sd3"], size=(48, 16))


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_a_pipeline_of_one_size_takes_no_other(readers, name):
    with pytest.raises(ValueError, match="makes images of its own size only, got 32 x 32"):
        under(readers[name], size=(32, 32))


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("sd", "EulerAncestralDiscreteScheduler"),
        ("sd", "HeunDiscreteScheduler"),
        ("sd", "PNDMScheduler"),
        ("sdxl", "DPMSolverMultistepScheduler"),
        ("ddpm", "DDIMScheduler"),
    ],
)
def test_another_scheduler_is_the_stock_pipeline_s_with_it(readers, name, scheduler):
    """The same samples, in any batch, as a pipeline into which that scheduler was put by hand; the own one stays."""
    own = readers[name]
    before = type(own.pipeline.scheduler)
    view = under(own, scheduler=scheduler)
    prompts = ["one", "", "seven"] if own.prompt_inputs else [""] * 3
    made = sample_latents(view.pipeline, prompts, seed=3, steps=4)
    by_hand = copy.copy(own.pipeline)
    kind = type(view.pipeline.scheduler)
    by_hand.register_modules(scheduler=kind.from_config(own.pipeline.scheduler.config))
    assert kind.__name__ == scheduler
    scale = float(made.abs().max())
    np.testing.assert_allclose(made, sample_latents(by_hand, prompts, seed=3, steps=4), atol=1e-5 * scale)
    np.testing.assert_allclose(
        made, sample_latents(view.pipeline, prompts, seed=3, steps=4, batch=1), atol=1e-4 * scale
    )
    assert type(own.pipeline.scheduler) is before
    assert not torch.allclose(made, sample_latents(own.pipeline, prompts, seed=3, steps=4), atol=1e-3 * scale)
    assert fingerprint(view.pipeline) == fingerprint(by_hand) != fingerprint(own.pipeline)


def test_the_chain_is_the_law_s(readers):
    assert not chain_of(readers["sd"], 4).own
    ancestral = under(readers["sd"], scheduler="DDPMScheduler")
    chain = chain_of(ancestral, 4)
    assert chain.own
    assert chain.t.tolist() == scheduler_of(ancestral, 4).timesteps.tolist()


@pytest.mark.parametrize(
    ("name", "scheduler", "words"),
    [
        ("sd", "EDMEulerScheduler", "must have alphas_cumprod.*DDIMScheduler.*EulerDiscreteScheduler"),
        ("sd3", "DDIMScheduler", "compatible.*: give one of FlowMatchEulerDiscreteScheduler$"),
        ("flux", "DDIMScheduler", "compatible.*: give one of FlowMatchEulerDiscreteScheduler$"),
        ("ddpm", "EulerDiscreteScheduler", "scales its states, and the pipeline does not"),
        ("ddim", "DDPMScheduler", "steps take no eta"),
    ],
)
def test_a_scheduler_that_does_not_fit_is_refused_with_those_that_do(readers, name, scheduler, words):
    with pytest.raises(ValueError, match=words) as error:
        under(readers[name], scheduler=scheduler)
    listed = str(error.value).split("one of ")[-1].split(", ")
    assert type(readers[name].pipeline.scheduler).__name__ in listed
    assert scheduler not in listed


@pytest.mark.parametrize("name", ["sd", "ddpm", "ddim", "sd3"])
def test_whatever_is_listed_can_be_sampled(readers, name):
    own = readers[name]
    with pytest.raises(ValueError, match="give one of") as error:
        under(own, scheduler="nothing")
    for scheduler in str(error.value).split("one of ")[-1].split(", "):
        view = under(own, scheduler=scheduler)
        made = sample_latents(view.pipeline, ["one" if own.prompt_inputs else ""], seed=1, steps=4)
        assert bool(torch.isfinite(made).all()), scheduler


def test_what_a_network_is_told_of_guidance_is_the_law_s(readers):
    own = readers["flux"]
    view = under(own, guidance_scale=2.0)
    assert (own.told_guidance, view.told_guidance, readers["schnell"].told_guidance) == (3.5, 2.0, None)
    assert view.condition([""])["guidance"].tolist() == [2.0]
    made = sample_latents(view.pipeline, ["one"], seed=1, steps=2)
    again = sample_latents(own.pipeline, ["one"], seed=1, steps=2, guidance_scale=2.0)
    np.testing.assert_allclose(made, again, atol=1e-6)
    assert fingerprint(view.pipeline) != fingerprint(own.pipeline)


def test_a_view_of_nothing_else_is_the_pipeline_itself(readers):
    own = readers["sdxl"]
    assert under(own) is own
    view = under(own, scheduler="DDIMScheduler", size=(24, 24))
    assert under(view, scheduler="DDIMScheduler", size=(24, 24)) is view
    back = under(view, scheduler="EulerDiscreteScheduler")
    assert back.pipeline.scheduler is own.pipeline.scheduler
    assert fingerprint(back.pipeline) == fingerprint(own.pipeline)


def test_defaults_are_the_call_s_and_those_that_a_pipeline_declares(readers):
    steps = {name: call_defaults(each.pipeline)["num_inference_steps"] for name, each in readers.items()}
    assert steps == {"ddpm": 1000, "ddim": 50, "sd": 50, "sdxl": 50, "sd3": 28, "flux": 28, "schnell": 28}
    for name in ("digits", "wardrobe"):
        declared = call_defaults(load_pipeline(name))
        assert (declared["num_inference_steps"], declared["guidance_scale"]) == (14, 7.5)


@pytest.mark.parametrize("scheduler", ["HeunDiscreteScheduler", "PNDMScheduler", "EulerAncestralDiscreteScheduler"])
def test_steps_by_hand_end_where_the_pipeline_does(readers, scheduler):
    """Some schedulers ask twice in a step, some add noise: begun anywhere, all of them end with the last step."""
    view = under(readers["sd"], scheduler=scheduler)
    x = torch.randn((2, *view.sample_shape), generator=torch.Generator().manual_seed(0))
    condition = view.condition(["one", ""])
    whole = stepped(view, x, condition, (0, 4, 4), seed=5)
    again = stepped(view, x, condition, (0, 4, 4), seed=5)
    assert torch.equal(whole, again)
    if scheduler != "EulerAncestralDiscreteScheduler":
        stock = view.pipeline(
            ["one", ""], latents=x, num_inference_steps=4, guidance_scale=1.0, output_type="latent"
        ).images
        np.testing.assert_allclose(whole, stock, atol=1e-4 * float(stock.abs().max()))
    levels = [level_after(view, 4, done) for done in range(4)]
    assert levels == sorted(set(levels), reverse=True)
    seen = []
    stepped(view, x, condition, (2, 4, 4), after_step=lambda x, t: seen.append(int(t[0])) or x)
    assert seen[-1] == levels[3]


def test_steps_of_a_flow_are_set_as_the_pipeline_sets_them(readers):
    """FLUX and SD3 shift their noise levels by the size of the image."""
    for name in ("sd3", "flux", "schnell"):
        view = under(readers[name], size=(24, 16))
        sample_latents(view.pipeline, ["one"], seed=1, steps=3)
        assert scheduler_of(view, 3).timesteps.tolist() == view.pipeline.scheduler.timesteps.tolist()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("[14]", "must hold names and values, got list"),
        ('{"num_inference_steps": 0}', "num_inference_steps must be a whole number of at least 1, got 0"),
        ('{"num_inference_steps": "14"}', "must be a whole number of at least 1, got '14'"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused_by_its_file(tmp_path, text, words):
    (tmp_path / "sampling.json").write_text(text, encoding="utf-8")
    pipeline = build(families.sd)
    pipeline.register_to_config(_name_or_path=str(tmp_path))
    with pytest.raises(ValueError, match=r"sampling\.json") as refused:
        call_defaults(pipeline)
    assert words in str(refused.value)
