"""Samplers: step for step as diffusers does it, and in law as the mixture they reverse."""

from __future__ import annotations

import numpy as np
import pytest

from toy import samplers, schedules
from toy.distances import energy_distance
from toy.mixtures import Array, GaussianMixture, log_ratio
from toy.noised import NoisedMixture
from toy.paths import ReverseKernel, sample_paths

Q = GaussianMixture([0.3, 0.4, 0.3], [[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]], 0.5)
SKEW = GaussianMixture([0.6, 0.4], [[0.0, 0.0], [2.0, 1.0]], [[[1.0, 0.9], [0.9, 1.0]], [[0.5, 0.0], [0.0, 2.0]]])
SCHEDULE = schedules.linear()


def _chain_of_diffusers(scheduler: object, steps: int, start: Array, noises: Array, eta: float | None) -> Array:
    """diffusers' own steps on the exact score of Q, with the same noise, in double precision."""
    torch = pytest.importorskip("torch")
    scheduler.set_timesteps(steps)  # type: ignore[attr-defined]
    scheduler.alphas_cumprod = torch.tensor(SCHEDULE.alpha_bars)  # type: ignore[attr-defined]
    x = torch.tensor(start)
    for t, noise in zip(scheduler.timesteps, noises, strict=True):  # type: ignore[attr-defined]
        level = float(SCHEDULE.alpha_bars[int(t)])
        eps = torch.tensor(samplers.predicted_noise(Q.noised(level).score(x.numpy()), level))
        if eta is None:
            mean = scheduler.step(eps, t, x, generator=torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
            after = scheduler.previous_timestep(t)  # type: ignore[attr-defined]
            next_level = float(SCHEDULE.alpha_bars[int(after)]) if after >= 0 else 1.0
            drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
            scale = np.sqrt(max(samplers.ddpm_variance(level, next_level), 0.0))
            # diffusers draws its own noise: take it out, put ours in.
            x = mean.prev_sample - (scale * drawn if t > 0 else 0) + scale * torch.tensor(noise)
        else:
            x = scheduler.step(eps, t, x, eta=eta, variance_noise=torch.tensor(noise)).prev_sample  # type: ignore[attr-defined]
    return x.numpy()


@pytest.mark.parametrize("steps", [pytest.param(1000, marks=pytest.mark.slow), 50])
def test_ddpm_is_diffusers(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    generator = np.random.default_rng(1)
    start, noises = generator.normal(size=(16, 2)), generator.normal(size=(steps, 16, 2))
    peer = diffusers.DDPMScheduler(clip_sample=False, variance_type="fixed_small")
    x = start
    levels = SCHEDULE.levels(steps)
    for k in range(steps):
        now, after = float(levels[k]), float(levels[k + 1])
        x = samplers.ddpm_step(x, Q.noised(now).score(x), now, after, noises[k])
    # The peer clamps its variance at 1e-20 and adds no noise on the last step; asked for is 1e-6.
    np.testing.assert_allclose(x, _chain_of_diffusers(peer, steps, start, noises, None), atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_is_diffusers(eta: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    generator = np.random.default_rng(2)
    start, noises = generator.normal(size=(16, 2)), generator.normal(size=(50, 16, 2))
    peer = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    x = start
    levels = SCHEDULE.levels(50)
    for k in range(50):
        now, after = float(levels[k]), float(levels[k + 1])
        x = samplers.ddim_step(x, Q.noised(now).score(x), now, after, eta, noises[k])
    np.testing.assert_allclose(x, _chain_of_diffusers(peer, 50, start, noises, eta), atol=1e-6)


def test_eta_one_is_ddpm() -> None:
    generator = np.random.default_rng(3)
    x, noise = generator.normal(size=(2, 20, 2))
    score = Q.noised(0.3).score(x)
    one = samplers.ddim_step(x, score, 0.3, 0.5, 1.0, noise)
    np.testing.assert_allclose(one, samplers.ddpm_step(x, score, 0.3, 0.5, noise), rtol=1e-13)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "half", "ode"])
def test_draws_match_the_mixture(name: str) -> None:
    generator = np.random.default_rng(4)
    levels = SCHEDULE.levels(250)
    score = NoisedMixture(Q).score
    start = Q.noised(float(levels[0])).sample(600, generator)
    if name == "ode":
        x = samplers.sample_ode(score, float(levels[0]), start, rtol=1e-4)
    else:
        x = samplers.sample_ddim(score, levels, start, {"ddpm": 1.0, "ddim": 0.0, "half": 0.5}[name], generator)
    distance = energy_distance(x, Q.sample(600, generator), generator)
    assert distance.p_value > 0.01, distance
    # The test can fail: a mixture whose first mode has 12 points less weight is told apart.
    other = GaussianMixture([0.18, 0.52, 0.3], Q.means, 0.5).sample(600, generator)
    assert energy_distance(x, other, generator).p_value < 0.01


def test_ode_is_the_exact_map_of_a_gaussian() -> None:
    """For N(m, v) the flow maps x_t to m + sqrt(v/v_t)(x_t - sqrt(alpha) m): closed form."""
    q = GaussianMixture([1.0], [2.0], 0.3)
    start = np.linspace(-2, 2, 9)[:, None]
    x = samplers.sample_ode(NoisedMixture(q).score, 0.01, start, rtol=1e-9, least=1 - 1e-9)
    exact = 2 + np.sqrt(0.3 / (0.01 * 0.3 + 0.99)) * (start - 0.1 * 2)
    # The last jump E[x_0|x_t] errs by a relative sigma^2/(2 v) = 1e-9/.6; the rest is rtol.
    np.testing.assert_allclose(x, exact, rtol=2e-8)


def test_energy_distance_of_gaussians() -> None:
    """Against the closed form in one dimension, by numerical integration of 2 int (F - G)^2."""
    from scipy import stats

    generator = np.random.default_rng(5)
    x, y = generator.normal(size=(1500, 1)), 0.5 + generator.normal(size=(1500, 1))
    t = np.linspace(-9, 9, 4001)
    exact = 2 * np.sum((stats.norm.cdf(t) - stats.norm.cdf(t - 0.5)) ** 2) * (t[1] - t[0])
    found = energy_distance(x, y, generator)
    # Under the alternative the standard error is sqrt(4 Var h/n), h of order the shift: measured .02 here.
    assert abs(found.value - exact) < 0.06
    assert found.p_value <= 0.005
    with pytest.raises(ValueError, match="x, y: shapes"):
        energy_distance(x, np.zeros((5, 2)), generator)


def test_a_deal_that_is_the_given_one_counts_as_at_least_as_large() -> None:
    """Two and two points have three partitions: with the given one the largest, a third of the deals equals it."""
    x, y = np.array([[0.1], [0.3]]), np.array([[7.7], [9.1]])
    found = energy_distance(x, y, np.random.default_rng(7), permutations=3000)
    assert abs(found.p_value - 1 / 3) < 4 * np.sqrt(2 / 9 / 3000)


@pytest.mark.parametrize("levels", [(0.2, 0.7), (0.05, 1.0)])
def test_reverse_kernel_is_bayes(levels: tuple[float, float]) -> None:
    now, after = levels
    generator = np.random.default_rng(6)
    x_s = SKEW.noised(after).sample(50, generator)
    ratio = now / after
    x_t = np.sqrt(ratio) * x_s + np.sqrt(1 - ratio) * generator.normal(size=x_s.shape)
    forward = -np.square(x_t - np.sqrt(ratio) * x_s).sum(axis=1) / (2 * (1 - ratio)) - np.log(2 * np.pi * (1 - ratio))
    bayes = SKEW.noised(after).log_prob(x_s) + forward - SKEW.noised(now).log_prob(x_t)
    np.testing.assert_allclose(ReverseKernel(SKEW, now, after).log_prob(x_s, x_t), bayes, rtol=1e-11, atol=1e-11)


def test_exact_paths_end_in_q_and_their_ratio_is_that_of_the_end() -> None:
    generator = np.random.default_rng(7)
    levels = SCHEDULE.levels(40)
    paths = sample_paths(SKEW, [SKEW.component(0), Q], levels, 500, generator)
    clean = paths.states[-1]
    exact = np.stack([log_ratio(SKEW, one, clean) for one in (SKEW.component(0), Q)], axis=1)
    # 41 log densities of up to some hundred nats are added: 41 x 300 x 1e-16 ~ 1e-12, and 1e-9 leaves room for the
    # conditioning of the last kernel, whose variance is 1e-4.
    np.testing.assert_allclose(paths.log_ratios, exact, atol=1e-9)
    assert energy_distance(clean, SKEW.sample(500, generator), generator).p_value > 0.01


def test_free_log_ratio_is_unbiased_up_to_the_step() -> None:
    """Mean error falls in proportion to the step; each halving of the step halves it within three standard errors."""
    q = GaussianMixture([0.4, 0.6], [-1.0, 1.5], [0.5, 0.8])
    part = q.component(0)
    errors = []
    for steps in (100, 200, 400):
        # Equal steps in log-SNR from 1e-4 to 1e4, then the data: the step of a chain is what is halved.
        log_snr = np.linspace(-9.2, 9.2, steps)
        levels = np.append(1 / (1 + np.exp(-log_snr)), 1.0)
        generator = np.random.default_rng(8)
        start = q.noised(float(levels[0])).sample(4000, generator)
        scores = NoisedMixture(q).score, [NoisedMixture(part).score]
        found = samplers.free_log_ratios(*scores, levels, start, generator)
        difference = found.log_ratios[:, 0] - log_ratio(q, part, found.clean)
        errors.append((difference.mean(), difference.std() / np.sqrt(4000)))
    means, stderrs = np.array(errors).T
    assert means[0] < -5 * stderrs[0], errors
    for coarse in range(2):
        combined = np.hypot(0.5 * stderrs[coarse], stderrs[coarse + 1])
        assert abs(means[coarse + 1] - 0.5 * means[coarse]) < 4 * combined + 0.1 * abs(means[coarse]), errors


def test_bad_steps_say_what_is_wrong() -> None:
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="levels: alpha_bar increasing"):
        samplers.ddpm_step(x, x, 0.5, 0.3, x)
    with pytest.raises(ValueError, match="eta: a number"):
        samplers.ddim_step(x, x, 0.3, 0.5, 1.5, x)
    with pytest.raises(ValueError, match="next_alpha_bar"):
        ReverseKernel(Q, 0.5, 0.3)
    with pytest.raises(ValueError, match="at least two"):
        sample_paths(Q, Q.component(0), np.array([0.5]), 3, np.random.default_rng(0))
