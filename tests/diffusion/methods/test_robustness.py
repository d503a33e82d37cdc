"""The loss against found embeddings: zero where they mean the anchor already, and what lowering it does."""

import numpy as np
import pytest
import torch

from diffusion.methods.robustness import Adversary, KeptLaw, at_values, robust_objective
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.base import repeat
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


def test_the_loss_is_zero_for_the_anchor_itself_and_not_for_others(fitted):
    denoiser = fitted[0]
    generator = torch.Generator().manual_seed(0)
    assert float(objective_of(fitted, denoiser.condition([""]))(0, generator).detach()) == 0
    assert float(objective_of(fitted, found_in(denoiser))(0, generator).detach()) > 0


def test_kept_rows_count_as_soon_as_the_network_leaves_them(fitted):
    denoiser, parameters, _ = fitted
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


def test_the_gradient_is_that_of_the_distance(fitted):
    denoiser, parameters, _ = fitted
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
    settings = FitConfig(max_train_steps=25, train_batch_size=16, learning_rate=1e-2)
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
