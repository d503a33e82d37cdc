import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from diffusion.pipelines import (
    StableDiffusion,
    add_noise,
    denoiser_of,
    load_pipeline,
    repeat,
    rows,
    variance_preserving,
)
from tests.diffusion import families
from tests.diffusion.families import build


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_targets_and_noise_agree_with_diffusers_schedulers(reader, prediction):
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type=prediction)
    model = StableDiffusion(reader.pipeline)
    model.noising = variance_preserving(scheduler)
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(5, 4, 8, 8, generator=generator) for _ in range(2))
    t = torch.tensor([0, 3, 250, 700, 990])
    x = add_noise(model, x0, eps, t)
    # float32 throughout: a few units in the last place of values of order one
    np.testing.assert_allclose(x, scheduler.add_noise(x0, eps, t), atol=1e-6)
    target = model.target(x0, eps, t)
    if prediction == "v_prediction":
        np.testing.assert_allclose(target, scheduler.get_velocity(x0, eps, t), atol=1e-6)
    # Turning the exact target into epsilon gives the noise back; for x_0-prediction it is divided by noise(t), which
    # is 6e-3 at t = 0 and multiplies the rounding of x_t by its inverse.
    np.testing.assert_allclose(model.epsilon(target, x, t), eps, atol=1e-4)


def test_scores_agree_with_a_ddim_step_of_diffusers(reader):
    """One deterministic step from exact outputs lands where the scheduler lands."""
    from diffusion.digits.experiments.components import build_scheduler

    scheduler = build_scheduler()
    scheduler.set_timesteps(10)
    generator = torch.Generator().manual_seed(1)
    x, output = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    t, after = int(scheduler.timesteps[3]), int(scheduler.timesteps[4])
    level = torch.full((2,), t)
    eps = reader.epsilon(output, x, level)
    signal, noise = reader.schedule(level)
    x0 = (x - noise * eps) / signal
    next_signal, next_noise = reader.schedule(torch.full((2,), after))
    stepped = scheduler.step(output, t, x, eta=0.0).prev_sample
    np.testing.assert_allclose(next_signal * x0 + next_noise * eps, stepped, atol=1e-5)


def test_conditions_are_taken_by_row(reader):
    condition = reader.condition(["one", "two", "three"])
    assert torch.equal(rows(condition, slice(1, 2))["encoder_hidden_states"][0], condition["encoder_hidden_states"][1])
    assert repeat(rows(condition, slice(0, 1)), 7)["encoder_hidden_states"].shape[0] == 7


def test_pipeline_without_a_part_is_refused(reader):
    class Bare:
        unet = vae = text_encoder = tokenizer = object()
        scheduler = None

    with pytest.raises(ValueError, match="must have a scheduler: Bare has none"):
        StableDiffusion(Bare())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("", "empty string"),
        ("/no/such/folder", "neither an existing folder"),
        ("nonsense", "neither an existing folder"),
    ],
)
def test_unknown_models_are_named(model, words):
    with pytest.raises(ValueError, match=words):
        load_pipeline(model)


def test_folder_without_a_pipeline_is_named(tmp_path):
    with pytest.raises(ValueError, match="model_index"):
        load_pipeline(str(tmp_path))


def test_a_saved_pipeline_loads_and_samples_the_same(reader, tmp_path):
    from diffusion.pipelines.sampling import sample_latents

    reader.pipeline.save_pretrained(tmp_path / "model")
    again = load_pipeline(str(tmp_path / "model"))
    first, second = (sample_latents(p, ["seven", ""], seed=3, steps=3) for p in (reader.pipeline, again))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)  # convolutions sum in another order there
    for name in ("unet", "vae", "text_encoder"):
        old, new = (getattr(p, name).state_dict() for p in (reader.pipeline, again))
        assert old.keys() == new.keys()
        assert all(torch.equal(value, new[key]) for key, value in old.items())


def test_samples_do_not_depend_on_the_batch(reader):
    from diffusion.pipelines.sampling import sample_latents

    whole, parts = (sample_latents(reader.pipeline, ["seven"] * 5, seed=3, steps=3, batch=b) for b in (5, 2))
    np.testing.assert_allclose(whole, parts, atol=1e-4)


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_network_is_refused(how):
    """Its LoRA would have keys that no other pipeline has, and guidance might be left out of it."""
    pipeline = build(families.sd)
    if how == "wrapped":
        pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    else:
        pipeline.unet.compile(backend="eager")
    with pytest.raises(ValueError, match="unet is compiled: give the plain pipeline"):
        denoiser_of(pipeline)
