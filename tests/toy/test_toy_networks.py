"""The score network: what it learns, what it loses, and the alternating algorithm on it."""

from __future__ import annotations

import numpy as np
import pytest

import duality as du
import toy

torch = pytest.importorskip("torch")

from duality.primal_dual import Ascent, PrimalDual
from toy import networks
from toy.mixtures import GaussianMixture
from toy.noised import NoisedMixture

MADE = toy.example("overlapping")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_untrained_network_is_exact_for_a_gaussian() -> None:
    """The linear part is the score of N(mean, variance I); single precision."""
    q = GaussianMixture([1.0], [[1.0, -2.0]], 0.7)
    network = networks.network_for(q, width=8)
    x = q.noised(0.4).sample(20, np.random.default_rng(0))
    np.testing.assert_allclose(network.score(x, 0.4), q.noised(0.4).score(x), rtol=1e-5, atol=1e-5)


def test_seed_decides_the_first_weights_and_leaves_the_global_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = (networks.network_for(MADE.pretrained, width=8, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_path_divergence_of_gaussians_is_their_divergence() -> None:
    """KL(N(0, I)||N(mu, I)) = |mu|^2/2: for unit covariances the integrand is |mu|^2 alpha_bar(1-alpha_bar)/2."""
    q, part = GaussianMixture([1.0], [[0.0, 0.0]], 1.0), GaussianMixture([1.0], [[1.0, 0.5]], 1.0)
    generator = np.random.default_rng(1)
    scores = NoisedMixture(q).score, NoisedMixture(part).score
    found = networks.path_divergence(*scores, q.sample(50, generator), networks.noise_levels(48), generator)
    # No scatter; outside log-SNR +-8 lies 2/(1 + e^8) = 7e-4 of the integral. The trapezoid rule adds h^2/12 times the
    # jump of the integrand's slope, 2 e^-8: relatively 7e-6 at h = 16/47.
    assert abs(found.value / 0.625 - (1 - 2 / (1 + np.exp(8)))) < 8e-6
    assert found.stderr < 1e-12


def test_path_divergence_of_mixtures_is_their_divergence() -> None:
    q, part = MADE.pretrained, MADE.unlearn[0]
    generator = np.random.default_rng(2)
    x = q.sample(4000, generator)
    scores = NoisedMixture(q).score, NoisedMixture(part).score
    found = networks.path_divergence(*scores, x, networks.noise_levels(48), generator)
    nodes = toy.grid(q, part)
    assert nodes.log_weights is not None
    exact = float(-np.exp(nodes.log_weights) @ toy.log_ratio(q, part, nodes.points))
    assert abs(found.value - exact) < 4 * found.stderr + 0.005 * exact


def test_training_lowers_the_divergence_from_the_target() -> None:
    answer = toy.solve(MADE.problems[1], MADE.pretrained, MADE.unlearn)
    few, many = networks.parameterisation_gap(answer, [24], [20, 500], draws=300)
    assert many.divergence + 3 * many.stderr < few.divergence - 3 * few.stderr


def test_tilted_draws_are_the_target() -> None:
    answer = toy.solve(MADE.problems[2], MADE.pretrained, MADE.unlearn)
    generator = np.random.default_rng(2)
    x = MADE.pretrained.sample(20_000, generator)
    weight = networks.tilt_probabilities(answer, x)
    posterior = 0.35 * np.exp(answer.log_ratio(x)[:, 0])
    # The tilted mean of the posterior is the level asked for; its standard error from 20,000 draws.
    error = np.sqrt(np.sum(np.square(weight * (posterior - 0.1))))
    assert abs(weight @ posterior - 0.1) < 5 * error


def test_a_player_answers_to_multipliers_and_keeps_them_out_of_the_loss() -> None:
    problem = du.Likelihood(np.array([0.1]), priors=np.array([0.35]))
    network = networks.network_for(MADE.pretrained, width=16)
    player = networks.NetworkPlayer(problem, MADE.pretrained, MADE.unlearn, network, inner=150, draws=400, pool=4000)
    player.step(np.array([0.0]))
    before = player.levels()
    first = player.stderr.copy()
    for _ in range(3):
        player.step(np.array([8.0]))
    after = player.levels()
    assert after[0] + 3 * player.stderr[0] < before[0] - 3 * first[0]


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1, 2], ids=["RU", "FU", "LU"])
def test_gap_falls_with_width_and_steps(index: int) -> None:
    answer = toy.solve(MADE.problems[index], MADE.pretrained, MADE.unlearn)
    table = {(g.width, g.steps): g for g in networks.parameterisation_gap(answer, [8, 64], [300, 3000], draws=500)}
    assert table[64, 3000].divergence < 0.05
    for worse, better in (((64, 300), (64, 3000)), ((8, 3000), (64, 3000))):
        one, two = table[worse], table[better]
        assert two.divergence + 3 * two.stderr < one.divergence - 3 * one.stderr, table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "rate", "miss"), [(0, 0.02, 0.35), (1, 0.03, 0.15), (2, 6.0, 0.025)], ids=["RU", "FU", "LU"]
)
def test_alternating_from_nothing_meets_the_level(index: int, rate: float, miss: float) -> None:
    """From lam = 0 and an untrained network to the level asked, and to multipliers near those of ``solve``.

    The levels are of paths of 48 steps and of 600 draws: a bias of some per cent and a standard error like it.
    """
    problem = MADE.problems[index]
    exact = toy.solve(problem, MADE.pretrained, MADE.unlearn).solution
    network = networks.network_for(MADE.pretrained, width=48)
    player = networks.NetworkPlayer(problem, MADE.pretrained, MADE.unlearn, network, inner=60, draws=600)
    path = PrimalDual(problem, player, Ascent(rate)).run(45)
    assert abs(path.levels[-8:].mean() - problem.levels[0]) < miss
    assert 0.6 < path.multipliers[-8:].mean() / exact.multipliers[0] < 1.25


def test_bad_arguments_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="width, depth"):
        networks.network_for(MADE.pretrained, width=0)
    with pytest.raises(ValueError, match="steps: at least 2"):
        networks.noise_levels(1)
