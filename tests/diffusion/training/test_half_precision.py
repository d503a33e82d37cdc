"""Networks in half precision: adapters in single, delivered as they were measured; small gradients do not vanish."""

import numpy as np
import pytest
import torch
from torch import nn

from diffusion.methods import FitContext, method_of
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.fitted import put_in
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import ADAPTER, add_lora, add_student, merged_adapters, save_lora
from diffusion.training.trainer import Trainer
from tests.diffusion import families

HALVES = [torch.bfloat16, torch.float16]
FIT = FitConfig(max_train_steps=3, train_batch_size=6, rank=2, learning_rate=2e-2, seed=3)


def half(dtype, family="sd"):
    return denoiser_of(families.build(families.FAMILIES[family]).to(dtype))


def fitted(dtype, estimate, solution, family="sd"):
    denoiser = half(dtype, family)

    def steps(_count):
        assert {p.dtype for name, p in denoiser.network.named_parameters() if ADAPTER in name} == {torch.float32}

    method_of("tilted").uncorrected().fit(FitContext(denoiser, estimate, solution, FIT, progress=steps))
    return denoiser


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", list(families.FAMILIES))
def test_adapters_are_float32_on_any_network(dtype, family):
    denoiser = half(dtype, family)
    parameters = add_lora(denoiser, 2, 0)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    others = {p.dtype for name, p in denoiser.network.named_parameters() if ADAPTER not in name}
    assert others == {dtype}


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_measured_is_what_is_delivered(dtype, estimate, solution, tmp_path):
    denoiser = fitted(dtype, estimate, solution)
    assert {p.dtype for name, p in denoiser.network.named_parameters() if ADAPTER in name} == {dtype}
    with merged_adapters(denoiser):
        measured = sample_latents(denoiser.pipeline, ["", "one"], seed=1, steps=3)
    save_lora(denoiser, tmp_path)
    stock = families.build(families.sd).to(dtype)
    plain = sample_latents(stock, ["", "one"], seed=1, steps=3)
    stock.load_lora_weights(tmp_path)
    delivered = sample_latents(stock, ["", "one"], seed=1, steps=3)
    ours = half(dtype)
    put_in(ours, tmp_path)
    again = sample_latents(ours.pipeline, ["", "one"], seed=1, steps=3)
    assert not torch.equal(plain, measured)
    assert torch.equal(delivered, measured)
    assert torch.equal(again, measured)


def test_on_a_float32_network_they_are_merged_for_samples(estimate, solution):
    denoiser = fitted(torch.float32, estimate, solution)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = denoiser.network.get_submodule(name)
    before = layer.get_base_layer().weight.detach().clone()
    with merged_adapters(denoiser):
        assert not torch.equal(layer.get_base_layer().weight, before)
    assert torch.equal(layer.get_base_layer().weight, before)


def test_all_weights_are_not_trained_in_half_precision():
    with pytest.raises(ValueError, match="all weights are trained in float32, and the unet is in bfloat16"):
        add_student(half(torch.bfloat16), None, 0)


class Sum(nn.Module):
    """A network in bfloat16 that says nothing, beside weights in float32 as adapters are."""

    dtype = torch.bfloat16
    is_gradient_checkpointing = False

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -3.0, 0.7, 100.0]))


def test_steps_below_bfloat16s_resolution_are_taken():
    """``loss = sum w``: AdamW moves every weight by the rate, here far less than half of bfloat16's 2^-8 of them.

    The average is float32's own, rounded once, at the end.
    """
    rate, steps = 1e-4, FitConfig(max_train_steps=60, train_batch_size=1, rank=1, learning_rate=1e-4)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        network = Sum()
        network.dtype = dtype
        trainer = Trainer(network, [network.weight], lambda *_, weight=network.weight: weight.sum(), steps)
        trainer.run()
        assert network.weight.dtype == trainer.average[0].dtype == torch.float32
        trainer.finish()
        found[dtype] = network.weight.detach()
    single, half_ = found.values()
    start = Sum().weight.detach()
    assert bool((start.bfloat16() - rate == start.bfloat16()).all())  # a step would be lost there
    assert bool((single < start).all())
    assert half_.dtype == torch.bfloat16
    assert torch.equal(half_, single.bfloat16())


class Small(nn.Module):
    """w x in float16, w in float32 beside it as an adapter is."""

    dtype = torch.float16
    is_gradient_checkpointing = False

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.5))
        self.size = size

    def forward(self, x):
        return (self.weight.half() * x).float()


def trained(size, value):
    """A step on ``sum v w / n`` over n numbers in float16: its gradient in w is v, each number's v/n."""
    network = Small(size)
    x = torch.ones(size, dtype=torch.float16)
    steps = FitConfig(max_train_steps=1, train_batch_size=6, rank=1, learning_rate=1e-2)
    seen = {}

    def objective(_step, _generator, _part=None):
        return (network(x) * value).mean()

    trainer = Trainer(network, [network.weight], objective, steps)
    kept = trainer.optimizer.step
    trainer.optimizer.step = lambda: (seen.update(gradient=float(network.weight.grad)), kept())[1]
    trainer.run()
    return seen["gradient"], trainer


def test_small_gradients_do_not_vanish_in_float16():
    """Each of 2^18 numbers has the gradient 2^-26, half of what float16 holds at all: without a scale it would be 0."""
    assert float(torch.tensor(2.0**-26).half()) == 0
    gradient, trainer = trained(2**18, 2.0**-8)
    assert gradient == pytest.approx(2.0**-8, rel=1e-2)
    assert trainer._scale == 2.0**16


def test_large_gradients_lower_the_scale():
    gradient, trainer = trained(4, 2.0**6)  # 2^16 · 2^6/4 is above what float16 holds
    assert trainer._scale < 2.0**16
    assert gradient == 1.0  # clipped to norm 1 from 2^6: it was finite


def test_parts_add_up_at_any_scale(estimate, solution):
    """Losses in float16, in one part and in two: the scale is taken off before the parts are added."""
    found = []
    for parts in (1, 2):
        settings = FIT.but(gradient_accumulation_steps=parts)
        denoiser = half(torch.float16)
        found.append(method_of("tilted").uncorrected().fit(FitContext(denoiser, estimate, solution, settings)).losses)
    np.testing.assert_allclose(found[0], found[1], rtol=0.02)
