"""The loss against found embeddings: zero where they mean the anchor already, and what lowering it does."""

import numpy as np
import pytest
import torch

from diffusion.methods.robustness import Adversary, KeptLaw, at_values, further, mixed, robust_objective
from diffusion.pipelines import add_noise, denoiser_of
from diffusion.pipelines.base import repeat
from diffusion.runtime.distributed import Part
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import add_lora
from diffusion.training.trainer import Trainer
from tests.diffusion import families
from tests.diffusion.families import build


@pytest.fixture
def fitted():
    """A tiny pipeline with adapters that do something, their parameters, and values of these."""
    denoiser = denoiser_of(build(families.sd))
    parameters = add_lora(denoiser, 2, 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return denoiser, parameters, [parameter.detach().clone() for parameter in parameters]


def samples(denoiser, count, seed):
    return torch.randn((count, *denoiser.sample_shape), generator=torch.Generator().manual_seed(seed))


def objective_of(fitted, found):
    denoiser, parameters, values = fitted
    some = Adversary(found, "", samples(denoiser, 5, 2), samples(denoiser, 7, 3))
    kept = KeptLaw(samples(denoiser, 6, 4), ("one", "", "one", "two", "", "two"))
    return robust_objective(denoiser, [some], kept, parameters, values, 16)


def found_in(denoiser, size=1.0):
    generator = torch.Generator().manual_seed(5)
    return {name: v + size * torch.randn(v.shape, generator=generator)
            for name, v in denoiser.condition(["seven", "eight"]).items()}  # fmt: skip


def test_the_loss_is_zero_for_the_anchor_itself_and_not_for_others(fitted, monkeypatch):
    denoiser = fitted[0]
    monkeypatch.setattr("diffusion.methods.robustness.WIDTH", 0.0)
    generator = torch.Generator().manual_seed(0)
    assert float(objective_of(fitted, denoiser.condition([""]))(0, generator).detach()) == 0
    assert float(objective_of(fitted, found_in(denoiser))(0, generator).detach()) > 0


def test_rows_lie_between_what_was_found_and_where_an_attack_would_go_on(fitted):
    """A mixture has its ends; a step off it has the length that it is given, goes down the slope, and is none at 0."""
    denoiser = fitted[0]
    found, anchor = found_in(denoiser), denoiser.condition(["", ""])
    name = denoiser.prompt_inputs[0]
    at = mixed(found, anchor, torch.tensor([1.0, 0.0]))
    assert torch.equal(at[name][0], found[name][0])
    torch.testing.assert_close(at[name][1], anchor[name][1])
    half = mixed(found, anchor, torch.full((2,), 0.5))[name]
    torch.testing.assert_close(half, (found[name] + anchor[name]) / 2)

    x0, eps = samples(denoiser, 2, 1), samples(denoiser, 2, 2)
    t = torch.tensor([denoiser.levels // 4, denoiser.levels // 2])
    x, y = add_noise(denoiser, x0, eps, t), denoiser.target(x0, eps, t)
    there = further(denoiser, (x, t, y), at, torch.tensor([0.25, 0.0]))
    moved = (there[name] - at[name]).square().mean((1, 2)).sqrt()
    assert moved.tolist() == [pytest.approx(0.25, rel=1e-4), 0.0]
    with torch.no_grad():
        before, after = (
            float((y - denoiser.predict(x, t, one)).square()[0].mean())
            for one in (at, further(denoiser, (x, t, y), at, torch.tensor([0.01, 0.0])))
        )
    assert after < before
    assert further(denoiser, (x, t, y), at, torch.zeros(2)) is at
    assert all(parameter.grad is None for parameter in fitted[1])


def test_the_parts_of_a_step_make_the_whole(fitted):
    """Rows move by themselves, so that a batch in parts has the loss of the batch."""
    denoiser = fitted[0]
    objective = objective_of(fitted, found_in(denoiser))
    whole = float(objective(0, torch.Generator().manual_seed(0)).detach())
    parts = [float(objective(0, torch.Generator().manual_seed(0), Part(k, 4)).detach()) for k in range(4)]
    assert np.mean(parts) == pytest.approx(whole, rel=1e-4)
    assert len(set(parts)) == 4


def test_kept_rows_count_as_soon_as_the_network_leaves_them(fitted, monkeypatch):
    denoiser, parameters, _ = fitted
    monkeypatch.setattr("diffusion.methods.robustness.WIDTH", 0.0)
    objective = objective_of(fitted, denoiser.condition([""]))
    parameters[-1].data += 0.5
    assert float(objective(0, torch.Generator().manual_seed(0)).detach()) > 0


def test_other_values_hold_inside_and_end_with_it_even_by_an_error(fitted):
    _, parameters, values = fitted
    own = [parameter.data_ptr() for parameter in parameters]
    with pytest.raises(KeyError), at_values(parameters, [torch.zeros_like(value) for value in values]):
        assert all(float(parameter.detach().abs().max()) == 0 for parameter in parameters)
        raise KeyError
    assert [parameter.data_ptr() for parameter in parameters] == own


def test_the_gradient_is_that_of_the_distance(fitted, monkeypatch):
    denoiser, parameters, _ = fitted
    monkeypatch.setattr("diffusion.methods.robustness.WIDTH", 0.0)  # a step off is taken as given, so has no part in it
    denoiser.network.double()
    values = [parameter.detach().clone() for parameter in parameters]
    parameters[0].data += 0.05
    some = [samples(denoiser, n, 2).double() for n in (5, 7, 4)]
    found = {name: value.double() for name, value in found_in(denoiser).items()}
    kept = KeptLaw(some[2], ("one", "", "one", "two"))
    objective = robust_objective(denoiser, [Adversary(found, "", *some[:2])], kept, parameters, values, 16)

    def loss():
        return objective(0, torch.Generator().manual_seed(3))

    (got,) = torch.autograd.grad(loss(), [parameters[0]])
    at, step = parameters[0].data.clone(), 1e-4
    index = np.unravel_index(int(got.abs().argmax()), got.shape)
    ends = []
    for sign in (1, -1):
        parameters[0].data = at.clone()
        parameters[0].data[index] += sign * step
        ends.append(float(loss().detach()))
    # Schedules are single: the states are the same in both, so central differences err by step^2 and eps/step.
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(float(got[index]), rel=1e-5)


def test_training_brings_found_embeddings_to_the_anchor_and_keeps_the_rest(fitted):
    denoiser, parameters, _ = fitted
    found = found_in(denoiser)
    x, t = samples(denoiser, 16, 9), torch.arange(16) * (denoiser.levels // 16)

    def said(condition):
        with torch.no_grad():
            return denoiser.predict(x, t, repeat(condition, 16))

    one = {name: value[:1] for name, value in found.items()}
    goal, kept = said(denoiser.condition([""])), said(denoiser.condition(["one"]))
    before = float((said(one) - goal).square().mean())
    settings = FitConfig(max_train_steps=30, train_batch_size=12, learning_rate=1e-2)
    trainer = Trainer(denoiser.network, parameters, objective_of(fitted, found), settings)
    trainer.run()
    trainer.finish()
    after = float((said(one) - goal).square().mean())
    moved = float((said(denoiser.condition(["one"])) - kept).square().mean())
    assert after < before
    assert moved < before - after


def test_what_does_not_fit_is_refused(fitted):
    denoiser, parameters, values = fitted
    with pytest.raises(ValueError, match="one each, got 3, 2"):
        KeptLaw(samples(denoiser, 3, 0), ("one", "two"))
    some = Adversary(denoiser.condition(["x"]), "", samples(denoiser, 2, 0), samples(denoiser, 2, 1))
    with pytest.raises(ValueError, match="batch must be at least 2"):
        robust_objective(denoiser, [some], KeptLaw(samples(denoiser, 1, 0), ("",)), parameters, values, 1)
