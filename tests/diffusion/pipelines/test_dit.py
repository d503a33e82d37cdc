"""Class-conditional transformers: classes as prompts, a null class for guidance, samples as the stock call makes."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline, EulerDiscreteScheduler
from peft import PeftModel

from diffusion.evaluation.audit import check_auditable
from diffusion.guidance.guided import Guided, constant
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.latents import decode, encode
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts
from diffusion.tasks.config import FitConfig
from diffusion.tasks.contrast_prompts import propose
from diffusion.tasks.sampling import Sampling
from diffusion.training.lora import ADAPTER, add_lora
from tests.diffusion import families, jobs
from tests.diffusion.families import build
from tests.diffusion.methods.conftest import made
from tests.diffusion.pipelines.test_families import classifier_for
from tests.diffusion.workflows.test_concepts import quiet

PROMPTS = TaskPrompts((ConceptLaw(("goldfish",), 0.1),), (("207",), ("3",)))


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("variance", [True, False], ids=["learned variance", "epsilon alone"])
def test_samples_are_those_of_the_stock_call(variance, scale):
    """The same noise through the pipeline's own call: images equal up to float32's rounding in a dozen steps."""
    pipeline = build(lambda: families.dit(variance))
    stock = pipeline(
        [207, 1],
        guidance_scale=scale,
        generator=torch.Generator().manual_seed(5),
        num_inference_steps=4,
        output_type="np",
    )
    latents = sample_latents(pipeline, ["golden retriever", "1"], seed=5, steps=4, guidance_scale=scale)
    found = decode(pipeline, latents)
    np.testing.assert_allclose(found, 2 * stock.images.transpose(0, 3, 1, 2) - 1, atol=1e-5)
    other = sample_latents(pipeline, ["goldfish", "1"], seed=5, steps=4, guidance_scale=scale)
    torch.testing.assert_close(other[1], latents[1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other[0], latents[0], atol=1e-3)


def test_the_empty_prompt_is_the_null_class():
    pipeline = build(families.dit)
    denoiser = denoiser_of(pipeline)
    assert denoiser.condition(["", "tench", "Tinca tinca", " 207 "])["class_labels"].flatten().tolist() == [
        1000,
        0,
        0,
        207,
    ]
    # guidance from the null class to itself is none
    free, guided = (sample_latents(pipeline, [""], seed=0, steps=3, guidance_scale=s) for s in (1.0, 4.0))
    torch.testing.assert_close(guided, free, rtol=1e-4, atol=1e-4)
    for wrong in ("1000", "-1", "cat", "2.5"):
        with pytest.raises(ValueError, match="must be a class, 0 to 999, or one of its 4 names"):
            sample_latents(pipeline, [wrong], seed=0, steps=1)


def test_samples_do_not_depend_on_the_batch_whatever_the_sampler_adds():
    pipeline = build(families.dit)
    pipeline.scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    whole, parts = (sample_latents(pipeline, ["1", "", "3"], seed=1, steps=3, batch=b) for b in (3, 2))
    np.testing.assert_allclose(whole, parts, atol=1e-4 * float(whole.abs().max()))


def test_a_variance_beside_the_noise_is_left_alone_by_guidance():
    denoiser = denoiser_of(build(families.dit))
    network, seen = denoiser.network, []
    x = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    told = {"timestep": torch.tensor([500, 500]), "class_labels": torch.tensor([207, 1])}
    with torch.no_grad():
        plain = network(x, **told).sample
        with Guided(denoiser, PROMPTS, classifier_for(denoiser), constant(2.0)):
            seen = network(x, **told).sample
        anchor = network(x[1:], timestep=told["timestep"][1:], class_labels=torch.tensor([1000])).sample
    assert seen.shape == plain.shape == (2, 8, 8, 8)
    assert torch.equal(seen[:1, 4:], plain[:1, 4:])
    assert not torch.allclose(seen[0, :4], plain[0, :4], atol=1e-4)
    torch.testing.assert_close(seen[1:, 4:], anchor[:, 4:], rtol=1e-4, atol=1e-5)  # goldfish falls back to no class


def test_training_drops_no_labels():
    """The network's own label dropout would answer by the null class one time in ten, by a generator of the process."""
    denoiser = denoiser_of(build(families.dit))
    add_lora(denoiser, 2, 0)
    x = torch.randn(1, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0)).expand(64, -1, -1, -1)
    t, told = torch.full((64,), 500), denoiser.condition(["207"] * 64)
    before = torch.get_rng_state()
    denoiser.network.train()
    with torch.no_grad():
        said = denoiser.predict(x, t, told)
    denoiser.network.eval()
    assert float((said - said[:1]).abs().max()) < 1e-4 * float(said.abs().max())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_a_class_is_unlearned_into_a_lora_that_peft_loads(tmp_path):
    build(families.dit).save_pretrained(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model_index.json").read_text(encoding="utf-8"))
    index["id2label"] = {"1": "goldfish, Carassius auratus", "207": "golden retriever"}  # as published ones have it
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    pipeline = load_pipeline(str(tmp_path / "model"))
    more = jobs.TINY | {"fit": FitConfig(max_train_steps=4, train_batch_size=6, rank=2, learning_rate=5e-2)}
    result = jobs.unlearn(
        pipeline, ["goldfish"], ("ReverseKL", "1.05x"), retained=["207", "3"], priors=0.1, method=made("tilted"),
        output=tmp_path / "out", bar=quiet, **more,
    )  # fmt: skip
    assert np.isfinite(result.outcome.losses).all()
    assert any(ADAPTER in name for name, _ in pipeline.transformer.named_parameters())
    after = sample_latents(pipeline, ["1", ""], seed=1, steps=2)
    stock = DiTPipeline.from_pretrained(tmp_path / "model")
    before = sample_latents(stock, ["1", ""], seed=1, steps=2)
    stock.transformer = PeftModel.from_pretrained(stock.transformer, tmp_path / "out")
    found = stock(
        [1, 1000],
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(1),
        num_inference_steps=2,
        output_type="np",
    )
    np.testing.assert_allclose(decode(pipeline, after), 2 * found.images.transpose(0, 3, 1, 2) - 1, atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "pipeline(class_labels=[1], guidance_scale=1, num_inference_steps=2)" in card
    assert "text-to-image" not in card


def test_images_there_and_back():
    pipeline = build(families.dit)
    latents = sample_latents(pipeline, ["1"], seed=1, steps=2)
    images = decode(pipeline, latents)
    assert images.shape == (1, 3, 16, 16)
    assert encode(pipeline, torch.from_numpy(images)).shape == latents.shape


def test_what_does_not_fit_is_refused():
    pipeline = build(families.dit)
    pipeline.scheduler = EulerDiscreteScheduler()
    with pytest.raises(ValueError, match="scales its states, and the pipeline does not"):
        denoiser_of(pipeline)
    pipeline.scheduler = DDPMScheduler(variance_type="learned_range")
    with pytest.raises(ValueError, match="wants a learned variance"):
        denoiser_of(pipeline)
    pipeline = build(families.dit)
    pipeline.transformer.register_to_config(out_channels=12)
    with pytest.raises(ValueError, match="takes 4 and returns 12"):
        denoiser_of(pipeline)
    denoiser = denoiser_of(build(families.dit))
    with pytest.raises(ValueError, match="DiTPipeline takes none"):
        Sampling(negative_prompt="3", guidance_scale=3).resolved(denoiser)
    with pytest.raises(ValueError, match="images of its own size only"):
        Sampling(height=32, width=32).resolved(denoiser)
    with pytest.raises(ValueError, match="vocabulary has no use where prompts are classes"):
        propose(denoiser, PROMPTS.concepts, ["3"])
    with pytest.raises(ValueError, match="the prompts of DiTPipeline are classes"):
        check_auditable(denoiser)
    fewer = denoiser_of(build(lambda: families.dit(classes=10)))
    with pytest.raises(ValueError, match="has no guidance"):  # the stock call's null class is 1000, this network's 10
        Sampling(guidance_scale=3).resolved(fewer)
    assert fewer.condition([""])["class_labels"].item() == 10


def test_a_ddpm_with_classes_is_refused():
    """No pipeline of diffusers samples one: its own tells its network no class."""

    def conditional():
        made_ = families.ddpm()
        made_.unet = type(made_.unet).from_config(made_.unet.config, num_class_embeds=10)
        return made_

    with pytest.raises(ValueError, match="tells its network no classes"):
        denoiser_of(build(conditional))
