"""Prompts are known by what they say: equal embeddings, negative prompts, the encoders' limit, none at all."""

import pytest
import torch

from diffusion.guidance.guided import Guided, constant
from diffusion.guidance.prompt_exchange import ConceptRequests, exchanged
from diffusion.methods.chain import Chain, path_cost
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.sampling import sample_latents
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.pipelines.test_families import PROMPTS, classifier_for

FAMILIES = ("sd", "sdxl", "sd3")


@pytest.fixture(scope="module", params=FAMILIES)
def denoiser(request):
    return denoiser_of(build(families.FAMILIES[request.param]))


def samples(denoiser, text, **more):
    return sample_latents(denoiser.pipeline, [text], seed=3, steps=2, **more)


def test_a_negative_prompt_that_names_the_concept_works_on(denoiser):
    plain = samples(denoiser, "one", guidance_scale=3.0, negative_prompt=["seven"])
    other = samples(denoiser, "one", guidance_scale=3.0, negative_prompt=[""])
    with Guided(denoiser, PROMPTS, classifier_for(denoiser), constant(0.0)):
        inside = samples(denoiser, "one", guidance_scale=3.0, negative_prompt=["seven"])
        asking = samples(denoiser, "seven", guidance_scale=3.0, negative_prompt=["seven"])
    torch.testing.assert_close(inside, plain)
    assert not torch.allclose(inside, other, atol=1e-4 * float(other.abs().max()))
    # The prompt itself falls back, beside a negative one of the same words.
    anchored = samples(denoiser, "", guidance_scale=3.0, negative_prompt=["seven"])
    torch.testing.assert_close(asking, anchored)


def test_what_is_equal_to_the_encoder_is_not_what_was_said(monkeypatch):
    """An encoder that gives "one" the embedding of "seven": only who says "seven" gets the anchor."""
    denoiser = denoiser_of(build(families.sd))
    encode, told = denoiser.pipeline.encode_prompt, []

    def deaf(prompt, *arguments, **named):
        told.append(prompt)
        given = [prompt] if isinstance(prompt, str) else prompt
        return encode(["seven" if text == "one" else text for text in given], *arguments, **named)

    monkeypatch.setattr(denoiser.pipeline, "encode_prompt", deaf)
    one, seven, anchor = (samples(denoiser, text) for text in ("one", "seven", ""))
    torch.testing.assert_close(one, seven)
    with Guided(denoiser, PROMPTS, classifier_for(denoiser), constant(0.0)):
        torch.testing.assert_close(samples(denoiser, "one"), one)
        torch.testing.assert_close(samples(denoiser, "seven"), anchor)
    assert denoiser.pipeline.encode_prompt is deaf


def test_what_is_cut_off_by_the_encoder_does_not_hide_a_concept():
    denoiser = denoiser_of(build(families.sd))
    asking = ConceptRequests(denoiser.pipeline, PROMPTS)
    limit = denoiser.pipeline.tokenizer.model_max_length
    assert asking("a handwritten  SEVEN")
    assert not asking("one")
    long = "seven " * limit
    with_tail = ConceptRequests(denoiser.pipeline, type(PROMPTS)(PROMPTS.concepts, PROMPTS.contrast, unlabelled=True))
    with_tail._tokens = {with_tail.tokens(long)}  # as if this were one of its paraphrases
    assert with_tail(long + "and more that no encoder sees")
    assert not with_tail("seven " * 3)


def test_ready_made_embeddings_are_taken_as_they_are():
    denoiser = denoiser_of(build(families.sd))
    embedded = denoiser.condition(["seven"])["encoder_hidden_states"]
    chance = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *denoiser.sample_shape, generator=chance)

    def made():
        call = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent", "latents": noise}
        return denoiser.pipeline(prompt_embeds=embedded, **call).images

    plain = made()
    with Guided(denoiser, PROMPTS, classifier_for(denoiser), constant(0.0)):
        torch.testing.assert_close(made(), plain)


def test_the_cost_under_a_concepts_prompt_is_that_of_the_anchor():
    """Guidance of strength zero is the base model, and under "seven" the base model under the anchor."""
    denoiser = denoiser_of(build(families.sd))
    guided = Guided(denoiser, PROMPTS, classifier_for(denoiser), constant(0.0))
    chain = Chain(torch.tensor([800, 500, 200]), False)

    def cost(based_on):
        return path_cost(
            denoiser, ["seven"], chain, seed=1, based_on=based_on, student=lambda: guided, plain=guided.off
        )

    assert float(cost("").max()) == 0
    assert float(cost(None).min()) > 0


def test_the_pipeline_is_left_as_it_was_when_an_error_passes():
    pipeline = build(families.sd)
    with pytest.raises(RuntimeError), exchanged(pipeline, lambda text: text + "!"):
        assert "encode_prompt" in vars(pipeline)
        raise RuntimeError
    assert "encode_prompt" not in vars(pipeline)
