"""Levels and cost of a student in the problem's own unit, and of a base model under guidance."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import duality as du
from diffusion.guidance.guided import Guided, constant
from diffusion.methods.chain import path_cost
from diffusion.methods.level_estimates import Meter
from diffusion.methods.likelihood import divergence
from diffusion.pipelines import repeat
from diffusion.training.lora import add_student
from tests.diffusion.methods.conftest import LEVELS, make_denoiser

FEW = {"count": 6, "noise_levels": 3, "seed": 5}


@pytest.fixture(scope="module")
def fresh():
    return make_denoiser()


def guided_by(denoiser, estimate, strength):
    return Guided(denoiser, estimate.prompts, estimate.classifier, constant(strength))


def moved_adapters(denoiser):
    add_student(denoiser, 1, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in denoiser.network.named_parameters():
            if "lora_B" in name:
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return denoiser


@pytest.mark.parametrize("name", LEVELS)
def test_a_network_that_has_not_moved_has_the_levels_of_q_at_no_cost(name, fresh, estimate):
    problem = LEVELS[name].bind(estimate.ratios)
    meter = Meter(fresh, estimate, problem, guided=guided_by(fresh, estimate, 0.0), **FEW)
    found = meter.of(estimate.anchor, estimate.values)
    # Its samples are q's, with the log ratios that the solver has; integrals take the first six.
    rows = slice(0, 6 if name == "reverse" else None)
    values = estimate.values[rows].double().numpy()
    if name == "forward":
        expected = (np.exp(values) * values).mean(0)
    elif name == "reverse":
        expected = -values.mean(0)
    else:
        expected = problem.likelihoods(values).mean(0)
    np.testing.assert_allclose(found.levels, expected, rtol=1e-12)
    assert float(meter.cost()[0].abs().max()) == 0.0


def test_guidance_is_off_inside_its_own_context(fresh, estimate):
    x, t = estimate.anchor[:2], torch.tensor([10, 10])
    condition = fresh.condition([""] * 2)
    with torch.no_grad(), guided_by(fresh, estimate, 2.0) as guided:
        with guided.off():
            plain = fresh.predict(x, t, condition)
        steered = fresh.predict(x, t, condition)
    with torch.no_grad():
        assert torch.equal(fresh.predict(x, t, condition), plain)
    assert not torch.allclose(plain, steered)


@pytest.mark.parametrize("name", LEVELS)
def test_cost_is_along_the_chain_that_its_direction_asks_for(name, estimate):
    """KL(p‖q) along the student's own chain; for ForwardKL along q's; asked under the prompts that are given."""
    denoiser = moved_adapters(make_denoiser())
    meter = Meter(denoiser, estimate, LEVELS[name].bind(estimate.ratios), **FEW)
    value, chain = meter.cost()
    assert chain.forward is (name == "forward")
    assert torch.equal(value, path_cost(denoiser, [""] * 6, chain, seed=6, based_on=""))
    assert float(value.min()) > 0
    asked = estimate.prompts.concepts[0].prompts
    under, _ = replace(meter, asked=asked).cost()
    assert torch.equal(under, path_cost(denoiser, [*asked] * 3, chain, seed=6, based_on=""))


def test_cost_of_guidance_is_along_the_guided_chain(fresh, estimate):
    meter = Meter(fresh, estimate, LEVELS["reverse"], guided=guided_by(fresh, estimate, 1.0), **FEW)
    assert float(meter.cost()[0].min()) > 0


def test_levels_under_a_prompt_are_of_the_student_under_it_and_the_base_under_the_anchor(estimate):
    """An unchanged network asked for something else has moved by exactly the difference of the two prompts."""
    denoiser = make_denoiser()
    add_student(denoiser, 1, 0)
    asked = estimate.prompts.concepts[0].prompts[:1]
    for name in ("forward", "reverse"):
        meter = Meter(denoiser, estimate, LEVELS[name].bind(estimate.ratios), **FEW)
        plain = meter.of(estimate.anchor, estimate.values)
        under = replace(meter, asked=asked).of(estimate.anchor, estimate.values)
        assert not np.allclose(plain.levels, under.levels)
        again = replace(meter, asked=("",)).of(estimate.anchor, estimate.values)
        np.testing.assert_array_equal(plain.levels, again.levels)


def test_fresh_samples_of_q_take_the_survey_s_place_for_forward_levels(fresh, estimate):
    meter = Meter(
        fresh, estimate, LEVELS["forward"].bind(estimate.ratios), guided=guided_by(fresh, estimate, 0.0), **FEW
    )
    few = estimate.anchor[:5], estimate.values[:5]
    values = estimate.values[:5].double().numpy()
    np.testing.assert_allclose(replace(meter, of_q=few).of(*few).levels, (np.exp(values) * values).mean(0), rtol=1e-12)


def test_reverse_level_is_what_was_moved_less_the_mean_log_ratio(estimate):
    denoiser = moved_adapters(make_denoiser())
    meter = Meter(denoiser, estimate, du.ReverseKL([1.0, 1.0]), **FEW)
    own = estimate.anchor.flip(0)
    found = meter.of(own, estimate.values.flip(0))
    moved = divergence(denoiser, own[:6], repeat(denoiser.condition([""]), 6), levels=3, seed=5)
    expected = float(moved.mean()) - estimate.values.flip(0)[:6].double().mean(0).numpy()
    np.testing.assert_allclose(found.levels, expected, rtol=1e-12)
    np.testing.assert_allclose(found.values.mean(0), found.levels, rtol=1e-12)


def test_one_sample_has_a_level_and_no_standard_error(fresh, estimate):
    problem = LEVELS["reverse"].bind(estimate.ratios)
    meter = Meter(fresh, estimate, problem, guided=guided_by(fresh, estimate, 0.0), **FEW | {"count": 1})
    found = meter.of(estimate.anchor, estimate.values)
    assert np.isfinite(found.levels).all()
    assert np.isnan(found.errors).all()
