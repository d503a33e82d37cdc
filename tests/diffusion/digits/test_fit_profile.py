"""The profile of a fit: what is known without one, and the command with a few steps."""

import pytest
import torch

from diffusion.digits.experiments.fit_profile import EVERY, STEPS, along_chain, dealt_out, main, of_target
from diffusion.methods.chain import chain_of
from diffusion.pipelines import denoiser_of
from diffusion.ratios.detected import DetectedSamples
from diffusion.ratios.noised_detector import NoisedDetector
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.prompts import Prompts
from diffusion.training.lora import add_lora
from tests.diffusion import families
from tests.diffusion.families import build


class Constant(NoisedDetector):
    """eta is .2 for states of one sign and .6 for the other."""

    def __init__(self):
        torch.nn.Module.__init__(self)

    def forward(self, feature, log_snr):
        return torch.where(feature[:, :1] > feature[:, :1].median(), 0.6, 0.2)


@pytest.fixture(scope="module")
def denoiser():
    return denoiser_of(build(families.sd))


def test_a_student_that_is_the_base_model_spends_nothing_and_one_that_is_not_does(denoiser):
    chain = chain_of(denoiser, 4, 5)
    parameters = add_lora(denoiser, 2, 0)
    eta, cost, ends = along_chain(denoiser, Constant(), chain, 6, 0)
    assert eta.shape == cost.shape == (chain.steps, 6)
    assert ends.shape == (6, *denoiser.sample_shape)
    assert float(cost.abs().max()) == 0
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)
    assert float(along_chain(denoiser, Constant(), chain, 6, 0)[1].min()) > 0


def test_the_target_at_a_level_weighs_what_states_promise(denoiser):
    n = 8
    latents = torch.randn(n, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    rows, detected = torch.zeros(n, dtype=torch.long), torch.zeros(n, 1, dtype=torch.float64)
    estimate = DetectedSamples(
        Prompts([""]), ("seven",), rows, latents, detected, Constant(), (None,), "", RatiosConfig(), Sampling()
    )
    generator = torch.Generator().manual_seed(1)
    base, target = of_target(denoiser, estimate, torch.tensor(500), float("inf"), generator)
    assert base == pytest.approx(0.4)
    # h = 1 - eta: .8 and .4 in equal parts. Float32 values of eta.
    assert target == pytest.approx((0.8 * 0.2 + 0.4 * 0.6) / 1.2, rel=1e-6)


def test_detections_are_dealt_out_to_other_samples_and_none_is_lost(denoiser):
    n = 40
    latents, rows = torch.zeros(n, *denoiser.sample_shape), torch.zeros(n, dtype=torch.long)
    detected = torch.arange(n, dtype=torch.float64)[:, None] / n
    estimate = DetectedSamples(
        Prompts([""]), ("seven",), rows, latents, detected, Constant(), (None,), "", RatiosConfig(), Sampling()
    )
    dealt = dealt_out(estimate, 0)
    assert torch.equal(dealt.detected.sort(0).values, detected)
    assert float((dealt.detected == detected).double().mean()) < 0.2
    assert dealt.latents is latents


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_the_command(capsys):
    main(["--samples", "40", "--max-train-steps", "2", "--chains", "4", "--level", "0.05", "--permuted"])
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "; " in line and line[0] in "+-"]) == len(range(0, STEPS, EVERY))
    assert "the chain ends in" in lines[-1]
    assert "the rest is the distance from it" in lines[-1]
