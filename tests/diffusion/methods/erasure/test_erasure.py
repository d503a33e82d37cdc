"""Baselines that erase by prompts: each is its formula, by closed form, gradient or a value computed another way."""

import numpy as np
import pytest
import torch

from diffusion.methods.base import ErasureContext
from diffusion.methods.erasure import (
    ERASURES,
    ESDU,
    ESDX,
    LECO,
    UCE,
    ConceptAblation,
    SalUn,
    ablation,
    erasure_of,
    half_finished,
    samples,
)
from diffusion.methods.erasure.base import inner_layers
from diffusion.methods.erasure.salun import saliency
from diffusion.methods.erasure.samples import forget_and_retain
from diffusion.methods.erasure.uce import change
from diffusion.methods.forget_retain_sets import SetBatches
from diffusion.pipelines import repeat, rows
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import add_lora, base_model, remove_lora, undo
from tests.diffusion.methods.conftest import make_denoiser
from tests.diffusion.methods.test_baselines import along, around

ASKING, ANCHORS, RETAINED = ("seven", "the digit 7 in ink"), ("a digit", "the digit in ink"), ("one", "two", "three")
SMALL = FitConfig(max_train_steps=2, train_batch_size=4, rank=1, learning_rate=1e-3)


def context_of(denoiser, **more):
    given = {"config": SMALL, "num_inference_steps": 3} | more
    return ErasureContext(denoiser, ASKING, ANCHORS, RETAINED, **given)


def double():
    denoiser = make_denoiser()
    denoiser.network.double()
    return denoiser


def weights(denoiser):
    return {name: value.detach().clone() for name, value in denoiser.network.state_dict().items()}


@pytest.mark.parametrize("name", ERASURES)
def test_every_baseline_changes_the_network_and_can_be_undone(name):
    denoiser = make_denoiser()
    x, t = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([400, 800])
    told = denoiser.condition(["seven", "one"])
    with torch.no_grad():
        before = denoiser.predict(x, t, told)
    method = erasure_of(name, 1.0)
    context = context_of(denoiser, config=SMALL.but(learning_rate=1e-2))
    losses = method.fit(context)
    with torch.no_grad():
        assert not torch.allclose(denoiser.predict(x, t, told), before)
    assert len(losses) == (0 if name == "uce" else 2)
    assert np.isfinite(losses).all()
    undo(denoiser)
    with torch.no_grad():
        torch.testing.assert_close(denoiser.predict(x, t, told), before)


def test_names_and_contexts_that_do_not_fit():
    with pytest.raises(ValueError, match="must be one of leco"):
        erasure_of("magic", 1.0)
    denoiser = make_denoiser()
    with pytest.raises(ValueError, match="anchors must be one for each of 2"):
        ErasureContext(denoiser, ASKING, ("a digit",), RETAINED, SMALL)
    with pytest.raises(ValueError, match="at least one prompt each"):
        ErasureContext(denoiser, ASKING, ANCHORS, (), SMALL)
    with pytest.raises(ValueError, match="relabelled must be one for each"):
        ErasureContext(denoiser, ASKING, ANCHORS, RETAINED, SMALL, (("one",),))


def test_half_finished_samples_are_the_samplers_own_states():
    """After all steps but one, the last step of the scheduler gives what the stock pipeline gives."""
    denoiser = make_denoiser()
    steps, scale = 3, 3.0
    noise = torch.randn((2, *denoiser.sample_shape), generator=torch.Generator().manual_seed(5))
    asked = denoiser.condition(["seven", "one"])
    x, t = half_finished(denoiser, asked, scale, steps, steps - 1, torch.Generator().manual_seed(5))
    scheduler = type(denoiser.pipeline.scheduler).from_config(denoiser.pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    last = scheduler.timesteps[-1]
    with torch.no_grad():
        free = denoiser.call(x, last.expand(2), repeat(denoiser.condition([""]), 2))
        said = free + scale * (denoiser.call(x, last.expand(2), asked) - free)
        ours = scheduler.step(said, last, x, return_dict=False)[0]
        stock = denoiser.pipeline(
            ["seven", "one"],
            latents=noise,
            guidance_scale=scale,
            num_inference_steps=steps,
            output_type="latent",
        ).images
    torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-4)
    assert torch.equal(t, denoiser.level(last.expand(2)))
    start, _ = half_finished(denoiser, asked, scale, steps, 0, torch.Generator().manual_seed(5))
    torch.testing.assert_close(start, noise * scheduler.init_noise_sigma)
    with pytest.raises(ValueError, match="done must be"):
        half_finished(denoiser, asked, scale, steps, steps, torch.Generator())


@pytest.mark.parametrize(("kind", "neutral"), [(LECO, True), (ESDX, False), (ESDU, False)])
def test_negative_guidance_is_its_formula(kind, neutral):
    denoiser = double()
    context = context_of(denoiser)
    method = kind(0.7)
    parameters = add_lora(denoiser, 1, 0, method.layers(denoiser, 1))
    names = [name for name, p in denoiser.network.named_parameters() if p.requires_grad]
    inside = ["attn2" in name for name in names]
    assert {LECO: any(inside) and not all(inside), ESDX: all(inside), ESDU: not any(inside)}[kind]
    objective = method.objective(context, parameters)
    # With adapters at zero f = T, so the loss is |T(x, c) - goal|^2, from the states that the step was looked at.
    seen, predict = {}, denoiser.predict

    def watched(x, t, condition):
        seen["at"] = (x, t, condition)
        return predict(x, t, condition)

    denoiser.predict = watched
    loss = float(objective(0, torch.Generator().manual_seed(2)).detach())
    denoiser.predict = predict
    x, t, told = seen["at"]
    chosen = torch.randint(2, (4,), generator=torch.Generator().manual_seed(2))
    table = denoiser.condition(list(ANCHORS))
    with base_model(denoiser):
        free = predict(x, t, repeat(denoiser.condition([""]), len(x)))
        said = predict(x, t, told)
        start = predict(x, t, rows(table, chosen)) if neutral else free
    expected = (said - start + 0.7 * (said - free)).square().mean()
    assert loss == pytest.approx(float(expected), rel=1e-9)
    if kind is LECO:  # its states are the student's own, which moves along: differences see that, the gradient does not
        return
    exact, numeric = along(objective, parameters, around(parameters))
    assert exact == pytest.approx(numeric, rel=1e-4)
    assert abs(exact) > 1e-9


def test_whose_half_finished_samples():
    """LECO's states follow the student, ESD's do not."""
    denoiser = make_denoiser()
    states = {}
    for kind in (LECO, ESDX):
        parameters = add_lora(denoiser, 1, 0)
        objective = kind(1.0).objective(context_of(denoiser, num_inference_steps=40), parameters)
        predict, found = denoiser.predict, []
        denoiser.predict = lambda x, t, c, predict=predict, found=found: (found.append(x), predict(x, t, c))[1]
        for _ in range(2):
            objective(0, torch.Generator().manual_seed(1))
            with torch.no_grad():
                for parameter in parameters:
                    parameter.add_(0.1)
        denoiser.predict = predict
        states[kind] = (found[0], found[-1])
        remove_lora(denoiser)
    assert torch.equal(*states[ESDX])
    assert not torch.allclose(*states[LECO])


def test_layers_outside_of_cross_attention():
    denoiser = make_denoiser()
    every = inner_layers(denoiser, None)
    adapted = inner_layers(denoiser, 4)
    assert set(adapted) < set(every)
    assert not any("attn2" in name for name in every)
    assert any("attn1" in name for name in adapted)
    assert any(name.startswith("conv_in") for name in every)


def test_uce_minimises_its_objective():
    generator = torch.Generator().manual_seed(0)
    v, c, a, k = (torch.randn(shape, generator=generator).double() for shape in ((5, 4), (6, 4), (6, 4), (9, 4)))

    def loss(w):
        return (
            0.7 * (w @ c.T - v @ a.T).square().sum() / len(c)
            + (w @ k.T - v @ k.T).square().sum() / len(k)
            + 0.3 * (w - v).square().sum()
        )

    def edited(asking, anchors, strength=0.7):
        return v + v @ change(asking, anchors, k, strength, 0.3)

    found = edited(c, a).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(found), found)
    # A quadratic's minimiser, solved to a few units of rounding of its own terms.
    assert float(gradient.abs().max()) < 1e-12 * float(loss(v))
    torch.testing.assert_close(edited(c, c), v)
    strong = edited(c[:1], a[:1], 1e8)
    torch.testing.assert_close(strong @ c[0], v @ a[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="above 0"):
        edited(c, a, 0.0)


def test_uce_touches_keys_and_values_alone():
    denoiser = make_denoiser()
    before = weights(denoiser)
    UCE(1.0).fit(context_of(denoiser))
    moved = {name for name, value in weights(denoiser).items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in moved)
    undo(denoiser)
    assert all(torch.equal(value, before[name]) for name, value in weights(denoiser).items())
    with pytest.raises(ValueError, match="cross-attention"):
        UCE(1.0).fit(context_of(make_denoiser("sdxl")))


@pytest.fixture
def taken(monkeypatch):
    """Samples without a sampler, which has single precision."""

    def take(context, prompts, count, salt):
        generator = torch.Generator().manual_seed(salt)
        latents = torch.randn((count, *context.denoiser.sample_shape), generator=generator, dtype=torch.float64)
        return latents, torch.arange(count) % len(prompts)

    for module in (ablation, samples):
        monkeypatch.setattr(module, "take", take)


def test_ablation_is_its_formula(taken):
    denoiser = double()
    context = context_of(denoiser)
    parameters = add_lora(denoiser, 1, 0)
    for strength in (1.0, 0.5):
        objective = ConceptAblation(strength, samples=4).objective(context, parameters)
        seen, predict = [], denoiser.predict
        denoiser.predict = lambda x, t, c: (seen.append((x, t, c)), predict(x, t, c))[1]  # noqa: B023
        loss = float(objective(0, torch.Generator().manual_seed(2)).detach())
        denoiser.predict = predict
        (x, t, anchored), (_, _, asked) = seen[0], seen[-1]
        with base_model(denoiser):
            apart = predict(x, t, asked) - predict(x, t, anchored)
        assert loss == pytest.approx(strength**2 * float(apart.square().mean()), rel=1e-9)
    exact, numeric = along(objective, parameters, around(parameters))
    assert exact == pytest.approx(numeric, rel=1e-4)


def test_neggrad_and_erasediff_take_the_strength():
    assert erasure_of("neggrad", 0.25).rule.beta == pytest.approx(0.8)
    assert erasure_of("erasediff", 0.3).rule.eta == 0.3
    with pytest.raises(ValueError, match="at least 0"):
        _ = erasure_of("neggrad", -1.0).rule


def test_sets_are_samples_of_the_base_model_under_their_prompts():
    denoiser = make_denoiser()
    context = context_of(denoiser)
    sets = forget_and_retain(context, 4)
    assert sets.forget_prompts == (*ASKING, *ASKING)
    assert sets.retain_prompts == (*RETAINED, RETAINED[0])
    add_lora(denoiser, 1, 0)
    with torch.no_grad():
        for name, parameter in denoiser.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    again = forget_and_retain(context, 4)
    torch.testing.assert_close(sets.forget, again.forget)
    other = sample_latents(denoiser.pipeline, sets.forget_prompts, seed=1, steps=3, guidance_scale=3.0)
    assert not torch.allclose(other, sets.forget)


def test_salun_moves_salient_weights_alone():
    denoiser = make_denoiser()
    before = weights(denoiser)
    context = context_of(denoiser, config=SMALL.but(full_weights=True, max_train_steps=2))
    SalUn(1.0, samples=4, batches=1).fit(context)
    after = weights(denoiser)
    changed = torch.cat([(after[name] != before[name]).flatten() for name in before])
    assert 0.1 < float(changed.float().mean()) <= 0.5 + 1e-3
    undo(denoiser)


def test_salun_masks_by_the_median_and_its_gradient_is_masked(taken):
    denoiser = double()
    context = context_of(denoiser, config=SMALL.but(full_weights=True))
    sets = forget_and_retain(context, 4)
    parameters = add_lora(denoiser, 1, 0)
    direction = around(parameters)
    masks = saliency(denoiser, SetBatches(denoiser, sets, SMALL), parameters, 1, 0)
    share = torch.cat([mask.flatten() for mask in masks]).mean()
    assert float(share) == pytest.approx(0.5, abs=0.01)
    objective = SalUn(0.6, samples=4, batches=1).on(context, parameters, sets)
    masked = [d * mask for d, mask in zip(direction, masks, strict=True)]
    exact, numeric = along(objective, parameters, masked)
    assert exact == pytest.approx(numeric, rel=1e-4)
    gradients = torch.autograd.grad(objective(0, torch.Generator().manual_seed(2)), parameters)
    assert all(bool((g[mask == 0] == 0).all()) for g, mask in zip(gradients, masks, strict=True))
