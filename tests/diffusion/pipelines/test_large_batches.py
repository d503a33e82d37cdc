"""What the batches that a CPU takes by itself need with networks of Stable Diffusion 1.5's size: minutes, hence `slow`.

A child measures the peak of its own memory, at one row and at two, above what it held before.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.runtime.memory import SHARE, limit_of
from diffusion.tasks.config import RatiosConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CARD = 24 * 2**30  # of a common GPU, in bytes
CHILD = """
import resource, sys, torch
from tests.gpu import models
part, rows = sys.argv[1], int(sys.argv[2])
kind, settings = models.config_of("sd15")["components"][part]
network = models.empty(kind, settings).to_empty(device="cpu").eval()
with torch.no_grad():
    for parameter in network.parameters():
        parameter.fill_(0.01)  # any value: memory that was never written to is not there
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    if part == "vae":
        network.decode(torch.zeros(rows, 4, 16, 16))
    else:
        network(torch.zeros(rows, 4, 32, 32), torch.full((rows,), 500), torch.zeros(rows, 77, 768))
weights = sum(p.numel() * p.element_size() for p in network.parameters())
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held), weights)
"""


def bytes_of(part, rows):
    """Peak above the weights, and the weights."""
    said = subprocess.run(
        [sys.executable, "-c", CHILD, part, str(rows)], capture_output=True, text=True, check=True, timeout=900
    )
    return tuple(map(int, said.stdout.split()[-2:]))


def never(_rows):
    raise AssertionError("a CPU is not probed")


@pytest.mark.parametrize(
    ("part", "kind", "numbers", "times"),
    # measured at 128 x 128 and 256 x 256 pixels, a 16th and a quarter of their own: memory goes by pixels
    [("vae", "decoding", 3 * 512 * 512, 16), ("unet", "evaluation", 4 * 64 * 64, 4)],
)
def test_a_batch_of_stable_diffusion_fits_a_card(part, kind, numbers, times):
    rows = limit_of(torch.nn.Linear(1, 1), kind, numbers, 256, never).rows
    (one, weights), (two, _) = bytes_of(part, 1), bytes_of(part, 2)
    each = two - one
    assert each > 0
    needed = weights + times * each * rows
    print(f"{part}: {each * times / 2**30:.2f} GiB a row, {rows} rows, {needed / 2**30:.1f} GiB with the weights")
    assert needed < SHARE * CARD
    whole = times * each * RatiosConfig().num_samples
    assert whole > SHARE * CARD  # all samples of a default run at once would not fit: batches are what saves it
