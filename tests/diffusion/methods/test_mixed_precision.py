"""Every method under autocast, on networks in single and in half precision: adapters and their average in float32
while they are trained, and what stock diffusers loads is what was there to be measured."""

import numpy as np
import pytest
import torch

from diffusion.methods import IMAGE_METHODS, METHODS, ForgetImages, PrimalDual, TiltedImages, image_method_of
from diffusion.methods.base import FitContext, ImageFitContext
from diffusion.pipelines import denoiser_of
from diffusion.training.lora import ADAPTER, save_lora
from diffusion.training.trainer import Trainer
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.methods.conftest import SMALL, made
from tests.diffusion.methods.images.test_tilted import make_images
from tests.marks import slow_but

BASES = [torch.float32, torch.bfloat16]
FIT = SMALL.but(max_train_steps=2, mixed_precision="bf16", learning_rate=5e-2)
BRIEF = {"primal-dual": PrimalDual(inner=1, warmup=0, gain=0.2, samples=4, noise_levels=1)}
BRIEF_ON_IMAGES = {
    "tilted": TiltedImages(inner=1, warmup=0, noise_levels=1, repeats=2, extra=0),
    "primal-dual": ForgetImages(inner=1, warmup=0, noise_levels=1, repeats=2, extra=0),
}


def said(pipeline):
    denoiser = denoiser_of(pipeline)
    x = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return denoiser.predict(x, torch.tensor([100, 700]), denoiser.condition(["one", "seven"]))


def check(fit, dtype, folder, monkeypatch):
    """`fit(denoiser)` on a network of that type, looked at while it trains and after it is saved."""
    denoiser = denoiser_of(build(families.sd).to(dtype))
    network, casts, finished = denoiser.network, [], []

    def during(_module, _arguments):
        if torch.is_grad_enabled():
            casts.append(torch.is_autocast_enabled("cpu"))

    finish = Trainer.finish

    def looked_at(trainer):
        held = [*trainer.parameters, *trainer.average]
        finished.append({value.dtype for value in held})
        moved = [bool((mean != start).any()) for mean, start in zip(trainer.average, begun, strict=True)]
        assert any(moved)
        return finish(trainer)

    begin, begun = Trainer.__init__, []

    def begin_(trainer, *arguments, **named):
        begin(trainer, *arguments, **named)
        begun[:] = [value.clone() for value in trainer.average]

    monkeypatch.setattr(Trainer, "__init__", begin_)
    monkeypatch.setattr(Trainer, "finish", looked_at)
    before = said(denoiser.pipeline)
    handle = network.conv_in.register_forward_pre_hook(during)  # inside of what is cast
    outcome = fit(denoiser)
    handle.remove()
    assert np.isfinite(outcome.losses).all()
    assert casts
    assert all(casts)  # every gradient went through a network under autocast
    assert finished == [{torch.float32}]
    assert "forward" not in vars(network)
    parts = {p.dtype for name, p in network.named_parameters() if ADAPTER in name}
    assert parts == {p.dtype for name, p in network.named_parameters() if ADAPTER not in name} == {dtype}
    measured = said(denoiser.pipeline)
    assert not torch.equal(measured, before)
    save_lora(denoiser, folder)
    stock = build(families.sd).to(dtype)
    stock.load_lora_weights(folder)
    assert torch.equal(said(stock), measured)


@pytest.mark.parametrize("dtype", slow_but(BASES, torch.bfloat16))
@pytest.mark.parametrize("name", METHODS)
def test_concepts(name, dtype, estimate, solution, tmp_path, monkeypatch):
    method = BRIEF.get(name) or made(name)
    check(lambda denoiser: method.fit(FitContext(denoiser, estimate, solution, FIT)), dtype, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", slow_but(IMAGE_METHODS, "tilted", "siss"))
def test_images(name, tmp_path, monkeypatch):
    method = BRIEF_ON_IMAGES.get(name) or image_method_of(name)
    fit = FIT.but(max_train_steps=6) if name == "tilted" else FIT  # its multipliers begin at 0, where nothing is moved

    def run(denoiser):
        return method.fit(ImageFitContext(denoiser, make_images(denoiser), [3.0, 40.0, 2.0], fit))

    check(run, torch.bfloat16, tmp_path, monkeypatch)
