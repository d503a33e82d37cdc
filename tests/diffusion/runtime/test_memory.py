"""Batch sizes that fit: by a probe, by halving, and without a say in any result."""

import numpy as np
import pytest
import torch

from diffusion.methods import FitContext, method_of
from diffusion.methods.chain import chain_of, path_cost
from diffusion.methods.likelihood import negative_elbo
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.latents import decode, encode
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier import noised_features
from diffusion.ratios.trajectory import path_ratios
from diffusion.runtime import memory
from diffusion.runtime.memory import Limit, in_batches, in_halves, limit_of, measured_rows
from diffusion.tasks.config import FitConfig
from tests.diffusion import families
from tests.diffusion.methods.conftest import adapters
from tests.diffusion.pipelines.test_families import PROMPTS


def test_what_does_not_fit_is_done_in_halves(capsys):
    seen, limit = [], Limit("evaluation", 8)

    def run(start, stop):
        seen.append(stop - start)
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return list(range(start, stop))

    assert [row for part in in_batches(run, 21, limit) for row in part] == list(range(21))
    assert limit.rows == 2
    assert seen[:7] == [8, 4, 2, 2, 4, 2, 2]
    assert max(seen[7:]) == 2  # it is remembered
    assert "batch size of evaluation: 2 from here on" in capsys.readouterr().err


def test_one_row_that_does_not_fit_is_said():
    def run(start, stop):
        raise MemoryError

    with pytest.raises(MemoryError, match="decoding: one row does not fit into memory; load the model in half"):
        in_halves(run, 0, 4, Limit("decoding", 4))


def test_other_errors_pass_through():
    def run(start, stop):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_halves(run, 0, 4, Limit("evaluation", 4))


@pytest.mark.parametrize(
    ("fixed", "each", "free", "wanted"), [(100, 10, 1000, 70), (100, 10, 10, 1), (0, 10, 10**9, 128)]
)
def test_the_probe_measures_what_a_row_takes(monkeypatch, fixed, each, free, wanted):
    """A device whose work takes ``fixed + each rows``: of 80 % of what is free, what is fixed is taken first."""
    held = {"rows": 0}
    monkeypatch.setattr(memory, "free_unused", lambda device: held.update(rows=0))
    monkeypatch.setattr(memory, "allocated", lambda device: 5000)
    monkeypatch.setattr(memory, "peak", lambda device: 5000 + fixed + each * held["rows"])
    monkeypatch.setattr(memory, "free", lambda device: free)
    rows = measured_rows(torch.device("cuda"), lambda rows: held.update(rows=rows), 128)
    assert rows == wanted
    assert fixed + each * rows <= 0.8 * free or rows == 1


def test_a_probe_whose_second_row_does_not_fit(monkeypatch):
    for name in ("free_unused", "allocated", "peak"):
        monkeypatch.setattr(memory, name, lambda device: 0)

    def probe(rows):
        if rows > 1:
            raise torch.OutOfMemoryError("out of memory")

    assert measured_rows(torch.device("cuda"), probe, 128) == 1


def test_a_cpu_is_not_probed_and_large_samples_come_in_small_batches():
    network = torch.nn.Linear(1, 1)

    def never(rows):
        raise AssertionError

    assert limit_of(network, "evaluation", 4 * 8 * 8, 128, never).rows == 128  # digits
    assert limit_of(network, "evaluation", 4 * 64 * 64, 128, never).rows == 8  # Stable Diffusion 1.5
    assert limit_of(network, "evaluation", 4 * 128 * 128, 256, never).rows == 2  # SDXL
    assert limit_of(network, "decoding", 3 * 512 * 512, 256, never).rows == 5
    assert limit_of(network, "evaluation", 4 * 64 * 64, 4, never).rows == 4


def results(denoiser, latents):
    chance = torch.Generator().manual_seed(3)
    t = torch.arange(len(latents)) * 100
    images = decode(denoiser.pipeline, latents)
    return {
        "samples": sample_latents(denoiser.pipeline, ["one", "", "seven"] * 3, seed=1, steps=3),
        "guidance scale": sample_latents(denoiser.pipeline, ["one", "", "seven"], seed=1, steps=3, guidance_scale=3.0),
        "features": noised_features(denoiser, latents, t, denoiser.condition([""]), chance),
        "surprise": negative_elbo(denoiser, latents, denoiser.condition([""] * len(latents)), levels=2, seed=0),
        "cost": path_cost(denoiser, [""] * 5, chain_of(denoiser, 3, 3), seed=0, based_on="one"),
        "paths": path_ratios(denoiser, PROMPTS, 5, steps=2, seed=0).values,
        "images": images,
        "encoded": encode(denoiser.pipeline, torch.from_numpy(images)),
    }


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerAncestralDiscreteScheduler", "DDPMScheduler"])
def test_no_result_depends_on_the_batch_size(monkeypatch, scheduler):
    """Batches of hundreds against batches of two, samplers with noise of their own included."""
    import diffusers

    denoiser = denoiser_of(families.build(families.sd))
    config = denoiser.pipeline.scheduler.config
    denoiser.pipeline.scheduler = getattr(diffusers, scheduler).from_config(config)
    latents = torch.randn(5, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    whole = results(denoiser, latents)
    monkeypatch.setattr(memory, "_LIMITS", type(memory._LIMITS)())
    monkeypatch.setattr(memory, "NUMBERS", {"evaluation": 2 * 256, "decoding": 2 * 768})
    parts = results(denoiser, latents)
    for name, value in whole.items():
        scale = float(np.abs(np.asarray(value)).max())
        # float32: a network of a dozen layers, sums of hundreds of terms in another order
        np.testing.assert_allclose(parts[name], value, rtol=0, atol=2e-4 * scale, err_msg=name)


def test_a_network_that_runs_out_of_memory_gives_the_same_samples(monkeypatch, capsys):
    denoiser = denoiser_of(families.build(families.sd))
    whole = sample_latents(denoiser.pipeline, ["one"] * 5, seed=1, steps=2)

    def short(_module, args, kwargs):
        if len(args[0] if args else kwargs["sample"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    denoiser.network.register_forward_pre_hook(short, with_kwargs=True)
    parts = sample_latents(denoiser.pipeline, ["one"] * 5, seed=1, steps=2)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-4 * float(whole.abs().max()))
    assert "did not fit into memory" in capsys.readouterr().err


def test_a_training_step_that_does_not_fit_is_taken_in_parts(estimate, solution, capsys):
    fit = FitConfig(max_train_steps=2, train_batch_size=6, rank=2, seed=3)
    found = []
    for most in (100, 3):
        denoiser = denoiser_of(families.build(families.sd))

        def short(_module, args, kwargs, most=most):
            if torch.is_grad_enabled() and len(args[0] if args else kwargs["sample"]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")

        denoiser.network.register_forward_pre_hook(short, with_kwargs=True)
        losses = method_of("tilted").uncorrected().fit(FitContext(denoiser, estimate, solution, fit)).losses
        found.append((losses, adapters(denoiser)))
    assert "training steps in 2 parts from here on" in capsys.readouterr().err
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)
    for name, value in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], value, atol=1e-4)
