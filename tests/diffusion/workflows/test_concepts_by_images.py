"""Concepts shown by images, and contrast that is proposed where none is named."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image

import duality as du
from diffusion.evaluation.pairs import PAIRED
from diffusion.guidance.sampling import guided_samples
from diffusion.methods import ESD, PrimalDual
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.images import read_images
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.concepts import ConceptLaw, Examples
from diffusion.tasks.config import EvaluationConfig
from diffusion.tasks.contrast_prompts import propose
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.jobs import unlearn
from tests.diffusion.methods.conftest import made
from tests.diffusion.workflows.test_concepts import TASK, TINY, images, quiet


def test_concepts_by_prompt_need_a_pipeline_with_prompts():
    pipeline = build(lambda: families.ddpm(DDPMPipeline))
    with pytest.raises(ValueError, match="DDPMPipeline takes none"):
        unlearn(pipeline, ["seven"], du.Likelihood(0.01), **TASK)
    with pytest.raises(ValueError, match="ESD needs a prompt for every concept"):
        unlearn(pipeline, [images(10)], du.Likelihood(0.01), priors=0.1, method=ESD())
    with pytest.raises(ValueError, match="at least 10"):
        unlearn(pipeline, [images(9)], du.Likelihood(0.01), priors=0.1)
    with pytest.raises(ValueError, match="PrimalDual of this problem needs a prompt for every concept"):
        unlearn(pipeline, [images(10)], du.ReverseKL(1.0), priors=0.1, method="primal-dual")
    with pytest.raises(ValueError, match="examples must have shape"):
        unlearn(pipeline, [torch.zeros(10, 3, 8, 8)], du.Likelihood(0.01), priors=0.1)


BRIEFLY = PrimalDual(inner=1, warmup=0, samples=4, noise_levels=1)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize(
    ("method", "problem"),
    [
        (made("tilted"), ("ReverseKL", "1.2x")),
        pytest.param(made("guidance"), ("ReverseKL", "1.2x"), marks=pytest.mark.slow),
        (BRIEFLY, du.ForwardKL(0.2)),
        pytest.param(BRIEFLY, ("Likelihood", "0.9x"), marks=pytest.mark.slow),
    ],
    ids=["tilted", "guidance", "primal-dual, forward", "primal-dual, likelihood"],
)
def test_a_model_without_prompts_unlearns_what_pictures_show(method, problem, tmp_path):
    """Bright images, which a random network never makes: found by the classifier, and the run ends with a LoRA."""
    pipeline = build(lambda: families.ddpm(DDPMPipeline))
    result = unlearn(
        pipeline,
        [images(20)],
        problem,
        priors=0.1,
        sampling=TINY["sampling"],
        ratios=TINY["ratios"].but(concept_samples=20, retained_samples=30, noisings=4, classifier_steps=40),
        fit=TINY["fit"],
        # By this classifier the share is below a millionth: what samples show of that is not the matter here.
        evaluation=EvaluationConfig(samples=40, retained_samples=4, integrated=4, confidence=1e-6, power=0.99999),
        method=method,
        output=tmp_path / "out",
        bar=quiet,
    )
    assert result.estimate.validation[0].auc > 0.9
    assert result.solution.multipliers[0] > 0
    assert result.estimate.elbo.isnan().all()
    assert set(result.samples) == {"LoRA, anchor", "before, anchor", PAIRED}
    proof = json.loads((tmp_path / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert proof["question"]["concepts"][0]["examples"] == 20
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize(
    "vocabulary", [(), pytest.param(("one", "two", "three", "the digit 8 in ink"), marks=pytest.mark.slow)]
)
def test_contrast_and_priors_may_be_left_out(pipeline, vocabulary, monkeypatch):
    """Samples of q are the contrast. Random weights show nothing apart, so the estimate itself is put in by hand."""
    from diffusion.ratios import estimate as estimate_ratios

    monkeypatch.setattr(estimate_ratios, "unlabelled_prior", lambda *_: (0.25, 0.05))
    result = unlearn(
        build(families.sd),
        [["seven", "a handwritten seven"]],
        ("ReverseKL", "1.2x"),
        vocabulary=vocabulary,
        **TINY,
        bar=quiet,
    )
    assert result.estimate.prompts.priors == (0.25,)
    assert result.estimate.priors_stderr == (0.05,)
    assert len(result.estimate.prompts.contrast) == len(vocabulary)
    assert int((result.estimate.labels == 2).sum()) == (5 if vocabulary else 10)
    assert ("LoRA, retained" in result.samples) is bool(vocabulary)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_concepts_by_pictures_of_a_pipeline_with_prompts():
    result = unlearn(
        build(families.sd),
        [images(12)],
        ("ReverseKL", "1.2x"),
        retained=["one"],
        priors=0.1,
        **TINY,
        bar=quiet,
    )
    assert result.estimate.prompts.concepts[0].examples is not None
    assert "LoRA, concept" not in result.samples
    assert "LoRA, retained" in result.samples
    denoiser = denoiser_of(build(families.sd))
    plain = sample_latents(denoiser.pipeline, ["one"] * 2, seed=0, steps=2)
    guided = guided_samples(denoiser, result.estimate, result.solution.guidance, ["one"] * 2, seed=0, bar=quiet)
    assert not torch.equal(plain, guided)
    assert bool(torch.isfinite(guided).all())


def test_neighbours_share_words_with_the_concept():
    """A random text encoder still maps prompts that differ in one token close together."""
    denoiser = denoiser_of(load_pipeline("digits"))
    some = ["someone wrote the number one by hand", "the digit eight in ink", "one", "a handwritten three", "SEVEN"]
    found = propose(denoiser, [ConceptLaw(("a handwritten seven", "seven"), 0.1)], [*some, ""], count=2)
    assert len(found) == 2
    assert {each.prompt for each in found} <= set(some[:-1])
    assert found[0].closeness >= found[1].closeness
    assert "near 'a handwritten seven'" in str(found[0])
    with pytest.raises(ValueError, match="no use"):
        propose(denoiser, [ConceptLaw((), 0.1, Examples(torch.zeros(10, 4, 8, 8)))], some)


def test_pictures_are_read_as_they_are(pipeline, tmp_path):
    values = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    Image.fromarray(values).save(tmp_path / "good.png")
    made = read_images(pipeline, [tmp_path / "good.png", Image.fromarray(values)])
    assert made.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(made[1], 2 * (values.transpose(2, 0, 1) / 255.0) - 1, atol=1e-6)
    Image.fromarray(values[:8]).save(tmp_path / "small.png")
    Image.fromarray(values[..., 0]).save(tmp_path / "grey.png")
    (tmp_path / "text.png").write_text("no image")
    for some, words in (
        ([tmp_path / "small.png"], "16x16 pixels, got mode RGB and 16x8"),
        ([tmp_path / "good.png", tmp_path / "grey.png"], "grey.png' must have mode RGB"),
        ([tmp_path / "text.png"], "cannot be read"),
        ([tmp_path / "absent.png"], "cannot be read"),
        ([], "at least one"),
        (str(tmp_path / "good.png"), "list of paths"),
    ):
        with pytest.raises(ValueError, match=words):
            read_images(pipeline, some)
