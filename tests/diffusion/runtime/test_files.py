"""What training and writing need of a disk: a full one leaves what was there before whole, and the error names it."""

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion.methods.base import FitContext
from diffusion.runtime.files import atomic_write, check_file, clear_partials, write_text
from diffusion.runtime.output_folder import OutputFolder
from diffusion.runtime.tensor_files import read_tensors
from diffusion.tasks.config import FitConfig
from tests.diffusion.methods.conftest import made, make_denoiser

ROOT = Path(__file__).parents[3]
SMALL = FitConfig(max_train_steps=3, train_batch_size=12, rank=2, learning_rate=1e-2, seed=3)


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(estimate, solution, tmp_path, monkeypatch):
    path = tmp_path / "fit.safetensors"
    made("tilted").fit(FitContext(make_denoiser(), estimate, solution, SMALL.but(), checkpoint=path, every=2))
    kept = path.read_bytes()

    def full(_tensors, place, **_more):
        place.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"fit.safetensors could not be written \(No space left on device\)") as caught:
        made("tilted").fit(
            FitContext(make_denoiser(), estimate, solution, SMALL.but(max_train_steps=6), checkpoint=path, every=2)
        )
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == kept
    assert [file.name for file in tmp_path.iterdir()] == ["fit.safetensors"]


def test_a_real_limit_on_what_can_be_written(tmp_path):
    """The system itself refuses (RLIMIT_FSIZE), in a process of its own: safetensors' error becomes a clear one."""
    code = """
import sys, torch
from pathlib import Path
from diffusion.runtime.files import atomic_write
from diffusion.runtime.output_folder import OutputFolder
from diffusion.runtime.tensor_files import read_tensors
from safetensors.torch import save_file
for make in (lambda p: save_file({"x": torch.zeros(100_000)}, p), lambda p: p.write_bytes(bytes(400_000))):
    try:
        with atomic_write(Path(sys.argv[1]) / "kept") as partial:
            make(partial)
    except OSError as error:
        print(error)
    try:
        with OutputFolder(Path(sys.argv[1]) / "out", overwrite=True) as folder:
            make(folder / "big")
    except OSError as error:
        print(error)
"""
    (tmp_path / "kept").write_text("before")
    with OutputFolder(tmp_path / "out") as folder:
        (folder / "file").write_text("before")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    run = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, preexec_fn=limit)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.strip().splitlines()
    assert len(lines) == 4
    for name, line in zip(("kept", "out") * 2, lines, strict=True):
        assert f"{tmp_path / name} could not be written" in line
    assert (tmp_path / "kept").read_text() == "before"
    assert (tmp_path / "out" / "file").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "out"]


def test_a_kill_in_the_middle_of_a_write(estimate, solution, tmp_path):
    """The process dies with half a checkpoint on the disk; the next run takes the one before and clears the rest."""
    code = """
import os, signal, sys
import safetensors.torch
from tests.diffusion.training.fit_worker import main

write, calls = safetensors.torch.save_file, []

def torn(tensors, place, **more):
    write(tensors, place, **more)
    calls.append(place)
    if len(calls) == 2:
        os.truncate(place, os.path.getsize(place) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

safetensors.torch.save_file = torn
main()
"""
    path, words = tmp_path / "fit.safetensors", ["tilted", str(tmp_path / "out"), "--every", "1", "--steps", "3"]
    run = subprocess.run([sys.executable, "-c", code, *words, "--checkpoint", str(path)], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2  # the whole one and the torn one
    assert read_tensors(path)[1]["done"] == "1"
    made("tilted").fit(FitContext(make_denoiser(), estimate, solution, SMALL, checkpoint=path, every=1))
    assert [file.name for file in tmp_path.iterdir()] == ["fit.safetensors"]
    assert read_tensors(path)[1]["done"] == "3"


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "file") as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    with pytest.raises(ZeroDivisionError), OutputFolder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "real").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "after"


@pytest.mark.parametrize("what", ["folder", "device", "empty", "under a file"])
def test_a_file_that_cannot_be_written_is_found_before_the_work(tmp_path, what):
    (tmp_path / "file").write_text("mine")
    place = {"folder": tmp_path, "device": Path(os.devnull), "empty": Path(), "under a file": tmp_path / "file" / "x"}
    with pytest.raises((ValueError, OSError), match=r"ordinary file|must name a file|could not be written"):
        check_file(place[what])
    if what != "empty":
        with pytest.raises(OSError, match="could not be written"):
            write_text(place[what], "x")
    assert not Path(os.devnull).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_partial_files_go_only_when_their_writers_have_ended(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from diffusion.runtime.files import atomic_write
with atomic_write(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    if sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    print("begun", flush=True)
    sys.stdin.read()
"""
    words = [sys.executable, "-c", code, tmp_path / "file"]
    assert subprocess.run([*words, "kill"]).returncode == -signal.SIGKILL
    (stale,) = tmp_path.iterdir()
    with subprocess.Popen([*words, "live"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert clear_partials(tmp_path) == [stale]
        assert len(list(tmp_path.iterdir())) == 1
        process.stdin.close()
    assert process.returncode == 0
    assert (tmp_path / "file").read_text() == "half"


@pytest.mark.parametrize("name", ["solution.json", "figure.png"])
def test_a_full_disk_leaves_what_solve_wrote_before(tmp_path, name, monkeypatch):
    """`unlearn solve`, `frontier` and `ratios --output` write by one function, which the system stops half-way."""
    from diffusion.cli.toy import solve

    (tmp_path / name).write_text("before")
    real = os.fsync

    def full(descriptor):
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"{name} could not be written \(No space left on device\)"):
        solve("worked", "likelihood", None, tmp_path)
    assert (tmp_path / name).read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_every_output_of_a_command_is_written_whole():
    """No command writes a file in place: `write_text` and `savefig` go to partial files or into an output folder."""
    for source in sorted((ROOT / "diffusion" / "cli").glob("*.py")):
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            if ".write_text(" in line or ".savefig(" in line or ".write_bytes(" in line:
                assert "folder /" in line or "partial" in line or "savefig(path" in line, f"{source.name}:{number}"
