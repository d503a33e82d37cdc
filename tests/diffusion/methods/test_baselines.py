"""What is compared against has the gradient of its published formula, resumes exactly, and is found by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import duality as du
from diffusion.methods import CROSS_ATTENTION, ESD, IMAGE_METHODS, METHODS, FixedWeights
from diffusion.methods.base import FitContext, ImageFitContext
from diffusion.methods.baselines import SISS, EraseDiff, NegGrad, OnImages, siss_loss
from diffusion.methods.forget_retain_sets import SetBatches, Sets
from diffusion.methods.images.base import ImageFit
from diffusion.methods.images.importance_mixture import Mixed
from diffusion.pipelines import repeat
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import add_lora, base_model
from tests.diffusion.methods.conftest import (
    SMALL,
    Stop,
    adapters,
    make_denoiser,
    make_survey,
    numeric_gradient,
    same,
    stop_after,
)
from tests.diffusion.methods.images.test_primal_dual import make_images
from tests.marks import slow_but

BASELINES = {
    **{name: METHODS[name]() for name in ("esd", "esd-x", "neggrad", "siss", "erasediff")},
    "equal": FixedWeights(samples=4, noise_levels=1),
}


@pytest.mark.parametrize("name", slow_but(BASELINES, "esd-x", "erasediff", "equal"))
def test_resumed_run_ends_bit_equal(name, denoiser, estimate, solutions, tmp_path):
    settings, path = (
        FitConfig(max_train_steps=4, train_batch_size=4, rank=1, learning_rate=1e-2, seed=1),
        tmp_path / "fit.safetensors",
    )
    method = BASELINES[name]
    whole = method.fit(FitContext(denoiser, estimate, solutions["reverse"], settings))
    expected = adapters(denoiser)
    with pytest.raises(Stop):
        method.fit(
            FitContext(
                denoiser, estimate, solutions["reverse"], settings, checkpoint=path, every=2, progress=stop_after(3)
            )
        )
    resumed = method.fit(FitContext(denoiser, estimate, solutions["reverse"], settings, checkpoint=path, every=2))
    assert resumed.losses == whole.losses
    assert same(adapters(denoiser), expected)
    if name == "equal":
        np.testing.assert_allclose(whole.multipliers, solutions["reverse"].multipliers.mean())
        assert whole.levels.shape == (1, 2)
    else:
        assert np.isnan(whole.multipliers).all()


@pytest.mark.parametrize("name", slow_but(IMAGE_METHODS, *(set(IMAGE_METHODS) - {"primal-dual", "tilted"})))
def test_images_by_name(name):
    denoiser = make_denoiser("ddpm")
    images = make_images(denoiser)
    method = IMAGE_METHODS[name]()
    if isinstance(method, ImageFit):  # two rounds after the last step show what twenty would
        method = replace(method, noise_levels=2, repeats=2, extra=2)
    outcome = method.fit(
        ImageFitContext(denoiser, images, 1.0, FitConfig(max_train_steps=1, train_batch_size=3, rank=1))
    )
    assert outcome.levels.shape == outcome.errors.shape
    assert outcome.levels.shape[1] == 3  # after one step, and for some in rounds after it


def double(known_dtype=torch.float64):
    denoiser = make_denoiser()
    denoiser.network.double()
    return denoiser, make_survey(known_dtype)


def around(parameters):
    """A start away from B = 0, and a direction."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


def along(objective, parameters, direction):
    """The derivative of a step's loss along a direction: by autograd, and by central differences."""
    start = [parameter.detach().clone() for parameter in parameters]

    def value(shift):
        with torch.no_grad():
            for parameter, p, d in zip(parameters, start, direction, strict=True):
                parameter.copy_(p + shift * d)
        return objective(0, torch.Generator().manual_seed(2))

    gradients = torch.autograd.grad(value(0.0), parameters)
    exact = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    return exact, float((value(1e-5) - value(-1e-5)).detach()) / 2e-5


@pytest.mark.parametrize("rule", [NegGrad(0.7), SISS(0.5)], ids=["neggrad", "siss"])
def test_gradient_through_the_network(rule):
    denoiser, estimate = double()
    parameters = add_lora(denoiser, 1, 0)
    objective = rule.objective(denoiser, Sets.of_estimate(estimate), FitConfig(train_batch_size=4), parameters)
    exact, numeric = along(objective, parameters, around(parameters))
    assert exact == pytest.approx(numeric, rel=1e-4)
    assert abs(exact) > 1e-6


def test_esd_is_its_formula():
    denoiser, estimate = double()
    parameters = add_lora(denoiser, 1, 0, CROSS_ATTENTION)
    names = [name for name, p in denoiser.network.named_parameters() if p.requires_grad]
    assert names
    assert all("attn2" in name for name in names)
    objective = ESD(strength=0.7).objective(denoiser, estimate, FitConfig(train_batch_size=4))
    exact, numeric = along(objective, parameters, around(parameters))
    assert exact == pytest.approx(numeric, rel=1e-4)
    # with the adapters off, f = T: the loss is |(1 + eta) (T(x, c) - T(x))|^2
    seen = {}
    predict = denoiser.predict

    def watched(x, t, condition):
        seen["at"] = (x, t, condition)
        return predict(x, t, condition)

    denoiser.predict = watched
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    loss = float(objective(0, torch.Generator().manual_seed(2)).detach())
    x, t, condition = seen["at"]
    with base_model(denoiser):
        difference = predict(x, t, condition) - predict(x, t, repeat(denoiser.condition([""]), len(x)))
    assert loss == pytest.approx(float((1.7 * difference).square().mean()), rel=1e-9)


def test_siss_gradient_by_formula():
    """[-2 w_a (y_a - f) + 2 (1 + s) kappa w_u (y_u - f)] / ((1 - kappa) size), and finite differences."""
    generator = torch.Generator().manual_seed(0)
    f, y_a, y_u = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    w_a, w_u = (torch.rand(4, generator=generator, dtype=torch.float64) for _ in range(2))
    states = Mixed(f, y_a, y_u, w_a, w_u)
    f = f.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(siss_loss(f, states, 0.2, 0.5), f)
    formula = (-2 * w_a[:, None] * (y_a - f) + 2 * 1.5 * 0.2 * w_u[:, None] * (y_u - f)) / (0.8 * f.numel())
    np.testing.assert_allclose(gradient, formula.detach(), rtol=1e-12)
    numeric = numeric_gradient(lambda at: siss_loss(at, states, 0.2, 0.5), f.detach())
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_erasediff_takes_the_smallest_change_that_still_erases():
    """d = grad E_r + lam grad L_f solves min |d - grad E_r|^2 s.t. <d, grad L_f> >= eta |grad L_f|^2."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
        a, b = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2))
        kept, erased = (x - a).square().sum(), (x - b).square().sum()
        lam = EraseDiff(eta=0.3).multiplier(kept, erased, [x])
        one, two = 2 * (x - a).detach(), 2 * (x - b).detach()
        slack = float((one + lam * two) @ two - 0.3 * two @ two)
        assert slack >= -1e-9
        assert lam == 0 or abs(slack) < 1e-9


def test_erasediff_aims_at_outputs_that_mean_the_noise():
    """The target o has epsilon(o, x_t) = eps_f."""
    denoiser = make_denoiser()
    x0 = torch.randn(3, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    eps, noise = x0.flip(0), x0.abs()
    t = torch.tensor([10, 500, 900])
    signal, sigma = denoiser.schedule(t)
    goal = denoiser.target(x0, eps, t) + denoiser.slope(t) * (noise - eps)
    found = denoiser.epsilon(goal, signal * x0 + sigma * eps, t)
    np.testing.assert_allclose(found, noise, atol=1e-4)


def test_sets_hold_what_they_say(estimate):
    sets = Sets.of_estimate(estimate)
    assert all(estimate.prompts.asks_for(prompt) is not None for prompt in sets.forget_prompts)
    assert all(estimate.prompts.asks_for(prompt) is None for prompt in sets.retain_prompts)
    assert len(sets.forget) == len(sets.forget_prompts) == 12
    assert sets.share == pytest.approx(0.25)
    kept, forgotten = sets.pairs(5000, torch.Generator().manual_seed(0))
    assert int(kept.max()) < len(estimate.anchor)
    first = float((estimate.labels[estimate.labels < 2][forgotten] == 0).float().mean())
    assert first == pytest.approx(0.1 / 0.25, abs=0.03)
    denoiser = make_denoiser()
    forget, retain = SetBatches(denoiser, sets, FitConfig(train_batch_size=6))(torch.Generator().manual_seed(0))
    assert len(forget.x) == len(retain.x) == 3


def test_weights_by_hand(denoiser, estimate, solutions):
    given = FixedWeights((0.2, 0.1), samples=4, noise_levels=1)
    outcome = given.fit(
        FitContext(
            denoiser, estimate, solutions["likelihood"], FitConfig(max_train_steps=1, train_batch_size=3, rank=1)
        )
    )
    np.testing.assert_array_equal(outcome.multipliers, [[0.2, 0.1]] * 2)
    for wrong in ((0.1, 0.1, 0.1), (-0.1, 0.1)):
        with pytest.raises(ValueError, match="in the dual domain"):
            FixedWeights(wrong).fit(FitContext(denoiser, estimate, solutions["likelihood"], SMALL))
    with pytest.raises(ValueError, match="in the dual domain"):
        FixedWeights(0.6).fit(FitContext(denoiser, estimate, solutions["reverse"], SMALL))
    assert isinstance(OnImages(SISS()).rule, SISS)
    assert du.ReverseKL(1.0).domain(np.array([0.5]))
