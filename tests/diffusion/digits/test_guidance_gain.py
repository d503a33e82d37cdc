"""Gains of guidance: on fields whose gain is known, and the command with few samples."""

import json

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
def test_the_command(tmp_path, capsys):
    main(["--samples", "40", "--states", "300", "--output", str(tmp_path / "gain.json")])
    bands = json.loads((tmp_path / "gain.json").read_text(encoding="utf-8"))["bands"]
    assert len(bands) == len(EDGES) - 1 == len(capsys.readouterr().out.strip().splitlines()[-len(bands) :])
    assert 290 < sum(band["states"] for band in bands) <= 300  # the last level lies on the last edge
