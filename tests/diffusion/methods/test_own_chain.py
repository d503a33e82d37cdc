"""Distillation along the student's own chain: what is asked for, where it is looked at, and that a run is resumed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.methods.chain import chain_of, chain_step, nats
from diffusion.methods.guided_tilt import DECIDED
from diffusion.methods.own_chain import SEEN, Pool, Walkers, doob, own_chain_objective
from diffusion.pipelines import denoiser_of, rows
from diffusion.pipelines.base import predicted_x0
from diffusion.ratios.classifier import log_snr
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.runtime.seeds import seeded_weights
from diffusion.training.lora import base_model
from diffusion.training.trainer import Trainer
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.methods.test_guided_tilt import SMALL, data_of, fresh, noised_detector_of

COUNT = 12


@pytest.fixture(scope="module")
def denoiser():
    return denoiser_of(build(families.sd))


def none(eta, _asked):
    """log h of a target that is the base model's law."""
    return 0 * eta[:, 0]


def some(eta, _asked):
    return torch.log1p(-0.9 * eta[:, 0])


def objective_of(denoiser, scales, moving, log_h, pool=None):
    data, pool = data_of(denoiser, scales, moving), pool or Pool()
    walkers = Walkers(data, chain_of(denoiser, 2, 10), COUNT, pool.tensors)
    with seeded_weights(0):
        head = noised_detector_of(denoiser)
    return own_chain_objective(data, head, log_h, walkers), walkers


levels = st.lists(st.tuples(st.floats(0.05, 0.9), st.floats(1.01, 3)), min_size=1, max_size=4)


@given(levels)
def test_a_step_of_several_chains_is_a_step_of_each(given_levels):
    signal = torch.tensor([[s, min(s * ratio, 0.95)] for s, ratio in given_levels]).T
    noise = (1 - signal.square()).sqrt()
    generator = torch.Generator().manual_seed(0)
    x, clean, fresh_noise = torch.randn(3, len(given_levels), 2, 3, 3, generator=generator)
    together = chain_step(x, clean, fresh_noise, (signal, noise))
    for k in range(len(given_levels)):
        one = slice(k, k + 1)
        alone = chain_step(x[one], clean[one], fresh_noise[one], (signal[:, k], noise[:, k]))
        torch.testing.assert_close(together[one], alone, rtol=0, atol=0)


def test_the_change_is_the_slope_of_log_h_in_units_of_x0(denoiser):
    fresh(denoiser)
    head = noised_detector_of(denoiser)
    t = torch.full((2,), int((log_snr(denoiser, torch.arange(1, denoiser.levels)) + 2).abs().argmin()) + 1)
    x = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(3))
    c, data = torch.tensor([0, 1]), data_of(denoiser, [1.0, 1.0], False)

    def value(at):
        seen = []

        def log_h(eta, asked):
            seen.append(some(eta, asked))
            return seen[0]

        base, change, _ = doob(denoiser, head, log_h, at, t, rows(data.anchors, c), c)
        return seen[0].detach().double(), base, change

    _, base, change = value(x)
    with base_model(denoiser):
        torch.testing.assert_close(base, denoiser.predict(x, t, rows(data.anchors, c)))
    signal, noise = denoiser.schedule(t)
    slope = change * signal / noise**2
    size = slope.flatten(1).norm(dim=1)
    assert (size > 0).all()
    small = 0.05
    step = small * slope / size.view(-1, 1, 1, 1)
    found = (value(x + step)[0] - value(x - step)[0]) / (2 * small)
    # Differences of float32 values of order one, and what is left of third order in the step.
    torch.testing.assert_close(found.float(), size, rtol=0.05, atol=0)


def test_nothing_is_asked_where_nothing_is_seen_or_all_is_decided(denoiser):
    fresh(denoiser)
    every = log_snr(denoiser, torch.arange(1, denoiser.levels))
    t = torch.stack([(every < SEEN[0]).nonzero().max(), (every > DECIDED[1]).nonzero().min()]) + 1
    x = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(3))
    c, data = torch.tensor([0, 1]), data_of(denoiser, [1.0, 1.0], False)
    _, change, _ = doob(denoiser, noised_detector_of(denoiser), some, x, t, rows(data.anchors, c), c)
    assert not change.any()


@pytest.mark.parametrize(("scales", "moving"), [([1.0, 1.0], False), ([3.0, 1.0], True), ([3.0, 3.0], False)])
def test_a_target_that_is_the_base_model_leaves_it_as_it_is(denoiser, scales, moving):
    fresh(denoiser)
    objective, _ = objective_of(denoiser, scales, moving, none)
    loss = objective(0, torch.Generator().manual_seed(1))
    # Both sides are one network: float32 sums of another order, s times over.
    assert abs(float(loss.detach())) < (10 * 256 * torch.finfo(torch.float32).eps) ** 2
    asked, _ = objective_of(denoiser, scales, moving, some)
    assert float(asked(0, torch.Generator().manual_seed(1)).detach()) > 1e-9


@pytest.mark.parametrize(("scales", "moving"), [([3.0, 1.0], True), ([3.0, 3.0], False)])
def test_the_loss_is_what_the_sampler_sees_in_nats_of_the_chain(denoiser, scales, moving):
    """By the plain formula of classifier-free guidance, for a student whose both branches have moved."""
    fresh(denoiser, 0.3)
    objective, walkers = objective_of(denoiser, scales, moving, none)
    generator = torch.Generator().manual_seed(1)
    walkers.begin(generator)
    x, c, k = (value.clone() for value in walkers.now)
    loss = float(objective(0, generator).detach())
    t, s = walkers.chain.t[k], torch.tensor(scales)[c].view(-1, 1, 1, 1)
    data = walkers.data
    empty = {name: value.expand(COUNT, *value.shape[1:]) for name, value in data.negative.items()}

    def sampled():
        with torch.no_grad():
            free = denoiser.predict(x, t, empty)
            return free, free + s * (denoiser.predict(x, t, rows(data.asked, c)) - free)

    free, student = sampled()
    with base_model(denoiser):
        held, base = sampled()
    # A branch that is nobody's prompt and has moved all the same counts by itself.
    wanted = student - base
    paid = nats(denoiser, t).view(-1, 1, 1, 1)
    expected = (paid * wanted.square()).mean()
    if not moving:
        expected = expected + (paid * (free - held).square()).mean()
    assert loss == pytest.approx(float(expected), rel=1e-4)
    # And the chains go on by the student's word.
    clean = predicted_x0(denoiser, student, x, t)
    signal, noise = (value.flatten() for value in denoiser.schedule(walkers.chain.t))
    again = torch.Generator().manual_seed(1)
    walkers_again = Walkers(data, walkers.chain, COUNT, Pool().tensors)
    walkers_again.begin(again)
    fresh_noise = torch.randn(x.shape, generator=again)
    moved, prompts, steps = walkers.now
    for j in range(COUNT):
        if k[j] + 1 < walkers.chain.steps:
            at = slice(int(k[j]), int(k[j]) + 2)
            one = chain_step(x[j : j + 1], clean[j : j + 1], fresh_noise[j : j + 1], (signal[at], noise[at]))
            torch.testing.assert_close(moved[j : j + 1], one, rtol=1e-4, atol=1e-4)
            assert (int(prompts[j]), int(steps[j])) == (int(c[j]), int(k[j]) + 1)
        else:
            assert int(steps[j]) == 0
            torch.testing.assert_close(moved[j], fresh_noise[j], rtol=0, atol=0)


def test_chains_are_spread_over_all_noise_levels_and_stay_so(denoiser):
    fresh(denoiser)
    objective, walkers = objective_of(denoiser, [1.0, 1.0], False, none)
    for step in range(walkers.chain.steps + 1):
        objective(step, torch.Generator().manual_seed(step))
        assert np.bincount(walkers.now[2].numpy(), minlength=walkers.chain.steps).max() <= 2


def fitted(denoiser, pool, steps, checkpoint=None, until=None):
    parameters = fresh(denoiser)
    objective, _ = objective_of(denoiser, [3.0, 1.0], True, some, pool)
    settings = SMALL.but(max_train_steps=steps)
    trainer = Trainer(denoiser.network, parameters, objective, settings, checkpoint=checkpoint, every=2, state=pool)
    trainer.run(until)
    return [parameter.detach().clone() for parameter in parameters], trainer.losses


def test_a_resumed_run_ends_bit_equal(denoiser, tmp_path):
    whole, losses = fitted(denoiser, Pool(), 6)
    fitted(denoiser, Pool(), 6, tmp_path / "fit.safetensors", until=4)
    again, resumed = fitted(denoiser, Pool(), 6, tmp_path / "fit.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert losses == resumed
    # What it depends on: without the chains it would not.
    fitted(denoiser, Pool(), 6, tmp_path / "other.safetensors", until=4)
    forgotten = Pool()
    forgotten.load = lambda _tensors, _data: None
    other, _ = fitted(denoiser, forgotten, 6, tmp_path / "other.safetensors")
    assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


@pytest.mark.parametrize(("scales", "moving"), [([1.0, 1.0], False), ([3.0, 1.0], True)])
def test_a_step_down_the_gradient_lowers_the_loss_at_the_same_states(denoiser, scales, moving):
    parameters = fresh(denoiser, 0.1)

    def loss():
        objective, _ = objective_of(denoiser, scales, moving, lambda eta, _asked: -40 * eta[:, 0])
        return objective(0, torch.Generator().manual_seed(1))

    before = loss()
    slopes = torch.autograd.grad(before, parameters)
    square = sum(float(slope.square().sum()) for slope in slopes)
    share = 0.05  # of the loss, by the first order
    with torch.no_grad():
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter -= share * before.detach() / square * slope
    fallen = 1 - float(loss().detach()) / float(before.detach())
    # Of a branch without prompt that moves by its own tilt no gradient is taken under other prompts.
    assert (0 if moving else share / 2) < fallen < 2 * share


def loss_of(denoiser, gain=None, **changed):
    """Of a student that is the base model, at the same states."""
    fresh(denoiser)
    data = replace(data_of(denoiser, [3.0, 3.0], False), **changed)
    walkers = Walkers(data, chain_of(denoiser, 2, 10), COUNT, Pool().tensors)
    with seeded_weights(0):
        head = noised_detector_of(denoiser)
    objective = own_chain_objective(data, head, some, walkers, gain)
    return float(objective(0, torch.Generator().manual_seed(1)).detach())


def test_the_change_is_asked_for_as_often_as_the_gain_says(denoiser):
    assert loss_of(denoiser, lambda: 3.0) == pytest.approx(9 * loss_of(denoiser), rel=1e-4)


def test_prompts_count_by_the_law_however_often_their_chains_are_looked_at(denoiser):
    first, second = (torch.tensor([a, b] * 6, dtype=torch.float64) for a, b in ((1, 0), (0, 1)))
    whole = loss_of(denoiser)
    parts = [loss_of(denoiser, target=each) for each in (first, second)]
    assert min(parts) > 0
    assert whole == pytest.approx(sum(parts) / 2, rel=1e-4)
    # Ten times as often, or as dear: the ratio of what counts to what is chosen.
    cautious = loss_of(denoiser, target=first + 10 * second)
    assert cautious == pytest.approx((parts[0] + 10 * parts[1]) / 11, rel=1e-4)


def test_a_chain_is_asked_under_versions_of_its_prompt(denoiser):
    data = data_of(denoiser, [3.0, 3.0], False)
    doubled = {name: torch.cat([value, value.flip(0)]) for name, value in data.asked.items()}
    seen = []

    def asking(laws, _generator):
        seen.append(laws)
        return laws + 2

    swapped = {"asked": doubled, "anchors": doubled}
    assert loss_of(denoiser, asking=asking, **swapped) != loss_of(denoiser, **swapped)
    assert len(seen) == 1
    assert len(seen[0]) == COUNT


def test_parts_of_a_batch_are_under_the_versions_that_the_whole_is(denoiser):
    """Two processes take a half each, and draw what one draws."""
    fresh(denoiser)
    data = data_of(denoiser, [3.0, 3.0], False)
    asked = {name: torch.cat([value, value.flip(0)]) for name, value in data.asked.items()}

    def asking(laws, generator):
        return laws + 2 * torch.randint(2, laws.shape, generator=generator)

    data = replace(data, asked=asked, anchors=asked, asking=asking)
    with seeded_weights(0):
        head = noised_detector_of(denoiser)
    found = []
    for part in (WHOLE, Part(0, 2), Part(1, 2)):
        walkers = Walkers(data, chain_of(denoiser, 2, 10), COUNT, Pool().tensors)
        generator = torch.Generator().manual_seed(1)
        loss = float(own_chain_objective(data, head, some, walkers)(0, generator, part).detach())
        found.append((loss, torch.randint(2**40, (1,), generator=generator).item()))
    assert found[0][0] == pytest.approx((found[1][0] + found[2][0]) / 2, rel=1e-4)
    assert len({drawn for _, drawn in found}) == 1
