"""Gains of guidance: on fields whose gain is known, and the command with few samples."""

import pytest
import torch

from diffusion.digits.experiments.guidance_gain import EDGES, gain, main


@pytest.mark.parametrize("right", [0.7, 0.0, -1.5])
def test_what_is_known_is_found(right):
    generator = torch.Generator().manual_seed(0)
    field = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    found, error = gain(right * field + 3 * noise, field)
    # Given the field: a sum of normals, variance 9 / (4 · 4000); four standard errors.
    assert abs(found - right) < 4 * error
    assert abs(error / (3 / 16000**0.5) - 1) < 0.1


@pytest.mark.slow
def test_the_command(capsys):
    main(["--samples", "40", "--states", "300"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("log SNR")]
    assert len(lines) == len(EDGES) - 1
    counted = sum(int(line.split(", ")[1].split(" states")[0]) for line in lines)
    assert 290 < counted <= 300  # the last level lies on the last edge
