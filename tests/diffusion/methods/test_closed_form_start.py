"""Where a fit begins: what a network says once prompts are taken to their anchors, and where nothing is done."""

import pytest
import torch

from diffusion.evaluation.sweep.canvas import UNSEEN, CanvasTask
from diffusion.methods import closed_form_start
from diffusion.methods.closed_form_start import base_weight, begin, change_for, cross_attention, start_at_anchors
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.tasks.prompts import Prompt, Prompts
from diffusion.training.lora import add_student, base_model, undo
from diffusion.wardrobe.prompts import fallen_back
from diffusion.workflows.sweep import law_of
from tests.diffusion import families

SANDAL = CanvasTask.of("a sandal")


@pytest.fixture(scope="module")
def styles():
    """The wardrobe, and a law where blueprints of everything take the law of a picture of it."""
    return denoiser_of(load_pipeline("wardrobe")), law_of(CanvasTask.of("blueprint"))


def changes(denoiser, texts, sampled):
    """Mean squares, at noise of two levels, of the student under prompts from the base model under others, and of what
    the base model says under both."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *denoiser.sample_shape, generator=generator).repeat(len(texts), 1, 1, 1)
    t = torch.tensor([300, 700] * len(texts))
    asked, anchor = (denoiser.condition([text for text in some for _ in range(2)]) for some in (texts, sampled))
    with torch.no_grad():
        said = denoiser.predict(x, t, asked)
        with base_model(denoiser):
            before, wanted = denoiser.predict(x, t, asked), denoiser.predict(x, t, anchor)
    return tuple(float((one - wanted).square().mean()) for one in (said, before))


def differences(denoiser, prompts):
    """Changes under moved prompts after and before, and under the others."""
    found = []
    for moved in (True, False):
        some = [each for each in prompts.prompts if (each.anchor is not None) is moved][::5]
        found += changes(denoiser, [each.prompt for each in some], [each.sampled for each in some])
    return found[:3]


@pytest.mark.parametrize(
    ("concept", "rank", "left"), [("blueprint", 8, 0.5), ("blueprint", None, 0.5), ("an ankle boot", 8, 0.6)]
)
def test_a_style_and_an_object_take_their_anchors_law_and_others_keep_theirs(styles, concept, rank, left, capsys):
    denoiser, law = styles[0], law_of(CanvasTask.of(concept))
    try:
        add_student(denoiser, rank, 0)
        assert start_at_anchors(denoiser, law)
        assert "prompts begin at their anchors, in closed form: " in capsys.readouterr().err
        after, before, others = differences(denoiser, law)
        # States here are noise of two levels; that is far from what a start that does nothing, or harm, would leave.
        assert after < left * before
        assert others < 0.1 * before
    finally:
        undo(denoiser)


def test_other_layers_learn_at_a_rate_of_their_own_where_a_fit_begins_at_anchors(styles):
    denoiser, law = styles
    still = Prompts([Prompt(prompt="a sneaker"), Prompt(prompt="a bag")])
    try:
        parameters = add_student(denoiser, 2, 0)
        assert begin(denoiser, still, 0.25) is None  # it begins at the base model
        assert begin(denoiser, law, 1.0) is None  # all are alike
        add_student(denoiser, 2, 0)
        rates = begin(denoiser, law, 0.25)
        names = [name for name, p in denoiser.network.named_parameters() if p.requires_grad]
        assert len(rates) == len(names) == len(parameters)
        for name, rate in zip(names, rates, strict=True):
            assert rate == (1.0 if "attn2.to_k" in name or "attn2.to_v" in name else 0.25)
        assert set(rates) == {1.0, 0.25}
    finally:
        undo(denoiser)


def test_nothing_is_done_without_anchors_cross_attention_or_layers_that_are_trained(styles):
    denoiser, law = styles
    plain = Prompts([Prompt(prompt=each.prompt) for each in law.prompts if each.anchor is None])
    assert change_for(denoiser, plain) is None
    same = Prompts([Prompt(prompt="a sneaker", anchor="A  Sneaker"), Prompt(prompt="a bag")])
    assert change_for(denoiser, same) is None
    for kind in (families.sd3, families.ddpm):
        other = denoiser_of(families.build(kind))
        assert cross_attention(other) == []
        assert change_for(other, law) is None
    try:
        add_student(denoiser, 2, 0, ("to_q",))
        assert not start_at_anchors(denoiser, law)
    finally:
        undo(denoiser)


def vectors(denoiser, texts):
    return denoiser.condition(list(texts))["encoder_hidden_states"].double()


def size(denoiser, e):
    """What keys and values say of vectors (n, places, d), squared."""
    layers = [base_weight(layer).double() for layer in cross_attention(denoiser)]
    return float(sum((e @ layer.T).square().sum(-1).mean() for layer in layers))


def in_contexts(denoiser, task, asking):
    """How far prompts on stripes and dots move, which no prompt of the law names, from where they are to be; and the
    way from the concept to its anchors."""
    texts = [each.prompt for each in task.prompts(asking, UNSEEN, (1, 2))][::3]
    to = [fallen_back(text, task.concept) for text in texts] if asking else texts
    e, m = vectors(denoiser, texts), change_for(denoiser, law_of(task)).m
    return size(denoiser, e + e @ m.T - vectors(denoiser, to)), size(denoiser, e - vectors(denoiser, to))


def test_words_that_no_law_names_keep_what_they_say_and_do_not_bring_the_concept_back(styles, monkeypatch):
    denoiser, task = styles[0], CanvasTask.of("an ankle boot")
    way = size(denoiser, vectors(denoiser, task.asking) - vectors(denoiser, task.anchors))
    kept, _ = in_contexts(denoiser, task, asking=False)
    left, whole = in_contexts(denoiser, task, asking=True)
    assert kept < 0.25 * way
    assert left < 0.4 * whole
    for name in ("versions", "others"):  # without versions both are worse
        monkeypatch.setattr(closed_form_start, name, lambda *_: [])
    assert in_contexts(denoiser, task, asking=False)[0] > 2 * kept
    assert in_contexts(denoiser, task, asking=True)[0] > left


def test_neighbours_in_styles_that_no_retained_prompt_has_keep_what_they_say(styles, monkeypatch):
    denoiser, task = styles[0], CanvasTask.of("a dress")
    texts = [
        f"a {style} of a {name}" for style in ("sketch", "mosaic", "neon") for name in ("trouser", "sandal", "bag")
    ]
    e = vectors(denoiser, [*texts, *(f"{text} on dots" for text in texts)])
    assert not set(texts) & set(task.retained)

    def harm():
        return size(denoiser, e @ change_for(denoiser, law_of(task)).m.T)

    kept = harm()
    monkeypatch.setattr(closed_form_start, "others", lambda *_: [])
    assert harm() > 1.3 * kept


def test_other_words_in_the_concepts_place_are_kept_where_left_out_prompts_like_that_better(styles, monkeypatch):
    denoiser, style = styles
    taken = {name: change_for(denoiser, law) for name, law in (("style", style), ("object", law_of(SANDAL)))}
    monkeypatch.setattr(closed_form_start, "others", lambda *_: [])
    without = {name: change_for(denoiser, law) for name, law in (("style", style), ("object", law_of(SANDAL)))}
    torch.testing.assert_close(taken["style"].m, without["style"].m)
    assert taken["object"].left < without["object"].left
    assert not torch.equal(taken["object"].m, without["object"].m)


def test_an_object_that_left_out_prompts_cannot_tell_from_its_neighbours_is_left_to_the_fit(styles, capsys):
    """T-shirts next to pullovers; it is said, and the student stays at the base model."""
    denoiser, law = styles[0], law_of(CanvasTask.of("a t-shirt"))
    assert not change_for(denoiser, law).believed
    try:
        parameters = add_student(denoiser, 2, 0)
        before = [parameter.detach().clone() for parameter in parameters]
        assert not start_at_anchors(denoiser, law)
        assert "prompts begin at the base model: " in capsys.readouterr().err
        assert all(torch.equal(*pair) for pair in zip(before, parameters, strict=True))
    finally:
        undo(denoiser)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_fewer_prompts_than_folds_are_no_error(styles, count):
    """Empty folds once asked the text encoder for nothing at all."""
    law = Prompts(
        [Prompt(prompt="a blueprint", anchor="a picture"), *(Prompt(prompt=f"a {k}") for k in range(1, count))]
    )
    change = change_for(styles[0], law)
    assert change.left > 0
    # Words alone stay where a law keeps nothing.
    denoiser, task = styles[0], CanvasTask.of("blueprint")
    e = vectors(denoiser, ["dress on dots", "sneaker"])
    assert size(denoiser, e @ change.m.T) < 0.2 * size(
        denoiser, vectors(denoiser, task.asking) - vectors(denoiser, task.anchors)
    )
