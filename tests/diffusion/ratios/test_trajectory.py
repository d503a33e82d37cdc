"""The free path ratio against Gaussians whose ratio is known, and against diffusers' own stochastic step."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from diffusion.pipelines import variance_preserving
from diffusion.ratios.trajectory import path_levels, path_ratios, step_between
from diffusion.tasks.concepts import ConceptLaw, Examples, TaskPrompts

MEAN = torch.tensor([1.5, -0.5])
PROMPTS = TaskPrompts((ConceptLaw(("there",), 0.1),), (("here",),))


class Exact:
    """The denoiser of N(m, I) in the plane; m is 0 under the empty prompt and MEAN under any other."""

    prompt_inputs = ("mean",)
    sample_shape = (2,)
    network = torch.nn.Linear(1, 1)  # of which the device counts

    def __init__(self, **scheduler):
        self.noising = variance_preserving(DDIMScheduler(beta_schedule="squaredcos_cap_v2", **scheduler))

    @property
    def levels(self):
        return self.noising.levels

    def schedule(self, t):
        return self.noising.signal[t][:, None].float(), self.noising.noise[t][:, None].float()

    def condition(self, prompts):
        return {"mean": torch.stack([MEAN * bool(prompt) for prompt in prompts])}

    def predict(self, x, t, condition):
        signal, noise = self.schedule(t)
        return noise * (x - signal * condition["mean"])

    def epsilon(self, output, x, t):
        return output


def test_the_step_is_that_of_diffusers():
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    scheduler.set_timesteps(10)
    denoiser = Exact()
    generator = torch.Generator().manual_seed(0)
    t = int(scheduler.timesteps[4])
    step = step_between(denoiser, t, t - 100)
    x, eps, z = (torch.randn(5, 2, generator=generator) for _ in range(3))
    signal, noise = denoiser.schedule(torch.tensor([t]))
    clean = (x - noise * eps) / signal
    expected = scheduler.step(eps, t, x, eta=1.0, variance_noise=z).prev_sample
    torch.testing.assert_close(step.state * x + step.clean * clean + step.spread * z, expected, atol=1e-5, rtol=1e-5)


def test_ratios_are_those_of_the_densities_up_to_step_size():
    """rho(x_0) = mu.x_0 - |mu|^2/2; the error halves with the step, and E_q[e^rho] = 1 at any number of steps."""
    denoiser, errors = Exact(), []
    for steps in (20, 40, 80):
        paths = path_ratios(denoiser, PROMPTS, 4000, steps=steps, seed=steps)
        exact = paths.latents @ MEAN - MEAN.square().sum() / 2
        errors.append(float((paths.values[:, 0] - exact).square().mean().sqrt()))
        mass = paths.values[:, 0].exp()
        assert float(mass.mean()) == pytest.approx(1, abs=4 * float(mass.std()) / math.sqrt(4000))
        assert abs(float(paths.latents.mean())) < 0.1
    # First order: half the step, half the error.
    np.testing.assert_allclose(errors[0] / errors[1], 2, atol=0.25)
    np.testing.assert_allclose(errors[1] / errors[2], 2, atol=0.25)
    assert errors[2] < 0.25


def test_levels_go_from_noise_to_picture():
    levels = path_levels(Exact(), 20)
    assert len(levels) == 21
    assert levels == sorted(levels, reverse=True)
    for steps in (0, 5000):
        with pytest.raises(ValueError, match="steps must lie between"):
            path_levels(Exact(), steps)
    with pytest.raises(ValueError, match="a prompt for every concept"):
        path_ratios(Exact(), TaskPrompts((ConceptLaw((), 0.1, Examples(torch.zeros(10, 2))),), (("one",),)), 4, seed=0)
