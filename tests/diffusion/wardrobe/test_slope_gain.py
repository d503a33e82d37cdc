"""What slopes explain of a target's drift: on a law whose drift is known, and the command with few samples."""

import re
from dataclasses import replace

import pytest
import torch

from diffusion.evaluation.sweep.canvas import CanvasTask, law_of
from diffusion.pipelines import denoiser_of
from diffusion.ratios.foreseen import KNOTS, Foreseen
from diffusion.tasks.prompts import Prompts
from diffusion.wardrobe.experiments.slope_gain import anchored, at_step, main
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.methods.test_guided_tilt import samples_of


def test_only_what_is_to_be_tilted_is_looked_at():
    law = anchored(law_of(CanvasTask.of("a dress")))
    assert {each.group for each in law.prompts} == {"asking", "anchors"}
    assert not any("dress" in text for text in law.sampled)


def test_a_slope_that_is_not_used_explains_what_it_explained_alone():
    denoiser = denoiser_of(build(families.sd))
    estimate = samples_of(denoiser, Prompts(["seven", "one"]))
    estimate = replace(
        estimate, latents=torch.randn(estimate.latents.shape, generator=torch.Generator().manual_seed(0))
    )
    ignored = Foreseen((lambda images: images.mean((1, 2, 3)),), torch.zeros(1, len(KNOTS), 3))
    heard = Foreseen(ignored.log_odds, torch.tensor([0.5, 0.0, 0.0]).expand(1, len(KNOTS), 3))
    t = torch.tensor([400])
    found, other = (at_step(denoiser, estimate, some, 2.0, t, 3) for some in (ignored, heard))
    # A sigmoid of its own logit, in float32.
    torch.testing.assert_close(found["along"][:, 0], found["along"][:, 1], rtol=1e-2, atol=1e-7)
    torch.testing.assert_close(found["energy"][:, 0], found["energy"][:, 1], rtol=1e-3, atol=1e-9)
    assert torch.equal(other["energy"][:, 0], found["energy"][:, 0])
    assert not torch.allclose(other["energy"][:, 1], found["energy"][:, 1], rtol=1e-2)
    torch.testing.assert_close(found["weight"], (-2 * estimate.detected[:, 0]).exp())


@pytest.mark.slow
def test_the_command(capsys):
    main(["--concept", "a sneaker", "--samples", "120", "--level", "0.05"])
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("log SNR")]
    assert len(rows) >= 8
    assert all(re.search(r"alone gain -?[\d.]+ ± [\d.]+, share [\d.]+; foreseen gain ", row) for row in rows)
    assert re.search(r"of the target's nats: alone [\d.]+, foreseen [\d.]+", lines[-1])
