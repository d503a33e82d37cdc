"""The worked numbers and closed forms of the theory, through toy.log_ratios and duality.solve."""

from __future__ import annotations

import json

import numpy as np
import pytest

import duality as du
import toy
from toy.mixtures import GaussianMixture

WORKED = toy.example("worked")
ORIGIN = np.zeros((1, 2))


def _gaussian(mean: object, variance: float = 1.0) -> GaussianMixture:
    return GaussianMixture([1.0], np.atleast_2d(np.asarray(mean, dtype=float)), variance)


@pytest.mark.parametrize(
    ("problem", "multiplier", "value"),
    [
        (du.ReverseKL(30.0), 0.0515382, 0.342066),
        (du.ForwardKL(4.0), 0.287227, 0.604254),
        (du.Likelihood(0.01, priors=0.3), 3.789455, 0.310807),
        (du.Likelihood(0.001, kind="density"), 36.1876, 0.284300),
    ],
    ids=["RU", "FU", "LU posterior", "LU density"],
)
def test_worked_mixture(problem: du.Problem, multiplier: float, value: float) -> None:
    found = toy.solve(problem, WORKED.pretrained, WORKED.unlearn).solution
    # The figures are given to six digits: half a unit of the last one.
    assert abs(found.multipliers[0] / multiplier - 1) < 2e-6
    assert abs(found.primal / value - 1) < 2e-6
    assert found.gap <= 1e-10
    assert found.attained


@pytest.mark.parametrize("nodes", [81, 161, 321])
def test_worked_mixture_beyond_the_critical_level_on_grids(nodes: int) -> None:
    ratios = toy.log_ratios(WORKED.pretrained, WORKED.unlearn, nodes)
    found = du.solve(du.ForwardKL(19.556), ratios)
    assert not found.attained
    assert abs(found.multipliers[0] - 0.3) < 1e-6
    assert found.critical_levels is not None
    # KL(q_1 || q_r) = 18.556; double precision knows q_r/q only above 1e-16 where q_1 rules, which costs .015.
    assert abs(found.critical_levels[0] - 18.556) < 0.02


def test_worked_mixture_beyond_the_critical_level_on_draws() -> None:
    places = toy.draws(WORKED.pretrained, 100_000, np.random.default_rng(11))
    found = du.solve(du.ForwardKL(19.556), toy.log_ratios(WORKED.pretrained, WORKED.unlearn, places))
    assert not found.attained
    assert found.critical_levels is not None
    # log q_1/q_r has standard deviation 6 under q_1, of which there are 30,000 draws: 5 x 6/173 = .17.
    assert abs(found.critical_levels[0] - 18.541) < 0.2


@pytest.mark.parametrize(("mu", "level"), [(1.0, 2.0), (2.0, 6.0), (3.0, 10.0)])
def test_reverse_between_equal_gaussians(mu: float, level: float) -> None:
    """a = sqrt(2b)/|mu| - 1, lam = 1 - |mu|/sqrt(2b), V = (sqrt(2b) - |mu|)^2/2, p* = N(-a mu, I)."""
    answer = toy.solve(du.ReverseKL(level), _gaussian([0.0, 0.0]), _gaussian([0.0, mu]))
    found, root = answer.solution, np.sqrt(2 * level)
    # The rule errs by 1e-12 in the log normaliser (rounding of 1e5 terms); conditioning of the root is about 10.
    assert abs(found.multipliers[0] - (1 - mu / root)) < 1e-10
    assert abs(found.primal - (root - mu) ** 2 / 2) < 1e-10
    exact = _gaussian([0.0, -(root - mu)])
    x = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_allclose(answer.log_target(x), exact.log_prob(x), atol=1e-9)


@pytest.mark.parametrize(("v", "u", "a"), [(1.0, 2.0, 0.8), (2.0, 1.0, 0.6), (1.0, 1.0, 2.0)])
def test_reverse_between_unequal_gaussians(v: float, u: float, a: float) -> None:
    """1/s = (1+a)/v - a/u, m = -s a mu/u; the level belonging to a gives back lam = a/(1+a)."""
    mu = np.array([1.2, -0.5])
    s = 1 / ((1 + a) / v - a / u)
    m = -s * a * mu / u

    def divergence(mean: np.ndarray, variance: float, mean_2: np.ndarray, variance_2: float) -> float:
        ratio = variance / variance_2
        return float(ratio - 1 - np.log(ratio) + np.square(mean - mean_2).sum() / (2 * variance_2))

    level, cost = divergence(m, s, mu, u), divergence(m, s, np.zeros(2), v)
    found = toy.solve(du.ReverseKL(level), _gaussian([0.0, 0.0], v), _gaussian(mu, u)).solution
    assert abs(found.multipliers[0] - a / (1 + a)) < 1e-9
    assert abs(found.primal - cost) < 1e-9


def test_log_ratio_likelihood_is_the_reverse_problem_relabelled() -> None:
    """lam_LU = lam_RU/(1 - lam_RU) gives the same target."""
    q, part = _gaussian([0.0, 0.0]), _gaussian([2.0, 0.0])
    reverse = toy.solve(du.ReverseKL(6.0), q, part)
    level = reverse.solution.primal - reverse.solution.levels[0]
    same = toy.solve(du.Likelihood(level, kind="log-ratio"), q, part)
    lam = reverse.solution.multipliers[0]
    assert abs(same.solution.multipliers[0] - lam / (1 - lam)) < 1e-9
    np.testing.assert_allclose(same.log_target(ORIGIN), reverse.log_target(ORIGIN), atol=1e-10)


@pytest.mark.parametrize("level", [1.5, 3.0, 5.0])
def test_forward_on_disjoint_supports(level: float) -> None:
    """lam* = (pi e^b - 1)/(e^b - 1), V = pi log(pi (1-lam)/(pi-lam)) + (1-pi) log(1-lam).

    The modes are 16 deviations apart: their overlap, e^-32 in the middle, is all that separates them from disjoint.
    """
    apart, pi = toy.example("disjoint"), 0.3
    found = toy.solve(du.ForwardKL(level), apart.pretrained, apart.unlearn).solution
    lam = (pi * np.exp(level) - 1) / (np.exp(level) - 1)
    value = pi * np.log(pi * (1 - lam) / (pi - lam)) + (1 - pi) * np.log(1 - lam)
    assert abs(found.multipliers[0] - lam) < 1e-10
    assert abs(found.primal - value) < 1e-10


@pytest.mark.parametrize("level", [0.2, 0.05, 0.001])
def test_posterior_likelihood_on_disjoint_supports(level: float) -> None:
    """V = b log(b/pi) + (1-b) log((1-b)/(1-pi)), lam* = log(pi(1-b)/(b(1-pi)))."""
    apart, pi = toy.example("disjoint"), 0.3
    found = toy.solve(du.Likelihood(level, priors=pi), apart.pretrained, apart.unlearn).solution
    value = level * np.log(level / pi) + (1 - level) * np.log((1 - level) / (1 - pi))
    # Posteriors are 0 or 1 but for a sliver of mass e^-32/2 = 6e-15 in the middle.
    assert abs(found.multipliers[0] - np.log(pi * (1 - level) / (level * (1 - pi)))) < 1e-9
    assert abs(found.primal - value) < 1e-10


def test_exact_forgetting_in_the_limit() -> None:
    """At lam_max = pi the target of FU is the rest of the mixture."""
    answer = toy.solve(du.ForwardKL(25.0), WORKED.pretrained, WORKED.unlearn)
    assert not answer.solution.attained
    x = WORKED.pretrained.without(0).sample(50, np.random.default_rng(1))
    np.testing.assert_allclose(answer.log_target(x), WORKED.pretrained.without(0).log_prob(x), atol=1e-6)


@pytest.mark.parametrize("name", list(toy.EXAMPLES))
def test_examples_bind_and_are_certified(name: str) -> None:
    made = toy.example(name)
    for problem in made.problems:
        found = toy.solve(problem, made.pretrained, made.unlearn).solution
        assert found.status is du.Status.OPTIMAL, (name, problem, found.status)
        assert found.gap <= 1e-10
        assert np.all(found.multipliers > 1e-3)


def test_examples_know_their_names() -> None:
    assert all(made().name == name for name, made in toy.EXAMPLES.items())
    with pytest.raises(ValueError, match="one of worked, overlapping"):
        toy.example("wrked")


def test_draws_scatter_as_the_theory_says() -> None:
    """From 500 draws the standard deviation of lam* over repetitions is 9 % (RU) and 4 % (LU)."""
    found: dict[str, list[float]] = {"RU": [], "LU": []}
    for repetition in range(60):
        places = toy.draws(WORKED.pretrained, 500, np.random.default_rng(100 + repetition))
        ratios = toy.log_ratios(WORKED.pretrained, WORKED.unlearn, places, priors=[0.3])
        found["RU"].append(du.solve(du.ReverseKL(30.0), ratios).multipliers[0])
        found["LU"].append(du.solve(du.Likelihood(0.05), ratios).multipliers[0])
    spread = np.std(found["RU"]) / 0.0515382
    # A standard deviation from 60 values is known to 1/sqrt(118) = 9 %: four of those either way.
    assert 0.09 * 0.6 < spread < 0.09 * 1.4, spread
    exact = toy.solve(du.Likelihood(0.05, priors=0.3), WORKED.pretrained, WORKED.unlearn).solution.multipliers[0]
    assert abs(np.mean(found["LU"]) / exact - 1) < 4 * np.std(found["LU"]) / exact / np.sqrt(60) + 0.01


def test_given_nodes_that_miss_the_target_are_refused() -> None:
    q, part = _gaussian([0.0, 0.0]), _gaussian([3.0, 0.0])
    short = toy.grid(q, per_axis=201)
    with pytest.raises(toy.TruncationError, match="larger reach") as error:
        toy.solve(du.ReverseKL(80.0), q, part, short)
    assert error.value.mass > 1e-9
    # Left to itself the lattice grows until it sees the target N(-a mu, I), a = sqrt(160)/3 - 1, ten units away.
    grown = toy.solve(du.ReverseKL(80.0), q, part)
    assert abs(grown.solution.primal - (np.sqrt(160) - 3) ** 2 / 2) < 1e-8
    assert grown.nodes.points.min() < -13


def test_nodes_that_miss_an_unlearning_density_are_refused_by_forward_only() -> None:
    q = GaussianMixture([0.5, 0.5], [[0.0, 0.0], [2.0, 0.0]], 1.0)
    far = GaussianMixture([0.9, 0.1], [[0.0, 0.0], [14.0, 0.0]], 1.0)
    with pytest.raises(toy.TruncationError, match="cover the unlearning densities"):
        toy.solve(du.ForwardKL(0.5), q, far, toy.grid(q))
    assert toy.solve(du.ReverseKL(0.5), q, far, toy.grid(q)).solution.attained


def test_nodes_too_coarse_for_the_target_are_refused() -> None:
    """A multiplier of thousands cuts like a knife: the target is q up to a narrow front."""
    q = GaussianMixture([0.2, 0.8], [-1.0, 1.0], 1.0)
    problem = du.Likelihood(0.0005, priors=0.2)
    with pytest.raises(toy.ResolutionError, match="more nodes per axis"):
        toy.solve(problem, q, q.component(0), 61)
    fine = toy.solve(problem, q, q.component(0), 4001).solution
    auto = toy.solve(problem, q, q.component(0)).solution
    assert abs(auto.primal / fine.primal - 1) < 1e-9


def test_component_nodes_serve_near_singular_mixtures() -> None:
    r = 1 - 1e-8
    q = GaussianMixture([0.4, 0.6], [[-30.0, 0.0], [30.0, 0.0]], [[[1.0, r], [r, 1.0]]] * 2)
    found = toy.solve(du.Likelihood(0.02, priors=0.4), q, q.component(0), toy.component_nodes(q)).solution
    value = 0.02 * np.log(0.02 / 0.4) + 0.98 * np.log(0.98 / 0.6)
    assert abs(found.primal - value) < 1e-10


def test_draws_have_nothing_to_truncate() -> None:
    places = toy.draws(WORKED.pretrained, 3000, np.random.default_rng(2))
    answer = toy.solve(du.ReverseKL(30.0), WORKED.pretrained, WORKED.unlearn, places)
    assert toy.check_truncation(answer.solution, places) == 0.0
    assert answer.ratios.is_draws
    assert np.isfinite(answer.solution.primal_stderr)


def test_solution_survives_json() -> None:
    answer = toy.solve(du.ReverseKL(30.0), WORKED.pretrained, WORKED.unlearn, 81)
    assert du.Solution.from_json(answer.solution.to_json()).primal == answer.solution.primal
    assert json.loads(json.dumps(WORKED.pretrained.to_dict())) == WORKED.pretrained.to_dict()


def test_bad_nodes_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="nodes: dimension 2"):
        toy.log_ratios(WORKED.pretrained, WORKED.unlearn, toy.grid(GaussianMixture([1.0], [0.0], 1.0)))
    with pytest.raises(ValueError, match="unlearn: one GaussianMixture"):
        toy.log_ratios(WORKED.pretrained, [])
    with pytest.raises(ValueError, match="unlearn: one GaussianMixture"):
        toy.log_ratios(WORKED.pretrained, "q1")  # type: ignore[arg-type]
