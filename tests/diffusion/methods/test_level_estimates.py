"""Levels and cost of a student in the problem's own unit, and of a teacher under guidance."""

import numpy as np
import pytest
import torch

import duality as du
from diffusion.guidance.guided import Guided, constant
from diffusion.methods.level_estimates import Meter
from diffusion.methods.likelihood import divergence
from diffusion.pipelines import repeat
from diffusion.training.lora import add_student
from tests.diffusion.methods.conftest import LEVELS, make_denoiser

FEW = {"count": 6, "noise_levels": 3, "seed": 5}


@pytest.fixture(scope="module")
def fresh():
    return make_denoiser()


def guided_by(denoiser, known, strength):
    return Guided(denoiser, known.prompts, known.head, constant(strength))


def moved_adapters(denoiser):
    add_student(denoiser, 1, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in denoiser.network.named_parameters():
            if "lora_B" in name:
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return denoiser


@pytest.mark.parametrize("name", LEVELS)
def test_a_network_that_has_not_moved_has_the_levels_of_q_at_no_cost(name, fresh, known):
    problem = LEVELS[name].bind(known.ratios)
    meter = Meter(fresh, known, problem, guided=guided_by(fresh, known, 0.0), **FEW)
    found = meter.of(known.anchor, known.values)
    # Its draws are q's, with the log ratios that the solver has; integrals take the first six.
    rows = slice(0, 6 if name == "reverse" else None)
    values = known.values[rows].double().numpy()
    if name == "forward":
        expected = (np.exp(values) * values).mean(0)
    elif name == "reverse":
        expected = -values.mean(0)
    else:
        expected = problem.likelihoods(values).mean(0)
    np.testing.assert_allclose(found.levels, expected, rtol=1e-12)
    assert meter.cost(known.anchor) == (0.0, 0.0)


def test_guidance_costs_the_square_of_its_strength(fresh, known):
    """|eps_guided - eps_q|^2 = k^2 |difference|^2 where the strength is constant; so is the integral."""
    cost = {
        k: Meter(fresh, known, LEVELS["reverse"], guided=guided_by(fresh, known, k), **FEW).cost(known.anchor)[0]
        for k in (0.5, 1.0)
    }
    assert cost[0.5] > 0
    assert cost[1.0] == pytest.approx(4 * cost[0.5], rel=1e-4)  # outputs are float32


def test_guidance_is_off_inside_its_own_context(fresh, known):
    x, t = known.anchor[:2], torch.tensor([10, 10])
    condition = fresh.condition([""] * 2)
    with torch.no_grad(), guided_by(fresh, known, 2.0) as guided:
        with guided.off():
            plain = fresh.predict(x, t, condition)
        steered = fresh.predict(x, t, condition)
    with torch.no_grad():
        assert torch.equal(fresh.predict(x, t, condition), plain)
    assert not torch.allclose(plain, steered)


def test_cost_is_the_divergence_at_the_draws_that_its_direction_asks_for(known):
    denoiser = moved_adapters(make_denoiser())
    own = known.anchor.flip(0)

    def at(draws):
        condition = repeat(denoiser.condition([""]), 6)
        return float(divergence(denoiser, draws[:6], condition, levels=3, seed=5).mean())

    assert at(own) != at(known.anchor)
    for name, draws in (("reverse", own), ("likelihood", own), ("forward", known.anchor)):
        problem = LEVELS[name].bind(known.ratios)
        mean, error = Meter(denoiser, known, problem, **FEW).cost(own)
        assert mean == pytest.approx(at(draws), rel=1e-12)
        assert error > 0


def test_reverse_level_is_the_cost_less_the_mean_log_ratio(known):
    denoiser = moved_adapters(make_denoiser())
    meter = Meter(denoiser, known, du.ReverseKL([1.0, 1.0]), **FEW)
    own = known.anchor.flip(0)
    found = meter.of(own, known.values.flip(0))
    expected = meter.cost(own)[0] - known.values.flip(0)[:6].double().mean(0).numpy()
    np.testing.assert_allclose(found.levels, expected, rtol=1e-12)
