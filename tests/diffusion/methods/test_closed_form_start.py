"""Where a fit begins: what a network says once prompts are taken to their anchors, and where nothing is done."""

import pytest
import torch

from diffusion.evaluation.sweep.canvas import CanvasTask
from diffusion.methods.closed_form_start import change_for, cross_attention, start_at_anchors
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.tasks.prompts import Prompt, Prompts
from diffusion.training.lora import add_student, base_model, undo
from diffusion.workflows.sweep import law_of
from tests.diffusion import families


@pytest.fixture(scope="module")
def styles():
    """The wardrobe, and a law where blueprints of everything take the law of a picture of it."""
    return denoiser_of(load_pipeline("wardrobe")), law_of(CanvasTask.of("blueprint"))


def differences(denoiser, prompts):
    """Mean squared changes of the student under moved prompts from the base model under their anchors, and before, and
    under the others."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for each in prompts.prompts[::3]:
        x, t = torch.randn(2, *denoiser.sample_shape, generator=generator), torch.tensor([300, 700])
        asked, anchor = (denoiser.condition([text] * 2) for text in (each.prompt, each.sampled))
        with torch.no_grad():
            said = denoiser.predict(x, t, asked)
            with base_model(denoiser):
                before, wanted = denoiser.predict(x, t, asked), denoiser.predict(x, t, anchor)
        moved = each.anchor is not None
        found.append((moved, float((said - wanted).square().mean()), float((before - wanted).square().mean())))
    after, before = (sum(row[k] for row in found if row[0]) for k in (1, 2))
    return after, before, sum(row[1] for row in found if not row[0])


@pytest.mark.parametrize("rank", [8, None])
def test_a_style_takes_its_anchors_law_and_others_keep_theirs(styles, rank, capsys):
    denoiser, law = styles
    try:
        add_student(denoiser, rank, 0)
        assert start_at_anchors(denoiser, law)
        assert "prompts begin at their anchors, in closed form: " in capsys.readouterr().err
        after, before, others = differences(denoiser, law)
        # States here are noise of two levels; half is far from what a start that does nothing, or harm, would leave.
        assert after < 0.5 * before
        assert others < 0.1 * before
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


def test_an_object_among_its_neighbours_is_left_to_the_fit(styles, capsys):
    """A boot: begun so nevertheless, a trial of it cost prompts that nobody had given thirty nats."""
    denoiser, law = styles[0], law_of(CanvasTask.of("an ankle boot"))
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
    assert change is None or not change.believed
