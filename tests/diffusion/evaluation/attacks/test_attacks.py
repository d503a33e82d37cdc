"""Every attack finds something where there is something to find, and nothing where there is nothing."""

from itertools import combinations

import numpy as np
import pytest

stats = pytest.importorskip("scipy.stats")
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.api import open_denoiser
from diffusion.evaluation.attacks import (
    ATTACKS,
    ClassifierGuidance,
    Completion,
    ConceptVector,
    NoiseInjection,
    SoftPrompt,
    TokenSearch,
    Victim,
    attacks_of,
)
from diffusion.evaluation.attacks.base import Brought, denoise, noised_references, sampled
from diffusion.evaluation.attacks.classifier_guidance import train_classifier
from diffusion.evaluation.attacks.rows import AttackPlan, searched
from diffusion.evaluation.attacks.soft_prompt import _loss
from diffusion.evaluation.attacks.token_search import error, words_of
from diffusion.evaluation.sweep.canvas import CanvasTask
from diffusion.methods.base import ErasureContext
from diffusion.methods.erasure import UCE
from diffusion.pipelines import rows
from diffusion.pipelines.latents import decode, encode
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier import log_snr
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import undo
from diffusion.wardrobe import STYLES, render, shipped_photographs
from duality.confidence import clopper_pearson

BOOT = CanvasTask.of("a boot")
BRIEF = {
    "soft-prompt": SoftPrompt(restarts=1, steps=30, rate=0.1),
    "token-search": TokenSearch(places=1, candidates=4, starts=1),
    "concept-vector": ConceptVector(strengths=(1.0, 2.0)),
    "completion": Completion(),
    "noise-injection": NoiseInjection(multiples=(0.05,)),
    "own-classifier": ClassifierGuidance(strengths=(3.0,), steps=150),
}


@pytest.fixture(scope="module")
def denoiser():
    return open_denoiser("wardrobe")


@pytest.fixture(scope="module")
def material(denoiser):
    """Latents of real renderings in the style photo: boots, and all others."""
    photographs = shipped_photographs("train")
    n = len(photographs)
    images = render(photographs.images, np.zeros(n, np.int64), np.zeros(n, np.int64))
    boots = photographs.objects == 7
    return tuple(encode(denoiser.pipeline, torch.from_numpy(images[rows])[:24]) for rows in (boots, ~boots))


def victim(denoiser, material, **more):
    detector = BOOT.detector()
    given = {
        "shows": lambda latents: detector(decode(denoiser.pipeline, latents)),
        "prompts": ("a photo of a boot",),
        "anchor": "a photo of a garment",
        "steps": 6,
        "scale": 3.0,
        "samples": 8,
        "search": 4,
    } | more
    return Victim(denoiser, references=material[0], others=material[1], **given)


def hide(denoiser):
    """The name alone is taken away: the edit of one text, so that everything behind it stays."""
    context = ErasureContext(denoiser, BOOT.asking, BOOT.anchors, BOOT.retained, FitConfig())
    UCE(100.0).fit(context)


def test_samples_are_those_of_the_stock_pipeline(denoiser, material):
    some = victim(denoiser, material)
    noise, _ = some.noise(3, 0)
    texts = ["a photo of a boot", "a bag", ""]
    ours = denoise(some, noise, denoiser.condition(texts), batch=2)
    stock = denoiser.pipeline(
        texts, latents=noise, guidance_scale=3.0, num_inference_steps=6, output_type="latent"
    ).images
    torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-3)
    assert not torch.equal(some.noise(3, 0)[0], some.noise(3, 1)[0])


@pytest.mark.parametrize("name", ["completion", "own-classifier"])
def test_a_concept_without_its_name_is_found(name, denoiser, material):
    hide(denoiser)
    try:
        some = victim(denoiser, material)
        plain = sampled(some, denoiser.condition(list(some.prompts)), 8, 0)
        assert some.share(plain) <= 0.25
        assert some.share(BRIEF[name].run(some).latents) > 0.5
    finally:
        undo(denoiser)


@pytest.mark.slow
def test_a_soft_prompt_finds_from_images_what_nobody_names(denoiser, material):
    some = victim(denoiser, material, prompts=("",), anchor="")
    plain = sampled(some, denoiser.condition([""]), 8, 0)
    assert some.share(plain) <= 0.5
    brought = SoftPrompt(restarts=1, steps=120, rate=0.1).run(some)
    assert some.share(brought.latents) > 0.75
    assert brought.detail.startswith("start ''")


@pytest.mark.parametrize("name", ["noise-injection", "token-search", "concept-vector"])
def test_what_goes_by_the_name_finds_what_has_one(name, denoiser, material):
    """These reach what is still linked to its name, and an edit of all that reads the name, linear as they are, stops
    them."""
    some = victim(denoiser, material)
    assert some.share(BRIEF[name].run(some).latents) > 0.5
    hide(denoiser)
    try:
        assert some.share(BRIEF[name].run(some).latents) <= 0.25
    finally:
        undo(denoiser)


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_found_where_nothing_is(name, material):
    """A network of random weights has never seen anything: what it makes no detector takes for a boot."""
    blank = open_denoiser("wardrobe")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in blank.network.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
    some = victim(blank, material)
    attack = BRIEF[name]
    if name == "own-classifier":
        attack = ClassifierGuidance(strengths=(0.01,), steps=20)
    assert some.share(attack.run(some).latents) <= 0.25


def test_a_soft_prompt_lowers_the_error_on_the_references(denoiser, material):
    some = victim(denoiser, material)
    start = denoiser.condition([""])
    ((passed, _),) = SoftPrompt(steps=40, rate=0.05).invert(some, start, [0])
    with torch.no_grad():
        one, two = (
            float(_loss(some, each, 64, [torch.Generator().manual_seed(9)]))
            for each in (start, rows(passed, slice(2, 3)))
        )
    assert two < one
    assert len(passed["encoder_hidden_states"]) == 3
    ((kept, _),) = SoftPrompt(steps=2, vectors=2).invert(some, start, [0])
    (found,) = kept.values()
    assert torch.equal(found[:, 2:], start["encoder_hidden_states"][:, 2:].expand(len(found), -1, -1))
    assert not torch.equal(found[:1, :2], start["encoder_hidden_states"][:, :2])


def test_starts_that_are_moved_together_go_where_each_would_go_alone(denoiser, material, monkeypatch):
    some, attack = victim(denoiser, material), SoftPrompt(restarts=3, steps=4, batch=2)
    together = attack.candidates(some)
    monkeypatch.setattr("diffusion.evaluation.attacks.soft_prompt.NUMBERS", 1)
    alone = attack.candidates(some)
    assert [each.start for each in together] == [each.start for each in alone]
    for one, two in zip(together, alone, strict=True):
        torch.testing.assert_close(one.passed, two.passed, rtol=1e-3, atol=1e-3)
    ends = [each.condition["encoder_hidden_states"] for each in together]
    assert not any(torch.equal(one, two) for one, two in combinations(ends, 2))


def test_words_of_a_prompt_matter_to_the_error(denoiser, material):
    some = victim(denoiser, material)
    words = words_of(denoiser.pipeline.tokenizer)
    assert {"boot", "sketch"} <= set(words)
    states = noised_references(some, 16, torch.Generator().manual_seed(0), 0.5)
    assert error(some, "a photo of a boot", states) < error(some, "a photo of a bag", states)
    found = TokenSearch(places=2, candidates=6).extended(some, "a photo", words, states, torch.Generator())
    assert found.endswith("a photo")
    assert error(some, found, states) <= error(some, "a photo", states)


def test_a_classifier_tells_the_concept_from_the_rest(denoiser, material):
    classifier = train_classifier(denoiser, *material, steps=200, seed=0)
    t = torch.full((24,), 100)
    with torch.no_grad():
        one, two = (classifier(some, log_snr(denoiser, t).float()) for some in material)
    assert float((one > 0).float().mean()) > 0.9
    assert float((two < 0).float().mean()) > 0.9


def test_concept_vectors_are_differences(denoiser, material):
    some = victim(denoiser, material)
    (moved,) = ConceptVector().shifted(some, 1.0).values()
    torch.testing.assert_close(moved, denoiser.condition(list(some.prompts))["encoder_hidden_states"])


def test_a_late_completion_hands_on_the_image_that_it_was_given(material):
    """Why the share of the steps is small: a network that knows nothing 'completes' as well."""
    blank = open_denoiser("wardrobe")
    with torch.no_grad():
        for parameter in blank.network.parameters():
            parameter.zero_()
    some = victim(blank, material)
    assert some.share(Completion(done=0.7).run(some).latents) > some.share(Completion().run(some).latents)


def test_several_searches_are_sampled_in_turn(denoiser, material):
    class Marked(SoftPrompt):
        def run(self, victim):
            return Brought(torch.full((victim.samples, 1), float(victim.seed)), f"of {victim.seed}")

    plan, counted = AttackPlan(("soft-prompt",), 3, 2, 1.0, 5), []
    one, two = plan.seeds()
    assert one == 5 != two
    latents, detail = searched(
        Marked(), [victim(denoiser, material, samples=3, seed=s) for s in (one, two)], counted.append
    )
    assert latents[:, 0].tolist() == [one, two] * 3
    assert detail == f"of {one}; of {two}"
    assert counted == [3, 3]


@pytest.mark.parametrize("shares", [(0.0, 0.2), (0.05, 0.3, 0.1, 0.0), (0.4, 0.9)])
def test_the_bound_on_a_mean_over_searches_holds_where_their_shares_differ(shares):
    """Exactly: the law of the number of hits is a convolution of binomials, 12 samples of each search."""
    law = np.ones(1)
    for share in shares:
        law = np.convolve(law, stats.binom.pmf(np.arange(13), 12, share))
    n = 12 * len(shares)
    missed = sum(law[k] for k in range(n + 1) if clopper_pearson(k, n) < np.mean(shares))
    assert missed <= 0.05
    # Equal shares come closer to it: differing ones only make the bound safer.
    alike = stats.binom.pmf(np.arange(n + 1), n, np.mean(shares))
    assert missed <= sum(alike[k] for k in range(n + 1) if clopper_pearson(k, n) < np.mean(shares)) <= 0.05


def test_what_does_not_fit_is_refused(denoiser, material):
    assert [type(each) for each in attacks_of(["all"])] == list(ATTACKS.values())
    assert len(attacks_of(["completion", "completion"])) == 1
    with pytest.raises(ValueError, match="must be one of all, soft-prompt"):
        attacks_of(["magic"])
    with pytest.raises(ValueError, match="steps 2"):
        victim(denoiser, material, steps=1)
    with pytest.raises(ValueError, match="at least one sample"):
        Victim(denoiser, len, ("x",), "", material[0][:0], material[1], 4)
    assert STYLES[0] == "photo"


def test_sampling_by_name_and_by_condition_agree(denoiser, material):
    some = victim(denoiser, material, scale=1.0)
    texts = ["a photo of a boot"] * 4
    stock = sample_latents(denoiser.pipeline, texts, seed=3, steps=6)
    assert some.share(stock) > 0.5
