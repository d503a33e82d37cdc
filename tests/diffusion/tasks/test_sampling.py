"""The law that is meant: filled once from the pipeline's own defaults, or refused by the name of the field."""

import pytest
import torch

import diffusion
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig, RatiosConfig
from diffusion.tasks.sampling import IMAGE_STEPS, Sampling, at_law, of_ratios
from diffusion.tasks.task import Concept, ConceptTask
from tests.diffusion import families
from tests.diffusion.families import build

MAKERS = {
    **families.FAMILIES,
    "flux": families.flux,
    "schnell": lambda: families.flux(guidance=False),
}
OWN = {
    "ddpm": ("DDPMScheduler", 1000, 1.0),
    "sd": ("DDIMScheduler", 50, 7.5),
    "sdxl": ("EulerDiscreteScheduler", 50, 5.0),
    "sd3": ("FlowMatchEulerDiscreteScheduler", 28, 7.0),
    "flux": ("FlowMatchEulerDiscreteScheduler", 28, 3.5),
    "schnell": ("FlowMatchEulerDiscreteScheduler", 28, 1.0),
}


@pytest.fixture(scope="module")
def readers():
    return {name: denoiser_of(build(make)) for name, make in MAKERS.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_left_out_is_the_pipeline_s_own_default(readers, name):
    own = readers[name]
    denoiser, filled = at_law(own, Sampling())
    assert denoiser is own
    scheduler, steps, scale = OWN[name]
    assert filled == Sampling(scheduler=scheduler, num_inference_steps=steps, guidance_scale=scale, height=16, width=16)
    assert at_law(own, filled) == (own, filled)
    # Guidance that the network is told is no mixture of two of its answers.
    assert filled.mixed_scale(own) == (scale if own.classifier_free else 1.0)
    assert filled.call(own)["steps"] == steps


@pytest.mark.parametrize("name", ["digits", "wardrobe"])
def test_the_embedded_pipelines_declare_fewer_steps(name):
    own = denoiser_of(load_pipeline(name))
    filled = Sampling().resolved(own)
    assert (filled.num_inference_steps, filled.guidance_scale) == (14, 7.5)
    assert Sampling().resolved(own, IMAGE_STEPS).num_inference_steps == 25
    assert Sampling(num_inference_steps=3).resolved(own, IMAGE_STEPS).num_inference_steps == 3


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("sd", {"scheduler": "Magic"}, "scheduler: StableDiffusionPipeline with DDIMScheduler cannot take 'Magic'"),
        ("sd", {"height": 20}, "height must be a multiple of 8, got 20: say 16 or 24"),
        ("sd", {"scheduler": "PNDMScheduler", "num_inference_steps": 2}, "PNDMScheduler cannot take 2"),
        ("sd", {"guidance_scale": 1, "negative_prompt": "x"}, "negative_prompt: does nothing at guidance scale 1"),
        ("ddpm", {"width": 32}, "makes images of its own size only"),
        ("ddpm", {"guidance_scale": 2}, "guidance_scale: DDPMPipeline has no guidance, got 2"),
        ("ddpm", {"negative_prompt": "x"}, "negative_prompt: DDPMPipeline takes none"),
        ("schnell", {"guidance_scale": 2}, "guidance_scale: FluxPipeline has no guidance, got 2"),
        ("flux", {"negative_prompt": "x"}, "negative_prompt: FluxPipeline takes none"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(readers, name, given, words):
    with pytest.raises(ValueError, match=words):
        at_law(readers[name], Sampling(**given))


def test_a_law_that_is_not_in_force_samples_nothing(readers):
    law = Sampling(scheduler="EulerDiscreteScheduler", height=24)
    with pytest.raises(ValueError, match="scheduler: EulerDiscreteScheduler is meant, and the pipeline is at DDIM"):
        law.call(readers["sd"])
    with pytest.raises(ValueError, match="height: 24 is meant, and the pipeline is at 16"):
        law.but(scheduler=None).steps(readers["sd"])
    denoiser, filled = at_law(readers["sd"], law)
    assert filled.steps(denoiser) == 50
    assert denoiser.size == (24, 16)


def test_ratios_between_prompts_are_of_scale_one_where_scales_mix(readers):
    assert of_ratios(readers["sd"], Sampling()).guidance_scale == 1
    assert of_ratios(readers["flux"], Sampling(guidance_scale=2)).guidance_scale == 2
    for given in (Sampling(guidance_scale=3), Sampling(negative_prompt="x")):
        with pytest.raises(ValueError, match="those of guidance scale 1"):
            of_ratios(readers["sd"], given)


LAWS = {
    "sd": {"scheduler": "EulerAncestralDiscreteScheduler", "height": 24, "width": 16, "guidance_scale": 2.0},
    "sdxl": {"scheduler": "DDIMScheduler", "height": 16, "width": 24, "guidance_scale": 2.0},
    "sd3": {"height": 16, "width": 24, "guidance_scale": 2.0},
    "flux": {"height": 24, "width": 16, "guidance_scale": 2.0},
    "ddpm": {"scheduler": "DDIMScheduler"},
}


def some(**more):
    sections = {
        "ratios": RatiosConfig(
            num_samples=24, concept_samples=10, retained_samples=10, noisings=2, classifier_steps=4, elbo_samples=2,
            elbo_noise_levels=2,
        ),
        "fit": FitConfig(max_train_steps=2, train_batch_size=6, rank=1, fixed_multipliers=True),
        "evaluation": EvaluationConfig(samples=20, integrated=2, retained_samples=4),
    }  # fmt: skip
    return Config(**(sections | more))


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning")
@pytest.mark.parametrize(
    "name", [each if each == "sd" else pytest.param(each, marks=pytest.mark.slow) for each in LAWS]
)
def test_every_stage_of_a_run_is_of_the_law_and_names_it(name, tmp_path, monkeypatch):
    """Each call that the run makes of the pipeline has its scheduler, size, steps and scale; so has what it writes."""
    import diffusion.pipelines.sampling as module

    pipeline = build(MAKERS[name])
    before, own = fingerprint(pipeline), type(pipeline.scheduler).__name__
    law = Sampling(num_inference_steps=2, **LAWS[name])
    seen = []
    plain = module.sample_latents

    def noted(view, prompts, **call):
        made = plain(view, prompts, **call)
        seen.append((type(view.scheduler).__name__, call["steps"], call.get("guidance_scale"), made.shape[1:]))
        return made

    for place in ("diffusion.ratios.detected", "diffusion.pipelines.latents"):
        monkeypatch.setattr(f"{place}.sample_latents", noted)

    def shown(images):
        assert images.shape[2:] == (law.height or 16, law.width or 16)
        return (images[:, 0, 0, 0] > 0.5 * images[:, 0, 0, 0].max()).astype(float)

    prompts = ["one", ""] if name != "ddpm" else [""]
    task = ConceptTask(concepts=[Concept("seven", detector=shown)], levels="0.7x", prompts=prompts)
    result = diffusion.unlearn(pipeline, task, some(sampling=law), output=tmp_path / "out")
    denoiser, filled = at_law(denoiser_of(build(MAKERS[name])), law)
    scales = {1.0, 2.0, 4.0} if name != "ddpm" else {None}
    assert len(seen) > 3
    assert {each[0] for each in seen} == {filled.scheduler}
    assert {each[1] for each in seen} == {2}
    assert {each[2] for each in seen} == scales
    assert {each[3] for each in seen} == {denoiser.sample_shape}
    question = result.certificate.question
    assert Sampling(**question.sampling) == filled == Config.from_yaml(tmp_path / "out" / "config.yaml").sampling
    assert (question.scheduler, question.guidance_scale) == (filled.scheduler, filled.guidance_scale)
    fresh = build(MAKERS[name])
    assert result.estimate.fingerprint == fingerprint(at_law(denoiser_of(fresh), law)[0].pipeline) != before
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"as {filled.scheduler} makes images of them in 2 steps" in card
    assert ("height=" in card) == (name != "ddpm")
    assert (f"{filled.scheduler}.from_config" in card) == (filled.scheduler != own)
    # The pipeline that was given keeps its own sampler, and carries what was fitted.
    assert type(pipeline.scheduler).__name__ == own
    assert result.outcome.losses
    assert not torch.equal(*(module.sample_latents(each, [""], seed=1, steps=2) for each in (pipeline, fresh)))


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_ratios_and_their_certificate_are_of_the_law(tmp_path):
    pipeline = build(families.sd)
    law = Sampling(scheduler="DDPMScheduler", num_inference_steps=3, height=24, width=24)
    task = ConceptTask(concepts=[Concept("seven", prior=0.3)], levels="0.9x", retained_prompts=["one"])
    result = diffusion.unlearn(pipeline, task, some(sampling=law), output=tmp_path / "out")
    assert result.estimate.anchor.shape[1:] == (4, 12, 12)
    sampling = Sampling(**result.certificate.question.sampling)
    assert sampling == law.but(guidance_scale=1.0)
    assert result.measured.costs[0].exact  # DDPM's own chain
    assert result.measured.costs[0].steps == 2
