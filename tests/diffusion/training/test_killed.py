"""Kill -9 at random moments: the resumed run ends with the weights of the run that nobody disturbed, bit for bit."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.diffusion.methods.conftest import same

STEPS = 14
KILLS = 10


def start(method, out, checkpoint=None):
    words = [
        sys.executable,
        "-m",
        "tests.diffusion.training.fit_worker",
        method,
        str(out),
        "--steps",
        str(STEPS),
        "--rank",
    ]
    words += ["0" if method.endswith("full") else "2"]
    if checkpoint is not None:
        words += ["--checkpoint", str(checkpoint), "--every", "2"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["tilted", "primal-dual,reverse", "tilted,full", "tilted,images"])
def test_ten_kills_change_nothing(method, tmp_path):
    """A moment is a number of steps into the life of the process, and a part of a step after that (its own loss, its
    gradient, the checkpoint that is being written): uniform over the whole run, drawn anew for every life."""
    rng = np.random.default_rng(7)
    with start(method, tmp_path / "whole") as process:
        marks = [time.monotonic() for line in process.stdout if line.strip() in ("begun", "step")]
    assert process.returncode == 0
    pace = (marks[-1] - marks[0]) / STEPS
    checkpoint, kills, reached = tmp_path / "fit.safetensors", 0, []
    while kills < KILLS:
        # Few steps a life, or ten of them would not fit into one run.
        left, wait = int(rng.integers(0, 4)), float(rng.uniform(0, 2 * pace))
        with start(method, tmp_path / "resumed", checkpoint) as process:
            for line in process.stdout:
                left -= line.strip() in ("begun", "step")
                if left < 0 or line.strip() == "done":
                    break
            time.sleep(wait)
            process.send_signal(signal.SIGKILL)
        if process.returncode == 0:  # it had ended before: begin a new run, with the kills that are left
            assert same(load_file(tmp_path / "whole"), load_file(tmp_path / "resumed"))
            checkpoint.unlink()
            continue
        assert process.returncode == -signal.SIGKILL
        kills += 1
        reached.append(checkpoint.exists())
    with start(method, tmp_path / "resumed", checkpoint) as process:
        process.communicate()
    assert process.returncode == 0
    assert any(reached), "no life got as far as a checkpoint: nothing was resumed"
    assert same(load_file(tmp_path / "whole"), load_file(tmp_path / "resumed"))
