from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion.methods.tilted import law_of, laws_of
from diffusion.pipelines import StableDiffusion, denoiser_of
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier import RatioClassifier
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import ADAPTER, add_lora, add_student, base_model, merged_adapters, save_lora
from tests.diffusion import families
from tests.diffusion.conftest import make_pipeline
from tests.diffusion.methods.conftest import Material, fit_tilted

SMALL = FitConfig(max_train_steps=4, train_batch_size=6, rank=2, learning_rate=1e-2, seed=3)


@pytest.fixture
def denoiser():
    """The size of the embedded pipeline, which is what the classifier below reads."""
    return StableDiffusion(make_pipeline())


@pytest.fixture(scope="module")
def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RatioClassifier(96 * 16 + 256, [0.5, 0.5], [0.1]).eval()


@pytest.fixture(scope="module")
def material():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(12, 4, 8, 8, generator=generator)
    weights = torch.rand(12, generator=generator)
    return Material(latents, weights, latents.flip(0), ("one", "three") * 6, lambda rho: -0.05 * rho[:, 0].exp())


def samples(material):
    return material.anchor, material.retained, material.prompts


def fit(denoiser, prompts, classifier, material, settings=SMALL, **more):
    return fit_tilted(denoiser, prompts, classifier, material, settings, **more)


def adapters(denoiser):
    return {name: p.detach().clone() for name, p in denoiser.network.named_parameters() if ADAPTER in name}


def test_who_is_asked_for_what(denoiser, prompts, material):
    """Half of q's rows under the anchor, the others by all paraphrases in turn; retained prompts under themselves."""
    data = laws_of(denoiser, prompts, samples(material), material.weights, SMALL)
    laws = torch.tensor([0] * 40_000 + [1, 2])
    asked = data.asking(laws, torch.Generator().manual_seed(0))
    assert asked[-2:].tolist() == [1, 2]
    count = len(prompts.concepts[0].prompts)
    often = torch.bincount(asked[:-2], minlength=3 + count) / 40_000
    # Five standard errors of a share, at most 1/2, of 40,000.
    assert abs(float(often[0]) - (0.5 + 0.5 / (count + 1))) < 5 * 0.5 / 200
    assert often[1:3].tolist() == [0, 0]
    np.testing.assert_allclose(often[3:], 0.5 / (count + 1), atol=5 * 0.5 / 200)
    words = [prompts.anchor, "one", "three", *prompts.concepts[0].prompts]
    for name, value in denoiser.condition(words).items():
        assert torch.equal(data.asked[name], value)
        # What the base model is asked under is the law's own prompt, the anchor where a paraphrase is asked for.
        torch.testing.assert_close(data.anchors[name], value[[0, 1, 2, *[0] * count]])
    assert data.prompts.tolist() == [0] * 12 + [1, 2] * 6


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_rows_count_as_if_they_were_chosen_alike(denoiser, prompts, material, share):
    """Samples of unusual weight are looked at as often as all others; what a row counts for makes up for it."""
    data = laws_of(denoiser, prompts, samples(material), material.weights, SMALL.but(retain_share=share))
    assert len(data.latents) == (24 if share else 12)
    for often in (data.shares, data.target):
        assert float(often.sum()) == pytest.approx(1)
        assert float(often[:12].sum()) == pytest.approx(1 - share)
    np.testing.assert_allclose(data.target[:12], (1 - share) / 12)
    unusual = (material.weights - material.weights.mean()).abs().double()
    np.testing.assert_allclose(data.shares[:12], (1 - share) * (0.5 / 12 + 0.5 * unusual / unusual.sum()), rtol=1e-6)
    assert float((data.target / data.shares).max()) <= 2


def test_a_pipeline_without_prompts_is_asked_for_its_anchor_alone(material, prompts):
    ddpm = denoiser_of(families.build(families.ddpm))
    some = torch.randn(12, *ddpm.sample_shape), torch.randn(0, *ddpm.sample_shape), ()
    data = laws_of(ddpm, prompts, some, material.weights, SMALL)
    laws = torch.zeros(50, dtype=torch.long)
    assert torch.equal(data.asking(laws, torch.Generator().manual_seed(0)), laws)
    assert float(data.shares.sum()) == pytest.approx(1)


def test_the_law_that_a_start_is_found_for(prompts):
    law = law_of(prompts)
    sampled = dict(zip(law.texts, law.sampled, strict=True))
    assert sampled[prompts.anchor] == prompts.anchor
    assert {sampled[text] for text in prompts.concepts[0].prompts} == {prompts.anchor}
    assert all(sampled[text] == text for text in prompts.retained)
    assert sum(law.probabilities) == pytest.approx(1)
    twice = TaskPrompts((ConceptLaw(("seven", "a  seven", "a seven"), 0.1),), (("", "one"), ("one",)))
    assert law_of(twice).texts == ("", "seven", "a seven", "one")


def test_student_starts_as_the_teacher_and_the_teacher_stays(denoiser, prompts, classifier, material):
    x, t, c = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor([5, 800]), ["", "one"]
    condition = denoiser.condition(c)
    with torch.no_grad():
        before = denoiser.predict(x, t, condition)
        add_lora(denoiser, 2, 0)
        np.testing.assert_allclose(denoiser.predict(x, t, condition), before, atol=1e-6)
    fit(denoiser, prompts, classifier, material)
    with torch.no_grad():
        assert not torch.allclose(denoiser.predict(x, t, condition), before, atol=1e-4)
    with base_model(denoiser):
        np.testing.assert_allclose(denoiser.predict(x, t, condition), before, atol=1e-6)


def test_resumed_fit_ends_bit_equal(denoiser, prompts, classifier, material, tmp_path):
    whole = FitConfig(max_train_steps=9, train_batch_size=3, rank=1, seed=1)
    losses = fit(denoiser, prompts, classifier, material, whole)
    expected = adapters(denoiser)

    class Stop(Exception):
        pass

    seen, path = [], tmp_path / "fit.safetensors"

    def interrupt(count):
        seen.append(count)
        if len(seen) == 7:
            raise Stop

    with pytest.raises(Stop):
        fit(denoiser, prompts, classifier, material, whole, checkpoint=path, every=3, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.safetensors"]
    again = fit(denoiser, prompts, classifier, material, whole, checkpoint=path)
    assert again == losses
    assert all(torch.equal(value, expected[name]) for name, value in adapters(denoiser).items())


def test_a_loss_that_is_not_finite_stops_the_fit(denoiser, prompts, classifier, material):
    broken = replace(material, anchor=material.anchor * float("nan"))
    with pytest.raises(FloatingPointError, match="unet returned NaN or inf"):
        fit(denoiser, prompts, classifier, broken)


def test_stock_diffusers_loads_the_lora_with_its_alpha(denoiser, prompts, classifier, material, tmp_path):

    fit(denoiser, prompts, classifier, material)
    save_lora(denoiser, tmp_path)
    fitted = sample_latents(denoiser.pipeline, ["", "seven", "one"], seed=1, steps=3)
    fresh = make_pipeline()
    plain = sample_latents(fresh, ["", "seven", "one"], seed=1, steps=3)
    fresh.load_lora_weights(tmp_path)
    loaded = next(iter(fresh.unet.peft_config.values()))
    assert (loaded.r, loaded.lora_alpha) == (SMALL.rank, SMALL.rank)
    np.testing.assert_allclose(sample_latents(fresh, ["", "seven", "one"], seed=1, steps=3), fitted, atol=1e-5)
    assert not torch.allclose(plain, fitted, atol=1e-3)


@pytest.mark.parametrize("rank", [2, None], ids=["LoRA", "all weights"])
def test_a_folded_student_predicts_the_same_and_leaves_every_weight_as_it_was(denoiser, rank):
    generator = torch.Generator().manual_seed(1)
    for parameter in add_student(denoiser, rank, 0):
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    x, t = torch.randn(3, 4, 8, 8, generator=generator), torch.full((3,), 500)
    condition = denoiser.condition(["", "a handwritten seven", ""])
    before = {name: value.detach().clone() for name, value in denoiser.network.named_parameters()}
    trained = {name for name, value in denoiser.network.named_parameters() if value.requires_grad}
    with torch.no_grad():
        student = denoiser.predict(x, t, condition)
        with base_model(denoiser):
            plain = denoiser.predict(x, t, condition)
        with pytest.raises(RuntimeError, match="stop"), merged_adapters(denoiser):
            inside = denoiser.predict(x, t, condition)
            raise RuntimeError("stop")
        assert torch.equal(denoiser.predict(x, t, condition), student)
    torch.testing.assert_close(inside, student, rtol=1e-4, atol=1e-5)
    assert (plain - student).abs().max() > 1e-2
    assert all(torch.equal(value, before[name]) for name, value in denoiser.network.named_parameters())
    assert {name for name, value in denoiser.network.named_parameters() if value.requires_grad} == trained
