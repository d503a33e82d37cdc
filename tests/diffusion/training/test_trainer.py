"""How a student is trained: in parts, in bfloat16, all weights; what it needs of a disk; what it tells trackers."""

import dataclasses
import math
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel

import duality as du
from diffusion.methods import ESD, IMAGE_METHODS, METHODS, PrimalDual
from diffusion.methods.base import FitContext, ImageFitContext
from diffusion.pipelines.sampling import sample_latents
from diffusion.runtime.distributed import Part, broadcast_object, map_distributed, world
from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images
from diffusion.training.full_weights import is_free, put_back
from diffusion.training.lora import add_lora, add_student, base_model, save_student, switch_lora
from diffusion.training.trainer import Trainer
from tests.diffusion.families import FAMILIES, build
from tests.diffusion.jobs import unlearn
from tests.diffusion.methods.conftest import made, make_denoiser
from tests.diffusion.methods.conftest import same as alike
from tests.diffusion.training.fit_worker import ON_IMAGES

SMALL = FitConfig(max_train_steps=3, train_batch_size=12, rank=2, learning_rate=1e-2, seed=3)
ALTERNATE = PrimalDual(inner=2, warmup=0, gain=0.2, samples=4, noise_levels=1)


@pytest.fixture
def denoiser():
    return make_denoiser()


def trained(denoiser):
    return {n: p.detach().clone() for n, p in denoiser.network.named_parameters() if p.requires_grad}


def distance(one, two):
    """|one - two| / |one| over all weights together."""
    gap = sum(float((one[n] - two[n]).double().square().sum()) for n in one)
    return (gap / sum(float(value.double().square().sum()) for value in one.values())) ** 0.5


# -- parts of a batch ----------------------------------------------------------------------------------------------


def test_parts_hold_every_row_once():
    rows = [list(range(12))[Part(j, 4).rows(12)] for j in range(4)]
    assert sorted(row for part in rows for row in part) == list(range(12))
    assert {len(row) for row in rows} == {3}
    with pytest.raises(ValueError, match="batch: 10 rows of one kind cannot be dealt evenly to 4 parts"):
        Part(0, 4).rows(10)


IN_PARTS = {name: made(name) for name in ("tilted", "guidance", "esd", "neggrad", "siss")} | {"alternating": ALTERNATE}


@pytest.mark.parametrize("name", IN_PARTS)
def test_a_batch_in_parts_is_the_whole_batch(name, estimate, solution):
    """The gradient is a mean over parts: the weights agree up to the order of additions."""
    found = []
    for accumulate in (1, 4 if name != "neggrad" else 3):
        denoiser = make_denoiser()
        outcome = IN_PARTS[name].fit(
            FitContext(denoiser, estimate, solution, SMALL.but(gradient_accumulation_steps=accumulate))
        )
        found.append((trained(denoiser), outcome.losses))
    assert distance(found[0][0], found[1][0]) < 1e-5
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["tilted", "primal-dual", "siss"])
def test_images_in_parts(name):
    found = []
    for accumulate in (1, 3):
        denoiser = make_denoiser("ddpm")
        data = torch.rand(20, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        method = ON_IMAGES.get(name) or IMAGE_METHODS[name]()  # few steps: over hundreds, rounding grows
        method.fit(
            ImageFitContext(
                denoiser, Images(data[:2], [0.2, 0.1], data), 1.0, SMALL.but(gradient_accumulation_steps=accumulate)
            )
        )
        found.append(trained(denoiser))
    assert distance(*found) < 1e-5


def test_erasediff_needs_the_whole_batch(denoiser, estimate, solution):
    with pytest.raises(ValueError, match="gradients of the whole batch"):
        METHODS["erasediff"]().fit(FitContext(denoiser, estimate, solution, SMALL.but(gradient_accumulation_steps=2)))


def test_one_process_is_the_plain_case():
    assert map_distributed(3, lambda j: j * j) == [0, 1, 4]
    value = object()
    assert broadcast_object(value) is value


def test_a_launch_that_started_fewer_processes_than_asked_says_so(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # what accelerate launch --cpu --num_processes 2 sets
    with pytest.warns(RuntimeWarning, match="asked for several processes and started one"):
        world.__wrapped__()


def free_port():
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["tilted", "primal-dual,reverse", "primal-dual,forward", "tilted,images"])
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_are_one(launcher, method, tmp_path):
    """Real processes, which meet through accelerate on the CPU."""
    from safetensors.torch import load_file

    worker = ["-m", "tests.diffusion.training.fit_worker", method]
    if launcher == "torchrun":
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
        launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    else:
        if shutil.which("mpirun") is None:
            pytest.skip("accelerate starts several processes on CPUs through MPI, which is not installed")
        (tmp_path / "hosts").write_text("localhost slots=2\n", encoding="utf-8")
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
        launch += ["--main_process_port", str(free_port()), "--mpirun_hostfile", tmp_path / "hosts"]
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    subprocess.run([sys.executable, *worker, tmp_path / "one"], check=True, capture_output=True)
    subprocess.run([*launch, *worker, tmp_path / "two"], check=True, capture_output=True, env=os.environ | root)
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    # Levels are differences of negative ELBOs, sums over the entries of an image of about a nat each: what the weights
    # differ by, 1e-5 below, is a part of those sums and not of their difference.
    entries = math.prod(make_denoiser("ddpm").sample_shape)
    for extra, most in (("multipliers", 1e-6), ("losses", 1e-6), ("asked", 1e-5 * entries)):
        np.testing.assert_allclose(one.pop(extra), two.pop(extra), rtol=1e-5, atol=most)
    assert distance(one, two) < 1e-5


# -- precision and memory ------------------------------------------------------------------------------------------


def test_bfloat16_is_close_and_leaves_weights_and_network_as_they_were(estimate, solution):
    found = []
    for precision in ("no", "bf16"):
        denoiser = make_denoiser()
        outcome = made("tilted").fit(FitContext(denoiser, estimate, solution, SMALL.but(mixed_precision=precision)))
        assert "forward" not in vars(denoiser.network)
        assert all(value.dtype == torch.float32 for value in trained(denoiser).values())
        found.append(outcome.losses)
    assert found[0] != found[1]
    np.testing.assert_allclose(found[1], found[0], rtol=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing_but_memory(family):
    losses, gradients = [], []
    for on in (False, True):
        denoiser = make_denoiser(family)
        parameters = add_lora(denoiser, 2, 0)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.01)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, *denoiser.sample_shape, generator=generator)
        condition = denoiser.condition(["", ""])

        def objective(_step, _generator, _part, denoiser=denoiser, x=x, condition=condition):
            return denoiser.predict(x, torch.tensor([10, 500]), condition).square().mean()

        trainer = Trainer(
            denoiser.network, parameters, objective, SMALL.but(max_train_steps=1, gradient_checkpointing=on)
        )
        trainer.run()
        losses.append(trainer.losses)
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
        assert not denoiser.network.is_gradient_checkpointing
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-5 * float(gradients[0].abs().max()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_train_steps": 0}, "max_train_steps must be at least 1, got 0"),
        ({"train_batch_size": 0}, "train_batch_size must be at least 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"retain_share": 1.0}, "retain_share must be below 1"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be one of 'no' or 'bf16', got 'fp8'"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        FitConfig(**change)


# -- all weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [made("tilted"), made("guidance"), ALTERNATE], ids=["a", "b", "c"])
def test_all_weights_with_a_frozen_teacher(method, estimate, solution, tmp_path):
    denoiser = make_denoiser()
    before = {n: p.detach().clone() for n, p in denoiser.network.named_parameters()}
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 800])
    condition = denoiser.condition(["", "seven"])
    with torch.no_grad():
        said = denoiser.predict(x, t, condition)
    method.fit(FitContext(denoiser, estimate, solution, SMALL.but(full_weights=True, learning_rate=1e-3)))
    assert not alike(before, trained(denoiser))
    with base_model(denoiser):
        assert torch.equal(denoiser.predict(x, t, condition), said)
        assert alike(before, trained(denoiser))
    switch_lora(denoiser, False)
    switch_lora(denoiser, False)  # twice is once
    with torch.no_grad():
        assert torch.equal(denoiser.predict(x, t, condition), said)
    switch_lora(denoiser, True)
    save_student(denoiser, tmp_path)
    loaded = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet", use_safetensors=True)
    with torch.no_grad():
        fresh = build(FAMILIES["sd"])
        fresh.register_modules(unet=loaded)
        fitted = sample_latents(denoiser.pipeline, ["", "seven"], seed=1, steps=2)
        np.testing.assert_allclose(sample_latents(fresh, ["", "seven"], seed=1, steps=2), fitted, atol=1e-5)
    again = add_student(denoiser, 2, 0)  # a fresh start of another kind: from the base model
    assert not is_free(denoiser.network)
    assert len(again) < len(before)
    with torch.no_grad():
        np.testing.assert_allclose(denoiser.predict(x, t, condition), said, atol=1e-6)


def test_all_weights_of_a_ddpm_are_resumed_and_saved(tmp_path):
    def fit(**more):
        denoiser = make_denoiser("ddpm")
        data = torch.rand(20, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        settings = FitConfig(max_train_steps=4, train_batch_size=6, full_weights=True, learning_rate=1e-3, seed=2)
        brief = dataclasses.replace(IMAGE_METHODS["primal-dual"](), noise_levels=2, repeats=2, extra=2)
        brief.fit(ImageFitContext(denoiser, Images(data[:2], 0.1, data), 1.0, settings, **more))
        return denoiser

    class Stop(Exception):
        pass

    steps = []

    def stop(count):
        steps.append(count)
        if len(steps) == 3:
            raise Stop

    expected = fit()
    with pytest.raises(Stop):
        fit(checkpoint=tmp_path / "fit.safetensors", every=2, progress=stop)
    resumed = fit(checkpoint=tmp_path / "fit.safetensors", every=2)
    assert alike(trained(expected), trained(resumed))
    save_student(resumed, tmp_path)
    loaded = UNet2DModel.from_pretrained(tmp_path, subfolder="unet", use_safetensors=True)
    stored = dict(loaded.named_parameters())
    assert all(torch.equal(stored[name], value) for name, value in trained(resumed).items())


def test_some_of_the_weights(denoiser, estimate, solution):
    """ESD-x as its authors trained it: the cross-attention layers' own weights."""
    before = {n: p.detach().clone() for n, p in denoiser.network.named_parameters()}
    ESD(layers=("attn2.to_k", "attn2.to_v")).fit(FitContext(denoiser, estimate, solution, SMALL.but(full_weights=True)))
    moved = {n for n, p in denoiser.network.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert all("attn2.to_k" in n or "attn2.to_v" in n for n in moved)
    put_back(denoiser)
    assert alike(before, {n: p.detach() for n, p in denoiser.network.named_parameters()})


def test_the_rate_has_a_default_for_each():
    some = (FitConfig(), FitConfig(full_weights=True), FitConfig(full_weights=True, learning_rate=0.5))
    assert [each.peak_rate for each in some] == [2e-3, 1e-4, 0.5]


def test_all_weights_need_a_network_without_adapters(denoiser):
    add_lora(denoiser, 1, 0)
    assert len(add_student(denoiser, None, 0)) == len(list(denoiser.network.parameters()))  # ours are taken off
    put_back(denoiser)
    from peft import LoraConfig

    denoiser.network.add_adapter(LoraConfig(r=1, target_modules=["to_q"]), "theirs")
    with pytest.raises(ValueError, match="unet carries adapters"):
        add_student(denoiser, None, 0)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_one_call_trains_all_weights_in_parts(tmp_path):
    from tests.diffusion.workflows.test_concepts import TASK, TINY, quiet

    pipeline = build(FAMILIES["sd"])
    fit = FitConfig(
        max_train_steps=2,
        train_batch_size=12,
        full_weights=True,
        gradient_accumulation_steps=2,
        mixed_precision="bf16",
        gradient_checkpointing=True,
    )
    result = unlearn(
        pipeline,
        [["seven", "a handwritten seven"]],
        du.ReverseKL(0.3),
        **TASK,
        **{**TINY, "fit": fit},
        output=tmp_path / "out",
        bar=quiet,
    )
    assert {"config.json", "diffusion_pytorch_model.safetensors"} == {
        path.name for path in (tmp_path / "out" / "unet").iterdir()
    }
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "# Network that was to unlearn 'seven' (not certified" in card
    assert "load_lora_weights" not in card
    loaded = UNet2DConditionModel.from_pretrained(tmp_path / "out", subfolder="unet", use_safetensors=True)
    stored = dict(loaded.named_parameters())
    assert all(torch.equal(stored[name], p) for name, p in pipeline.unet.named_parameters())
    told = result.certificate.fitted_model.fit
    assert (told["full_weights"], told["learning_rate"], told["processes"]) == (True, None, 1)


def test_a_batch_that_cannot_be_dealt_out_is_refused_before_any_work(monkeypatch):
    from tests.diffusion.workflows.test_concepts import TASK

    monkeypatch.setattr("diffusion.workflows.concepts.estimate_ratios", None)
    with pytest.raises(ValueError, match="32 rows of one kind cannot be dealt evenly to 5 parts"):
        unlearn(
            build(FAMILIES["sd"]), ["seven"], du.ReverseKL(0.3), **TASK, fit=FitConfig(gradient_accumulation_steps=5)
        )


def test_patience_is_for_methods_with_rounds():
    assert METHODS["primal-dual"]().with_patience(3).patience == 3
    assert [IMAGE_METHODS[name]().with_patience(2).patience for name in ("tilted", "primal-dual")] == [2, 2]
    with pytest.raises(ValueError, match="OnImages has no dual rounds"):
        IMAGE_METHODS["siss"]().with_patience(3)
    with pytest.raises(ValueError, match="Tilted has no dual rounds"):
        METHODS["tilted"]().with_patience(3)
    with pytest.raises(ValueError, match="at least 1 round"):
        METHODS["primal-dual"]().with_patience(0)
