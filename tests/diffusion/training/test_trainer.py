"""How a student is trained: in parts, in bfloat16, all weights; what it needs of a disk; what it tells trackers."""

import math
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

import duality as du
from diffusion.methods import IMAGE_METHODS, METHODS, PrimalDual, guided_tilt
from diffusion.methods.base import FitContext, ImageFitContext
from diffusion.runtime.distributed import Part, broadcast_object, map_distributed, world
from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images
from diffusion.training.lora import add_lora
from diffusion.training.trainer import Trainer
from tests.diffusion.families import FAMILIES, build
from tests.diffusion.jobs import unlearn
from tests.diffusion.methods.conftest import made, make_denoiser
from tests.diffusion.training.fit_worker import ON_IMAGES
from tests.marks import slow_but

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
    with pytest.raises(ValueError, match="batch: 10 rows of one kind cannot be split evenly over 4 parts"):
        Part(0, 4).rows(10)


IN_PARTS = {name: made(name) for name in ("tilted", "guidance", "esd", "neggrad", "siss")} | {"alternating": ALTERNATE}


@pytest.mark.parametrize("name", slow_but(IN_PARTS, "tilted", "esd", "neggrad", "siss"))
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


@pytest.mark.parametrize("name", slow_but(["tilted", "primal-dual", "siss"], "tilted"))
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


def test_accelerate_refuses_a_file_of_hosts_without_mpi(monkeypatch, tmp_path):
    """As docs/how-to/several-gpus.md says it."""
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["--cpu", "--num_processes", "2", "--mpirun_hostfile", "hosts", "-m", "diffusion.cli.main"]
    with pytest.raises(OSError, match="mpirun or mpiexec were not found"):
        prepare_simple_launcher_cmd_env(launch_command_parser().parse_args(words))


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


def test_bfloat16_is_close_and_leaves_weights_and_network_as_they_were(estimate, solution, monkeypatch):
    found, gradients = [], []
    loss_of = guided_tilt.guided_loss

    def keep(e, pull, w, s, count):
        """The gradient in the student's output, which is what training goes by; the loss itself is a difference."""
        wide = (-1, *(1,) * (e.ndim - 1))
        gradients.append((count.view(wide) * (w.view(wide) * e - pull)).detach().float())
        return loss_of(e, pull, w, s, count)

    monkeypatch.setattr(guided_tilt, "guided_loss", keep)
    for precision in ("no", "bf16"):
        denoiser = make_denoiser()
        outcome = made("tilted").fit(FitContext(denoiser, estimate, solution, SMALL.but(mixed_precision=precision)))
        assert "forward" not in vars(denoiser.network)
        assert all(value.dtype == torch.float32 for value in trained(denoiser).values())
        found.append(outcome.losses)
    assert found[0] != found[1]
    # The first step's student is the same: what differs are two outputs of some dozens of layers, each rounded once.
    exact, rounded = gradients[0], gradients[len(gradients) // 2]
    apart = float((rounded - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    assert 0 < apart < (2 * 64) ** 0.5 * 2**-8


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


def test_a_batch_that_cannot_be_dealt_out_is_refused_before_any_work(monkeypatch):
    from tests.diffusion.workflows.test_concepts import TASK

    monkeypatch.setattr("diffusion.workflows.concepts.estimate_ratios", None)
    with pytest.raises(ValueError, match="32 rows of one kind cannot be split evenly over 5 parts"):
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


# -- rates ---------------------------------------------------------------------------------------------------------


def test_each_parameter_moves_by_its_own_rate_and_goes_on_with_it(tmp_path):
    """Adam's first step is the rate, whatever the gradient; a resumed fit ends bit-equal."""

    def trainer(checkpoint=None):
        network = torch.nn.Linear(3, 2)
        with torch.no_grad():
            network.weight.zero_()
            network.bias.zero_()

        def objective(_step, generator, _part=None):
            x = torch.randn(8, 3, generator=generator)
            return (network(x) - 1).square().mean()

        settings = FitConfig(max_train_steps=4, learning_rate=1e-2)
        parameters = [network.weight, network.bias]
        made = Trainer(network, parameters, objective, settings, checkpoint=checkpoint)
        made.learn_at([0.25, 1.0])
        return made

    first = trainer()
    first.run(until=1)
    moved = [float(parameter.detach().abs().max()) for parameter in first.parameters]
    assert moved[0] == pytest.approx(0.25 * moved[1], rel=1e-4)
    first.run()
    halted = trainer(tmp_path / "fit.safetensors")
    halted.run(until=2)
    halted.save()
    again = trainer(tmp_path / "fit.safetensors")
    assert again.done == 2
    again.run()
    assert all(torch.equal(*pair) for pair in zip(first.parameters, again.parameters, strict=True))
