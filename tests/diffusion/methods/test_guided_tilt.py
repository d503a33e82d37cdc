"""Tilts under classifier-free guidance: what the loss is least at, and what each branch of a network is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.methods import guided_tilt
from diffusion.methods.chain import Chain, nats, path_cost
from diffusion.methods.closed_form import CAUTION
from diffusion.methods.detected_batches import batches_of, still_of
from diffusion.methods.guided_tilt import DECIDED, PromptBatches, guided_loss, guided_objective, undecided
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.base import predicted_x0
from diffusion.ratios.classifier import features, log_snr
from diffusion.ratios.detected import DetectedSamples
from diffusion.ratios.noised_detector import NoisedDetector, train_noised_detector
from diffusion.tasks.config import FitConfig, RatiosConfig, Sampling
from diffusion.tasks.prompts import Prompts
from diffusion.training.lora import add_lora, base_model
from tests.diffusion import families
from tests.diffusion.families import build

numbers = st.floats(-3, 3)


@given(st.lists(st.tuples(st.floats(0.05, 1), numbers), min_size=2, max_size=8), numbers, st.floats(1, 9))
def test_the_loss_is_least_at_the_covariance_over_the_mean_whatever_the_base_says(samples, base, s):
    """Of one state with several samples behind it: F - T = s e = Cov(w, y)/E[w]."""
    w, y = (torch.tensor(column, dtype=torch.float64) for column in zip(*samples, strict=True))
    wbar = w.mean().expand(len(w))
    best = ((w * y).mean() - w.mean() * y.mean()) / w.mean() / s
    e = best.clone().requires_grad_()
    scale, pull = torch.tensor([s], dtype=w.dtype), ((w - wbar) * (y - base)).mean().view(1, 1)
    one = torch.ones(1, dtype=w.dtype)
    loss = guided_loss(e.expand(1, 1), pull, w.mean()[None], scale, one)
    (slope,) = torch.autograd.grad(loss, e)
    # Sums of at most 8 products of numbers below 10, divided by weights of at least .05.
    assert abs(float(slope.detach())) < 8 * 100 * 20 * 64 * np.finfo(float).eps
    elsewhere = guided_loss((best + 0.1).expand(1, 1), pull, w.mean()[None], scale, one)
    assert float(elsewhere.detach()) > float(loss.detach())


@pytest.mark.parametrize("name", ["sd", "sd3", "ddpm"])
def test_a_change_of_the_output_is_counted_in_nats_of_the_chain(name):
    """1/2 dSNR |dx_0|^2 of a chain with small steps, over 1/2 dlog SNR |change|^2."""
    denoiser = denoiser_of(build(getattr(families, name)))
    t = torch.tensor([denoiser.levels // 10, denoiser.levels // 2, denoiser.levels * 9 // 10])
    x, said, change = torch.randn(3, 3, *denoiser.sample_shape, generator=torch.Generator().manual_seed(0))
    moved = predicted_x0(denoiser, said + change, x, t) - predicted_x0(denoiser, said, x, t)
    cost = log_snr(denoiser, t).exp() * moved.square().flatten(1).sum(1)
    torch.testing.assert_close(nats(denoiser, t), cost / change.square().flatten(1).sum(1), rtol=1e-3, atol=0)


def test_what_is_decided_fades_out():
    low, high = DECIDED
    found = undecided(torch.tensor([-12.0, low, (low + high) / 2, high, 12.0]))
    assert found.tolist() == [1, 1, 0.5, 0, 0]


@pytest.fixture(scope="module")
def denoiser():
    return denoiser_of(build(families.sd))


PROMPTS = ["one", ""]


def data_of(denoiser, scales, moving, n=12):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(n, *denoiser.sample_shape, generator=generator)
    shares = torch.full((n,), 1 / n, dtype=torch.float64)
    condition = denoiser.condition(PROMPTS)
    return PromptBatches(
        denoiser, latents, torch.arange(n) % 2, condition, condition, denoiser.condition([""]), torch.tensor(scales),
        moving, shares, shares,
    )  # fmt: skip


def noised_detector_of(denoiser, detectors=1):
    x = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1))
    width = features(denoiser, x, torch.tensor([1, 2]), denoiser.condition(PROMPTS)).shape[1]
    return NoisedDetector(width, detectors).eval()


SMALL = FitConfig(max_train_steps=2, train_batch_size=12, rank=2)


def fresh(denoiser, spread=0.0):
    parameters = add_lora(denoiser, 2, 0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return parameters


def gradient(denoiser, scales, moving, logs, bar):
    """Loss and the norm of its gradient at a student that is the base model."""
    parameters = fresh(denoiser)
    objective = guided_objective(
        data_of(denoiser, scales, moving),
        noised_detector_of(denoiser),
        lambda: logs,
        lambda eta, _asked: eta[:, 0] * 0 + bar,
        SMALL,
    )
    loss = objective(0, torch.Generator().manual_seed(2))
    loss.backward()
    norms = [float(p.grad.norm()) for p in parameters if p.grad is not None]
    return float(loss.detach()), sum(norm**2 for norm in norms) ** 0.5


@pytest.mark.parametrize(("scales", "moving"), [([1.0, 1.0], False), ([3.0, 1.0], True), ([3.0, 3.0], False)])
def test_weights_of_one_leave_the_base_model_as_it_is_and_others_move_it(denoiser, scales, moving):
    loss, still = gradient(denoiser, scales, moving, torch.zeros(12), 0.0)
    # Student and base model are one network, asked in batches of different size: float32 sums of another order.
    assert abs(loss) < (256 * torch.finfo(torch.float32).eps) ** 2
    _, moved = gradient(denoiser, scales, moving, torch.linspace(-3, 0, 12), -1.0)
    assert moved > 1e-3
    assert still < 1e-3 * moved


def test_e_is_what_the_sampler_sees_over_the_scale(denoiser, monkeypatch):
    """Recomputed with the plain formula of classifier-free guidance, for a student whose both branches have moved."""
    fresh(denoiser, 0.3)
    seen = {}

    def keep(e, pull, w, s, count):
        seen.update(e=e.detach(), s=s)
        return e.square().mean()

    asked = []
    predict = denoiser.predict

    def watched(x, t, condition):
        asked.append((x, t, condition))
        return predict(x, t, condition)

    monkeypatch.setattr(guided_tilt, "guided_loss", keep)
    monkeypatch.setattr(denoiser, "predict", watched, raising=False)
    data = data_of(denoiser, [3.0, 1.0], True)
    objective = guided_objective(
        data, noised_detector_of(denoiser), lambda: torch.zeros(12), lambda eta, _asked: eta[:, 0] * 0, SMALL
    )
    asked.clear()  # the noised detector was made by a call as well
    objective(0, torch.Generator().manual_seed(2))
    monkeypatch.setattr(denoiser, "predict", predict)
    x, t, condition = asked[0]
    empty = {name: value.expand(len(x), *value.shape[1:]) for name, value in denoiser.condition([""]).items()}

    def sampled():
        with torch.no_grad():
            free, own = predict(x, t, empty), predict(x, t, condition)
        scale = seen["s"].view(-1, *(1,) * (x.ndim - 1))
        return torch.where(scale > 1, free + scale * (own - free), own), scale

    student, scale = sampled()
    with base_model(denoiser):
        base, _ = sampled()
    assert set(seen["s"].tolist()) == {1.0, 3.0}
    torch.testing.assert_close(seen["e"], (student - base) / scale, rtol=1e-4, atol=1e-5)


def test_a_branch_that_must_not_move_is_held(denoiser):
    fresh(denoiser, 0.3)
    data = data_of(denoiser, [3.0, 3.0], False)
    with_held = guided_objective(
        data, noised_detector_of(denoiser), lambda: torch.zeros(12), lambda eta, _asked: eta[:, 0] * 0, SMALL
    )
    assert float(with_held(0, torch.Generator().manual_seed(2)).detach()) > 0


def samples_of(denoiser, prompts):
    rows = torch.arange(len(prompts)).repeat_interleave(5)
    latents = torch.zeros(len(rows), *denoiser.sample_shape)
    detected = (torch.arange(len(rows)) % 5 == 0).double()[:, None]
    sampling = Sampling(num_inference_steps=2, guidance_scale=3)
    return DetectedSamples(
        prompts,
        ("seven",),
        rows,
        latents,
        detected,
        noised_detector_of(denoiser),
        (None,),
        "",
        RatiosConfig(),
        sampling,
    )


def test_rows_count_by_the_law_and_anchored_prompts_for_a_third_at_least(denoiser):
    law = Prompts([{"prompt": "seven", "anchor": ""}, {"prompt": "one", "weight": 2}, {"prompt": "", "weight": 7}])
    data = batches_of(denoiser, samples_of(denoiser, law), torch.zeros(15, dtype=torch.float64))
    masses = torch.bincount(data.prompts, weights=data.target)
    # The weights are all alike: prompts without an anchor are to stay as they are, and harm there counts.
    np.testing.assert_allclose(masses, [1 / 3, CAUTION * 2 / 3 * 2 / 9, CAUTION * 2 / 3 * 7 / 9])
    plain_count = batches_of(denoiser, samples_of(denoiser, law), torch.zeros(15, dtype=torch.float64), 1.0)
    masses = torch.bincount(plain_count.prompts, weights=plain_count.target)
    np.testing.assert_allclose(masses, [1 / 3, 2 / 3 * 2 / 9, 2 / 3 * 7 / 9])
    np.testing.assert_allclose(float(data.shares.sum()), 1)
    assert data.scales.tolist() == [3.0, 3.0, 1.0]
    assert data.moving
    plain = Prompts(["two", {"prompt": "one", "weight": 2}])
    weights = torch.tensor([-3.0, 0, 0, 0, 0] * 2, dtype=torch.float64)
    data = batches_of(denoiser, samples_of(denoiser, plain), weights)
    np.testing.assert_allclose(torch.bincount(data.prompts, weights=data.target), [1 / 3, 2 / 3])
    assert not data.moving
    # Samples whose weight is unusual are chosen more often than they count, the others less.
    assert (data.shares > data.target).tolist() == [True, False, False, False, False] * 2


def test_a_prompt_stays_where_it_has_no_anchor_and_its_samples_are_weighed_alike(denoiser):
    law = Prompts([{"prompt": "seven", "anchor": ""}, "one", "two"])
    weights = torch.tensor([0.0] * 5 + [-3.0] * 5 + [-3.0, 0, 0, 0, 0], dtype=torch.float64)
    samples = samples_of(denoiser, law)
    assert still_of(samples, weights).tolist() == [False, True, False]
    data = batches_of(denoiser, samples, weights)
    np.testing.assert_allclose(torch.bincount(data.prompts, weights=data.target), [1 / 3, CAUTION / 3, 1 / 3])


def test_few_samples_of_a_prompt_do_not_show_that_it_stays_where_others_of_its_group_show_the_concept(denoiser):
    weights = torch.tensor([0.0] * 5 + [-3.0, 0, 0, 0, 0] + [0.0] * 5, dtype=torch.float64)
    alone = Prompts(["garment", "cloth", "one"])
    assert still_of(samples_of(denoiser, alone), weights).tolist() == [True, False, True]
    grouped = Prompts([{"prompt": "garment", "group": "a"}, {"prompt": "cloth", "group": "a"}, {"prompt": "one"}])
    assert still_of(samples_of(denoiser, grouped), weights).tolist() == [False, False, True]
    # What is never asked has no samples, and shows nothing for or against its group.
    unasked = Prompts([*grouped.prompts, {"prompt": "two", "weight": 0}])
    samples = samples_of(denoiser, grouped)
    assert still_of(replace(samples, prompts=unasked), weights).tolist()[:3] == [False, False, True]


def test_a_noised_detector_learns_soft_labels():
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(4000, 64, generator=generator)
    soft = (feature[:, :2] * 2).sigmoid()
    noised_detector = train_noised_detector(feature, torch.zeros(4000), soft, steps=150, seed=1)
    with torch.no_grad():
        said = noised_detector(feature, torch.zeros(4000))
    assert said.shape == (4000, 2)
    assert float((said - soft).abs().mean()) < 0.1
    assert float((soft - soft.mean(0)).abs().mean()) > 0.2
    again = train_noised_detector(feature, torch.zeros(4000), soft, steps=2, seed=1)
    same = train_noised_detector(feature, torch.zeros(4000), soft, steps=2, seed=1)
    assert torch.equal(again.members[0]["enter"].weight, same.members[0]["enter"].weight)


def test_cost_along_a_guided_chain(denoiser):
    """At scale 1 as before; under the empty prompt any scale is none; elsewhere it grows with the scale."""
    fresh(denoiser, 0.3)
    levels = torch.tensor([800, 500, 200])

    def cost(prompts, **guided):
        return path_cost(denoiser, prompts, Chain(levels, False, **guided), seed=3)

    plain = cost(["one", "one"])
    assert torch.equal(cost(["one", "one"], scale=1.0), plain)
    torch.testing.assert_close(cost(["", ""], scale=3.0), cost(["", ""]), rtol=1e-4, atol=1e-6)
    assert float(cost(["one", "one"], scale=6.0).mean()) > float(plain.mean()) > 0
    one = path_cost(denoiser, ["one", ""], Chain(levels, False, scale=3.0), seed=3, based_on=["", ""])
    other = path_cost(denoiser, ["one", ""], Chain(levels, False, scale=3.0), seed=3, based_on="")
    assert torch.equal(one, other)
