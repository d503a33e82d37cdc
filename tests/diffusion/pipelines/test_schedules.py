"""Noise levels and predictions of every kind against diffusers' own schedulers."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    PNDMScheduler,
)

from diffusion.pipelines import add_noise, denoiser_of, rectified_flow, repeat, variance_preserving
from diffusion.pipelines.sampling import sample_latents
from diffusion.pipelines.schedules import PREDICTIONS
from tests.diffusion import families
from tests.diffusion.families import build


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


KINDS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize(
    ("kind", "prediction"),
    [(kind, name) for kind in (DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler) for name in KINDS]
    + [(PNDMScheduler, name) for name in KINDS[:2]],
)
def test_clean_picture_is_the_scheduler_s(kind, prediction):
    """From the same raw output, x_0 = (x_t - noise eps) / signal is what the scheduler steps towards."""
    more = {"clip_sample": False} if kind in (DDIMScheduler, DDPMScheduler) else {}
    scheduler = kind(beta_schedule="scaled_linear", prediction_type=prediction, **more)
    table = variance_preserving(scheduler)
    scheduler.set_timesteps(10)
    t = scheduler.timesteps[4]
    level = int(table.level(t[None].float())[0])
    assert level == int(t)
    signal, loud = table.signal[level].float(), table.noise[level].float()
    x, output = noise((2, 3, 4, 4)), noise((2, 3, 4, 4), 1)
    clean = (x - loud * PREDICTIONS[prediction].epsilon(output, x, signal, loud)) / signal
    if kind is PNDMScheduler:  # says only where it steps to
        after = int(scheduler.timesteps[4]) - 100
        eps = PREDICTIONS[prediction].epsilon(output, x, signal, loud)
        expected = scheduler._get_prev_sample(x, int(t), after, output)
        np.testing.assert_allclose(table.signal[after] * clean + table.noise[after] * eps, expected, atol=1e-5)
        return
    # Euler's scheduler keeps states as x_0 + sigma eps; the network sees them divided by sqrt(1 + sigma^2).
    state = x / signal if kind is EulerDiscreteScheduler else x
    stepped = scheduler.step(output, t, state)
    np.testing.assert_allclose(clean, stepped.pred_original_sample, atol=2e-5)


@pytest.mark.parametrize("kind", [FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_levels_are_the_scheduler_s(kind, shift):
    scheduler = kind(shift=shift)
    table = rectified_flow(scheduler)
    np.testing.assert_allclose(table.noise.flip(0), scheduler.sigmas[:1000], atol=1e-7)
    np.testing.assert_allclose(table.timesteps.flip(0), scheduler.timesteps[:1000], rtol=1e-6)
    x0, eps, t = noise((3, 4, 2, 2)), noise((3, 4, 2, 2), 1), torch.tensor([0, 400, 999])
    signal, loud = (value[t].float().view(-1, 1, 1, 1) for value in (table.signal, table.noise))
    if kind is FlowMatchEulerDiscreteScheduler:
        expected = scheduler.scale_noise(x0, scheduler.timesteps[999 - t], eps)
        np.testing.assert_allclose(signal * x0 + loud * eps, expected, atol=1e-6)
    scheduler.set_timesteps(7)  # a sampling run overwrites the scheduler's sigmas; the table is of the config
    np.testing.assert_array_equal(rectified_flow(scheduler).noise, table.noise)


def test_flow_levels_of_a_multistep_solver():
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    expected = rectified_flow(FlowMatchEulerDiscreteScheduler(shift=3.0))
    np.testing.assert_array_equal(rectified_flow(scheduler).noise, expected.noise)
    moving = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    np.testing.assert_allclose(rectified_flow(moving).noise.flip(0), moving.sigmas, atol=1e-7)


@pytest.mark.parametrize("kind", list(PREDICTIONS))
def test_predictions_invert_and_their_slope_is_the_derivative(kind):
    prediction = PREDICTIONS[kind]
    if kind == "flow_prediction":
        signal, loud = torch.tensor([[0.7], [0.3]], dtype=torch.float64)
    else:
        signal, loud = torch.tensor([[0.8], [0.6]], dtype=torch.float64)
    x0, eps = noise((5,)).double(), noise((5,), 1).double()
    x = signal * x0 + loud * eps
    output = prediction.target(x0, eps, signal, loud)
    np.testing.assert_allclose(prediction.epsilon(output, x, signal, loud), eps, atol=1e-12)
    other = eps + 0.1  # another eps at the same x_t
    moved = prediction.target((x - loud * other) / signal, other, signal, loud)
    np.testing.assert_allclose((moved - output) / 0.1, prediction.slope(signal, loud).expand(5), rtol=1e-9)


def test_nearest_level():
    table = variance_preserving(DDIMScheduler())
    wanted = torch.tensor([-3.0, 0.0, 4.4, 4.6, 998.9, 2000.0])
    assert table.level(wanted).tolist() == [0, 0, 4, 5, 999, 999]
    flow = rectified_flow(FlowMatchEulerDiscreteScheduler(shift=3.0))
    t = torch.tensor([0, 17, 999])
    assert torch.equal(flow.level(flow.timestep(t)), t)


def test_schedulers_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="EDMEulerScheduler has no table"):
        variance_preserving(EDMEulerScheduler())
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler"):
        variance_preserving(FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="flow-matching one"):
        rectified_flow(DDIMScheduler())
    with pytest.raises(ValueError, match="flow-matching one"):
        rectified_flow(FlowMatchEulerDiscreteScheduler(invert_sigmas=True))


def ode(denoiser, x, prompts, timesteps, scales):
    """The deterministic sampler by the formulas alone: x_t = signal x_0 + noise eps, eps kept, noise lowered."""
    condition = denoiser.condition(prompts)
    for index, t in enumerate(timesteps):
        signal, loud = scales(t)
        told = t[None].expand(len(x))
        with torch.no_grad():
            output = denoiser.call(x, told, condition)
        eps = denoiser.noising.prediction.epsilon(output, x, signal, loud)
        clean = (x - loud * eps) / signal if signal else x - loud * output  # a flow starts from noise alone
        last = index + 1 == len(timesteps)
        signal, loud = (1.0, 0.0) if last else scales(timesteps[index + 1])
        x = signal * clean + loud * eps
    return x


def ddim(prediction):
    return lambda: families.ddpm(DDIMPipeline, prediction_type=prediction, clip_sample=False)


@pytest.mark.parametrize(
    ("family", "make"),
    [("sdxl", families.sdxl), ("sd3", families.sd3)]
    + [("sd", lambda kind=kind: families.sd(kind)) for kind in KINDS]
    + [("ddim", ddim(kind)) for kind in KINDS],
)
def test_stock_samples_are_the_formula_s(family, make):
    """The whole pipeline, prompts to samples, against the denoiser's own view of it."""
    pipeline = build(make)
    denoiser = denoiser_of(pipeline)
    prompts = ["", "seven"] if denoiser.prompt_inputs else ["", ""]
    found = sample_latents(pipeline, prompts, seed=3, steps=4)
    if family == "ddim":
        seeds = torch.randint(2**62, (2,), generator=torch.Generator().manual_seed(3)).tolist()
        start = torch.cat([noise((1, *denoiser.sample_shape), seed) for seed in seeds])
    else:
        start = noise((2, *denoiser.sample_shape), 3)
    table = denoiser.noising

    def scales(t):
        if family == "sd3":  # samplers place their steps between the levels of training
            sigma = float(t) / 1000
            return 1 - sigma, sigma
        level = int(table.level(t[None].float())[0])
        return float(table.signal[level]), float(table.noise[level])

    expected = ode(denoiser, start, prompts, pipeline.scheduler.timesteps, scales)
    if family == "ddim":
        expected = expected.clamp(-1, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_a_denoiser_works_in_the_type_of_the_state():
    pipeline = build(families.sd)
    denoiser = denoiser_of(pipeline)
    x, t = noise((2, 4, 8, 8)), torch.tensor([10, 900])
    condition = repeat(denoiser.condition(["seven"]), 2)
    single = denoiser.predict(x, t, condition)
    pipeline.unet.to(torch.bfloat16)
    half = denoiser.predict(x, t, condition)
    assert half.dtype == torch.float32
    np.testing.assert_allclose(half.detach(), single.detach(), atol=0.1 * float(single.detach().abs().max()))
    assert add_noise(denoiser, x, x, t).dtype == torch.float32
