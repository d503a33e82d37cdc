"""Ctrl-C and SIGTERM: the step that is running ends, a checkpoint says how far, and the next run goes on from there."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from diffusion.methods.base import FitContext
from diffusion.runtime.interrupts import TERMINATED, Deferred, terminable
from diffusion.runtime.tensor_files import read_tensors
from diffusion.tasks.config import FitConfig
from tests.diffusion.methods.conftest import adapters, made, make_denoiser, same
from tests.diffusion.training.fit_worker import ALTERNATE, on_concepts

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")

SMALL = FitConfig(max_train_steps=6, train_batch_size=12, rank=2, learning_rate=1e-2, seed=3)


def done(path):
    return int(read_tensors(path)[1]["done"])


def at_step(number, step):
    """A progress callback in which the signal arrives during that step."""
    seen = []

    def progress(count):
        seen.append(count)
        if len(seen) == step:
            signal.raise_signal(number)

    return progress


@pytest.fixture(autouse=True)
def ctrl_c():
    """Ctrl-C as a terminal has it: whoever starts the tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("method", "number", "raised"),
    [("tilted", signal.SIGINT, KeyboardInterrupt), ("primal-dual", signal.SIGTERM, SystemExit)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_interrupt_saves_and_the_next_run_resumes(method, number, raised, tmp_path, capsys):
    path = tmp_path / "fit.safetensors"
    fitted_by, context = on_concepts(method, "likelihood", SMALL)
    whole = fitted_by.fit(context)
    expected = adapters(context.denoiser)
    fitted_by, context = on_concepts(method, "likelihood", SMALL)
    with pytest.raises(raised), terminable():
        fitted_by.fit(dataclasses.replace(context, checkpoint=path, progress=at_step(number, 2)))
    assert f"interrupted after step 2; the same run goes on from there, {path}" in capsys.readouterr().err
    assert done(path) == 2
    fitted_by, context = on_concepts(method, "likelihood", SMALL)
    resumed = fitted_by.fit(dataclasses.replace(context, checkpoint=path))
    assert f"resuming from step 2, {path}" in capsys.readouterr().err
    assert resumed.losses == whole.losses
    assert same(adapters(context.denoiser), expected)


def test_an_interrupt_while_levels_are_measured(tmp_path, capsys, monkeypatch):
    from diffusion.methods import level_estimates

    path = tmp_path / "fit.safetensors"
    fitted_by, context = on_concepts("primal-dual", "likelihood", SMALL)
    fitted_by.fit(context)
    expected = adapters(context.denoiser)
    real, calls = level_estimates.Meter.measure, []

    def measure(self, round_):
        calls.append(round_)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(self, round_)

    monkeypatch.setattr(level_estimates.Meter, "measure", measure)
    fitted_by, context = on_concepts("primal-dual", "likelihood", SMALL)
    with pytest.raises(SystemExit) as ended:
        fitted_by.fit(dataclasses.replace(context, checkpoint=path))
    assert ended.value.code == TERMINATED
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "interrupted after step 6" in capsys.readouterr().err
    fitted_by, context = on_concepts("primal-dual", "likelihood", SMALL)
    fitted_by.fit(dataclasses.replace(context, checkpoint=path))
    assert same(adapters(context.denoiser), expected)


def test_checkpoints_at_the_end_of_every_round_and_of_the_fit(tmp_path, monkeypatch):
    """Rounds of three steps, and `every` far beyond: a checkpoint after each, with the multipliers that it left."""
    from diffusion.training import trainer

    kept, real = [], trainer.save_checkpoint

    def save(one, path):
        real(one, path)
        kept.append((done(path), len(one.state.path) if one.state else None))

    monkeypatch.setattr(trainer, "save_checkpoint", save)
    assert ALTERNATE.inner == 3
    fitted_by, context = on_concepts("primal-dual", "likelihood", SMALL)
    fitted_by.fit(dataclasses.replace(context, checkpoint=tmp_path / "one", every=1000))
    assert kept == [(3, 2), (6, 3)]
    kept.clear()
    fitted_by, context = on_concepts("neggrad", "likelihood", SMALL)
    fitted_by.fit(
        dataclasses.replace(context, config=SMALL.but(max_train_steps=5), checkpoint=tmp_path / "two", every=2)
    )
    assert kept == [(2, None), (4, None), (5, None)]


def test_a_damaged_checkpoint_is_named_and_the_fit_begins_anew(estimate, solution, tmp_path, capsys):
    path, settings = tmp_path / "fit.safetensors", SMALL.but(max_train_steps=3)
    first = make_denoiser()
    made("neggrad").fit(FitContext(first, estimate, solution, settings, checkpoint=path))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again = make_denoiser()
    made("neggrad").fit(FitContext(again, estimate, solution, settings, checkpoint=path))
    said = capsys.readouterr().err
    assert f"checkpoint {path} is not used, its content does not match its digest; the fit begins anew" in said
    assert same(adapters(first), adapters(again))
    wider = settings.but(rank=3)
    made("neggrad").fit(FitContext(make_denoiser(), estimate, solution, wider, checkpoint=path))
    assert "has shape (2, " in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), Deferred() as asked:
        signal.raise_signal(signal.SIGINT)
        assert asked.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second one was noted, too")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored():
    """As in a shell's background, or under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Deferred() as asked:
            signal.raise_signal(signal.SIGINT)
        assert asked.signal is None
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_real_process_ends_with_a_checkpoint(number, code, tmp_path):
    """Without a handler of its own a process ends by the signal, as it would have, but after the checkpoint."""
    path = tmp_path / "fit.safetensors"
    words = [sys.executable, "-m", "tests.diffusion.training.fit_worker", "tilted"]
    more = ["--checkpoint", str(path), "--every", "1000", "--steps", "14"]
    subprocess.run([*words, str(tmp_path / "whole"), "--steps", "14"], check=True, capture_output=True)
    with subprocess.Popen(
        [*words, str(tmp_path / "out"), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.strip() == "step":
                process.send_signal(number)
                break
        _, said = process.communicate()
    assert process.returncode == code, said
    assert "interrupted after step" in said
    reached = done(path)
    run = subprocess.run([*words, str(tmp_path / "out"), *more], capture_output=True, text=True, check=True)
    assert f"resuming from step {reached}, {path}" in run.stderr
    one, two = load_file(tmp_path / "whole"), load_file(tmp_path / "out")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("asked", [0, 1])
def test_one_of_two_processes_is_asked_and_both_stop_after_the_same_step(asked, tmp_path):
    """Whichever of them hears of it: no process waits for one that has left, and the checkpoint is of one step."""
    path = tmp_path / "fit.safetensors"
    words = [sys.executable, "-m", "tests.diffusion.training.fit_worker", "tilted"]
    more = ["--checkpoint", str(path), "--every", "1000", "--steps", "14"]

    def started(out):
        with socket.socket() as some:
            some.bind(("127.0.0.1", 0))
            port = some.getsockname()[1]
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        return [
            subprocess.Popen(
                [*words, str(out), *more],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]

    def ended(processes):
        said = [process.communicate(timeout=240)[1] for process in processes]
        return [process.returncode for process in processes], said

    codes, said = ended(started(tmp_path / "whole"))
    assert codes == [0, 0], said
    path.unlink()
    processes = started(tmp_path / "out")
    for line in processes[asked].stdout:
        if line.strip() == "step":
            processes[asked].send_signal(signal.SIGTERM)
            break
    codes, said = ended(processes)
    assert codes[asked] == -signal.SIGTERM, said
    assert codes[1 - asked] != 0, said
    assert "interrupted after step" in said[0]
    assert "interrupted after step" not in said[1]  # one of them speaks
    reached = done(path)
    assert 1 <= reached < 14
    codes, said = ended(started(tmp_path / "out"))
    assert codes == [0, 0], said
    assert f"resuming from step {reached}, {path}" in said[0]
    one, two = load_file(tmp_path / "whole"), load_file(tmp_path / "out")
    assert all(torch.equal(one[name], two[name]) for name in one)
