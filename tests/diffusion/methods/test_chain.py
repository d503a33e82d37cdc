"""Cost along a stochastic chain: exact between Gaussians, never below what the chain's own samples show."""

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler

from diffusion.methods.chain import chain_of, path_cost
from diffusion.methods.likelihood import divergence
from diffusion.pipelines import denoiser_of, repeat
from diffusion.pipelines.sampling import sample_latents
from diffusion.pipelines.schedules import variance_preserving
from tests.diffusion import families
from tests.diffusion.methods.conftest import make_denoiser


class Exact:
    """A denoiser of numbers whose word on x_0 is a formula; inside ``plain`` it is the base's."""

    prompt_inputs = ("prompt",)
    sample_shape = (1,)

    def __init__(self, changed, base):
        self.changed, self.base, self.is_base = changed, base, False
        self.scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
        self.pipeline = SimpleNamespace(scheduler=self.scheduler)
        self.noising = variance_preserving(self.scheduler)
        self.levels, self.network = self.noising.levels, torch.nn.Linear(1, 1)

    def condition(self, prompts):
        return {"prompt": torch.zeros(len(prompts), 1)}

    def schedule(self, t):
        return (table[t].view(-1, 1).float() for table in (self.noising.signal, self.noising.noise))

    def predict(self, x, t, _condition):
        signal, noise = self.schedule(t)
        clean = (self.base if self.is_base else self.changed)(x, signal, noise)
        return (x - signal * clean) / noise

    def epsilon(self, output, _x, _t):
        return output

    @contextmanager
    def plain(self):
        self.is_base = True
        yield
        self.is_base = False


def normal(mean):
    """E[x_0 | x] of N(mean, 1)."""
    return lambda x, signal, _noise: mean + signal * (x - signal * mean)


MU = 1.3


@pytest.mark.parametrize("forward", [False, True])
def test_between_gaussians_it_is_the_kl_divergence_as_steps_grow(forward):
    denoiser = Exact(normal(MU), normal(0.0))
    costs = {}
    for steps in (40, 160):
        chain = replace(chain_of(denoiser, 14, steps), forward=forward)
        assert not chain.own
        value = path_cost(denoiser, [""] * 3, chain, seed=0, plain=denoiser.plain)
        # |difference| = mu noise^2 at every state, so every path costs the same sum.
        signal, noise = (np.asarray(table)[chain.t] for table in (denoiser.noising.signal, denoiser.noising.noise))
        expected = 0.5 * MU**2 * (np.diff((signal / noise) ** 2) * noise[:-1] ** 4).sum()
        np.testing.assert_allclose(value, expected, rtol=1e-4)
        costs[steps] = float(value.mean())
    kl = MU**2 / 2
    assert kl < costs[160] < costs[40]  # coarse steps cost more: an upper bound
    assert costs[160] == pytest.approx(kl, rel=0.05)  # (e^h - 1)/h at h = 15/160, and falling with h


def test_samples_of_the_chain_are_those_of_the_law():
    """With an exact denoiser the kernels lead to N(mu, 1): seen by the states that the base is asked about."""
    ends = []

    def watched(x, signal, noise):
        clean = normal(MU)(x, signal, noise)
        ends.append((float(signal[0]), x.clone()))
        return clean

    denoiser = Exact(watched, normal(0.0))
    path_cost(denoiser, [""] * 4000, chain_of(denoiser, 14, 100), seed=1, plain=denoiser.plain, batch=4000)
    signal, x = ends[-1]
    noise = (1 - signal**2) ** 0.5
    assert float(x.mean()) == pytest.approx(signal * MU, abs=4 / 4000**0.5)
    assert float(x.var()) == pytest.approx(signal**2 + noise**2, abs=0.1)


def mixture(k):
    """0.1 N(2, 0.25) + 0.9 N(-2, 0.25) under guidance of constant strength k away from the first."""

    def clean(x, signal, noise):
        var = 0.25 * signal**2 + noise**2
        means = [torch.full_like(x, m) for m in (2.0, -2.0)]
        logits = torch.stack(
            [np.log(w) - (x - signal * m) ** 2 / (2 * var) for w, m in zip((0.1, 0.9), means, strict=True)]
        )
        share = logits.softmax(0)
        each = [m + 0.25 * signal / var * (x - signal * m) for m in means]
        free = share[0] * each[0] + share[1] * each[1]
        return free + k * (free - each[0])

    return clean


def test_guidance_costs_at_least_what_its_samples_show():
    """Data processing: the path costs at least kl(share after, share before). Noised samples say less."""
    last = []

    def guided(x, signal, noise):
        clean = mixture(0.3)(x, signal, noise)
        last[:] = [clean.clone()]
        return clean

    denoiser = Exact(guided, mixture(0.0))
    n = 4000
    cost = path_cost(denoiser, [""] * n, chain_of(denoiser, 14), seed=2, plain=denoiser.plain, batch=n)
    made = last[0]
    share = float((made > 0).double().mean())
    assert 0 < share < 0.1
    least = share * np.log(share / 0.1) + (1 - share) * np.log((1 - share) / 0.9)
    error = float(cost.std()) / n**0.5
    assert float(cost.mean()) + 2 * error > least
    noised = divergence(denoiser, made, denoiser.condition([""] * n), levels=20, seed=3, plain=denoiser.plain)
    assert float(noised.mean()) < float(cost.mean())


def test_a_network_that_has_not_moved_costs_nothing_in_every_family():
    for family in families.FAMILIES:
        denoiser = make_denoiser(family)
        prompts = ["seven"] * 3 if denoiser.prompt_inputs else [""] * 3
        chain = chain_of(denoiser, 5, 4)
        from diffusion.training.lora import add_student

        add_student(denoiser, 1, 0)  # fresh adapters change nothing
        assert path_cost(denoiser, prompts, chain, seed=0).tolist() == [0.0] * 3
        if denoiser.prompt_inputs:  # another prompt is another law
            assert float(path_cost(denoiser, prompts, chain, seed=0, based_on="").min()) > 0


def test_ddpm_s_own_chain_is_the_sampler_s():
    """The steps of the chain are those of diffusers' scheduler, the last one, which adds no noise, left out."""
    pipeline = families.build(lambda: families.ddpm(DDPMPipeline))
    denoiser = denoiser_of(pipeline)
    chain = chain_of(denoiser, 5)
    assert chain.own
    assert chain.clip == 1.0
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(5)
    assert chain.t.tolist() == scheduler.timesteps.tolist()
    # |difference of step means|^2 / (2 variance) by diffusers itself, at one step, for two outputs at one state.
    generator = torch.Generator().manual_seed(0)
    x, one, two = (torch.randn(2, 3, 16, 16, generator=generator) for _ in range(3))
    t, after = (int(some) for some in chain.t[1:3])
    variance = float(scheduler._get_variance(t))
    means = [
        scheduler.step(out, t, x, generator=torch.Generator().manual_seed(1)).prev_sample for out in (one, two)
    ]  # common noise: what differs is the means
    expected = (means[0] - means[1]).double().square().flatten(1).sum(1) / (2 * variance)
    signal, noise = (value.flatten() for value in denoiser.schedule(torch.tensor([t, after])))
    clean = [((x - noise[0] * out) / signal[0]).clamp(-1, 1) for out in (one, two)]
    snr = (signal / noise).double() ** 2
    mine = 0.5 * (snr[1] - snr[0]) * (clean[0] - clean[1]).double().square().flatten(1).sum(1)
    np.testing.assert_allclose(mine, expected, rtol=1e-3)  # a float32 table, and differences of its entries
    assert not chain_of(denoiser_of(families.build(families.sd)), 5).own


def test_a_network_that_says_nan_is_named():
    denoiser = Exact(lambda x, *_: x * float("nan"), normal(0.0))
    with pytest.raises(FloatingPointError, match="along the chain"):
        path_cost(denoiser, [""], chain_of(denoiser, 5), seed=0, plain=denoiser.plain)


def test_batches_do_not_matter_for_who_is_asked():
    denoiser = make_denoiser()
    chain = chain_of(denoiser, 5, 3)
    value = path_cost(denoiser, ["one", "two"] * 3, chain, seed=0, based_on="one", batch=4)
    assert value[::2].tolist() == [0.0] * 3
    assert bool((value[1::2] > 0).all())
    assert len(sample_latents(denoiser.pipeline, ["one"], seed=0, steps=1)) == 1  # and the pipeline goes on working
    assert repeat({}, 3) == {}
