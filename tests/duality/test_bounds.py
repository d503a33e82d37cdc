"""Values bounded from both sides: beyond what tilts reach, beyond what densities attain, from any start."""

from dataclasses import replace

import numpy as np
import pytest
from instances import finite_space, mixture_draws, own_levels, worked_mixture
from numpy.polynomial.hermite_e import hermegauss
from scipy.optimize import brentq

import duality as du
from duality.newton import _room
from duality.solve import finish, optimise

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")


def upper_reverse(problem, ratios, log_p):
    """max(KL(p‖q), max_i b_i + E_p[rho_i]), from its definition."""
    p = np.exp(log_p)
    held = p > 0
    cost = float(p[held] @ (log_p[held] - ratios.log_weights[held]))
    return max(cost, float((problem.levels + p @ ratios.values).max()))


def lower_reverse(problem, ratios, lam):
    """g, by its formula; at sum lam = 1 lam·b + min lam·rho."""
    left = 1 - lam.sum()
    if left < 1e-12:
        return float(lam @ problem.levels + (ratios.values @ lam).min())
    exponent = ratios.log_weights - ratios.values @ lam / left
    top = exponent.max()
    return float(lam @ problem.levels - left * (top + np.log(np.exp(exponent - top).sum())))


@pytest.mark.parametrize("level", [2.1, 3.0, 6.0])
def test_opposite_gaussians(level):
    # q = N(0, 1), q_1 = N(2, 1), q_2 = N(-2, 1): rho_1 + rho_2 = -4 everywhere, so V = b - 2 with multipliers 1/2, 1/2.
    x, weights = hermegauss(100)
    held = weights > 0
    ratios = du.LogRatios(np.stack([2 * x - 2, -2 * x - 2], axis=1)[held], np.log(weights[held] / weights[held].sum()))
    solution = du.solve(du.ReverseKL([level, level]), ratios)
    assert solution.status is du.Status.NOT_ATTAINED
    assert solution.message.startswith("not attained by a tilt")
    np.testing.assert_allclose(solution.dual, level - 2, rtol=1e-12)
    np.testing.assert_allclose(solution.bound, level - 2, rtol=1e-11)
    np.testing.assert_allclose(solution.multipliers, 0.5, rtol=1e-12)
    # The target is the limit of the likelihood problem's: q itself, which has two nats of both.
    np.testing.assert_allclose(np.exp(solution.log_weights), np.exp(ratios.log_weights), atol=1e-15)
    np.testing.assert_allclose(solution.critical_levels, 2.0, rtol=1e-12)
    assert abs(solution.primal) < 1e-13
    assert solution.gap < 1e-11
    assert solution.kkt_residual < 1e-11


@pytest.mark.parametrize("times", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("seed", range(3))
def test_many_concepts_beyond_what_tilts_reach(seed, times):
    rng = np.random.default_rng([seed, int(10 * times)])
    ratios = mixture_draws(rng, 500, concepts=(0, 1, 2))
    problem = du.ReverseKL(times * own_levels(du.ReverseKL(0.0), ratios) * rng.uniform(0.9, 1.1, size=3))
    solution = du.solve(problem, ratios)
    assert solution.status in (du.Status.OPTIMAL, du.Status.NOT_ATTAINED)
    lower = lower_reverse(problem, ratios, solution.multipliers)
    upper = upper_reverse(problem, ratios, solution.log_weights)
    np.testing.assert_allclose([lower, upper, solution.bound], solution.dual, rtol=1e-10)


@pytest.mark.parametrize("times", [1.0, 4.0])
def test_reverse_kl_is_the_least_cost_at_which_the_likelihood_problem_is_affordable(times):
    ratios = finite_space(np.random.default_rng(5), 60, 3)
    levels = times * own_levels(du.ReverseKL(0.0), ratios) + 0.2
    value = du.solve(du.ReverseKL(levels), ratios).dual

    def excess(cost):
        try:
            return du.solve(du.Likelihood(cost - levels, kind="log-ratio"), ratios).dual - cost
        except du.InfeasibleError:
            return 1.0

    root = brentq(excess, 0.0, 10 * float(levels.max()), xtol=1e-12)
    np.testing.assert_allclose(value, root, rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_many_concepts_beyond_what_densities_attain(seed):
    rng = np.random.default_rng(seed)
    ratios = mixture_draws(rng, 400, concepts=(0, 1, 2))
    # With all of q to go, or a part of it: one and two concepts, three times and more of what q has.
    part = du.LogRatios(ratios.values[:, : 2 + seed % 2])
    levels = rng.uniform(2.0, 8.0, size=part.m) * own_levels(du.ForwardKL(0.0), part)
    solution = du.solve(du.ForwardKL(levels), part)
    assert solution.status is not du.Status.INEXACT
    assert solution.gap < 1e-9
    assert solution.kkt_residual < 1e-8


def narrow_modes(seed: int, rule: str) -> du.LogRatios:
    """Mixtures of modes of variance .01 to .05, or .02 and .5, in the plane: ratios of hundreds of nats."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 8))
    m = int(rng.integers(1, k + 1))
    weights, means = rng.dirichlet(np.full(k, 3.0)), 2 * rng.normal(size=(k, 2))
    variances = rng.uniform(0.01, 0.05, size=k) if seed % 3 else rng.choice([0.02, 0.5], size=k)
    if rule == "draws":
        chosen, log_weights = rng.choice(k, size=300, p=weights), None
        x = means[chosen] + np.sqrt(variances[chosen])[:, None] * rng.normal(size=(300, 2))
    else:
        line, masses = hermegauss(12)
        z = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
        x = (means[:, None] + np.sqrt(variances)[:, None, None] * z).reshape(-1, 2)
        log_weights = np.log(np.multiply.outer(weights, np.multiply.outer(masses, masses).ravel()).ravel())
        log_weights -= np.log(np.exp(log_weights).sum())
    parts = -0.5 * ((x[:, None] - means) ** 2).sum(axis=-1) / variances - np.log(2 * np.pi * variances)
    top = parts.max(axis=1)
    log_q = top + np.log(np.exp(parts - top[:, None]) @ weights)
    return du.LogRatios(parts[:, :m] - log_q[:, None], log_weights)


@pytest.mark.filterwarnings("ignore::duality.MassWarning")  # a rule of 12 nodes; every other warning is an error
@pytest.mark.parametrize("rule", ["draws", "Gauss-Hermite"])
@pytest.mark.parametrize("seed", range(6))
def test_narrow_modes_are_solved_without_a_warning(seed, rule):
    ratios = narrow_modes(seed, rule)
    for problem in (du.ForwardKL, du.ReverseKL):
        own = own_levels(problem(0.0), ratios)
        for times in (1.2, 1.5, 2.0, 4.0):
            solution = du.solve(problem(np.maximum(times * own, 0.0)), ratios)
            assert solution.status is not du.Status.INEXACT, str(solution)
            assert solution.gap < 1e-9


def test_a_fall_that_is_next_to_nothing_has_room_without_end():
    # The way to a face over a speed of 1e-310: no division may overflow with a warning (they are errors here).
    dual = du.ForwardKL(0.1).bind(worked_mixture(21)).dual(worked_mixture(21))
    assert dual.stride(np.zeros(1), np.array([1e-310])) == 1.0
    assert _room(np.array([1.0]), np.array([-1e-310]), np.ones((1, 1)), np.ones(1)) == np.inf


def test_targets_next_to_the_end_of_tilts_take_few_steps():
    # Its likelihood problems, 1e-10 from where they end, lie where g gains less per step than rounding: climbs that
    # followed rounding there missed the levels by 1e-8, and the search between the bounds went on for 6,000 steps.
    ratios = narrow_modes(21, "draws")
    solution = du.solve(du.ReverseKL(2.0 * own_levels(du.ReverseKL(0.0), ratios)), ratios)
    assert solution.status is du.Status.NOT_ATTAINED
    assert solution.gap < 1e-9
    assert solution.iterations < 1000


def test_duals_that_end_elsewhere_do_not_outdo_the_climb():
    # No point of a fine grid of multipliers, nor of the edge sum lam = 1, has a larger dual value.
    ratios = finite_space(np.random.default_rng(8), 40, 2, spread=2.0)
    problem = du.ReverseKL(3.0 * own_levels(du.ReverseKL(0.0), ratios))
    value = du.solve(problem, ratios).dual
    bound = problem.bind(ratios)
    for total in (0.5, 0.9, 0.99, 0.9999, 1.0):
        for share in np.linspace(0, 1, 101):
            lam = total * np.array([share, 1 - share])
            assert lower_reverse(bound, ratios, lam) <= value + 1e-11 * (1 + value)


def test_a_start_on_a_concept_that_is_absent_changes_nothing():
    ratios = du.LogRatios([[np.log(2)], [-np.inf]], np.log([0.5, 0.5]))
    for start in (None, [0.3], [0.999]):
        solution = du.solve(du.ReverseKL(1.0), ratios, start=start)
        assert solution.status is du.Status.INACTIVE
        assert solution.dual == 0.0
        assert solution.primal == 0.0


@pytest.mark.parametrize("problem", [du.ReverseKL, du.ForwardKL])
@pytest.mark.parametrize("times", [0.5, 1.2, 4.0])
def test_starts_and_walks_lead_to_the_same_answer(problem, times):
    rng = np.random.default_rng(3)
    ratios = mixture_draws(rng, 300, concepts=(0, 1, 2))
    levels = times * own_levels(problem(0.0), ratios)
    cold = du.solve(problem(levels), ratios)
    for _ in range(5):
        start = rng.dirichlet(np.ones(3)) * rng.uniform(0, 0.99) * np.minimum(1.0, np.exp(-ratios.values.max(axis=0)))
        warm = du.solve(problem(levels), ratios, start=start)
        assert warm.status is cold.status
        np.testing.assert_allclose(warm.dual, cold.dual, rtol=1e-12, atol=1e-14)
    walked = du.frontier(problem(0.0), ratios, np.array([0.5, 1.0, 0.9, 1.0])[:, None] * levels)
    for factor, solution in zip((0.5, 1.0, 0.9, 1.0), walked, strict=True):
        alone = du.solve(problem(factor * levels), ratios)
        assert solution.status is alone.status
        np.testing.assert_allclose(solution.dual, alone.dual, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("problem", "level"), [(du.ReverseKL, 60.0), (du.ForwardKL, 25.0)], ids=["reverse, at L = 1", "forward, on a face"]
)
def test_a_target_that_proves_less_is_not_vouched_for(problem, level):
    """Certificates are computed from the target: another target, and gap, residual, status and message say so."""
    ratios = mixture_draws(np.random.default_rng(1), 400, concepts=(0, 2))
    bound = problem(level).bind(ratios)
    answer = optimise(bound, ratios, bound.dual(ratios))
    good = finish(bound, ratios, answer)
    assert good.status is du.Status.NOT_ATTAINED
    assert good.gap < 1e-9
    assert good.kkt_residual < 1e-8
    worse = finish(bound, ratios, replace(answer, log_weights=ratios.log_weights))
    assert worse.status is du.Status.INEXACT
    assert worse.critical_levels is None
    assert worse.gap > 1e-3
    assert worse.kkt_residual > 1e-3
    assert f"at least {worse.dual:.9g} nats, and at most {worse.bound:.9g}" in worse.message
    assert "the target misses level" in worse.message
    assert worse.message in str(worse)
    # Lower multipliers with the right target: the bound stands, the dual value does not reach it.
    lower = finish(bound, ratios, replace(answer, value=0.9 * answer.value))
    assert lower.status is du.Status.INEXACT
    np.testing.assert_allclose(lower.bound, good.bound, rtol=1e-12)


def test_a_likelihood_that_misses_its_level_has_no_bound():
    ratios = worked_mixture(41)
    bound = du.Likelihood(0.01).bind(ratios)
    answer = optimise(bound, ratios, bound.dual(ratios))
    worse = finish(bound, ratios, replace(answer, log_weights=ratios.log_weights))
    assert worse.status is du.Status.INEXACT
    assert worse.bound == np.inf
    assert "nothing is known from above" in worse.message
    again = du.Solution.from_json(worse.to_json())
    assert again.bound == np.inf
    assert again.message == worse.message


@pytest.mark.slow
@pytest.mark.parametrize("problem", [du.ReverseKL, du.ForwardKL, du.Likelihood])
def test_a_hundred_thousand_draws_and_32_concepts_take_seconds(problem):
    import time

    rng = np.random.default_rng(0)
    k, n = 34, 100_000
    weights, means, widths = rng.dirichlet(np.full(k, 3.0)), 2 * rng.normal(size=(k, 2)), rng.uniform(0.55, 1.3, size=k)
    chosen = rng.choice(k, size=n, p=weights)
    x = means[chosen] + widths[chosen, None] * rng.normal(size=(n, 2))
    parts = -0.5 * ((x[:, None] - means) ** 2).sum(axis=-1) / widths**2 - 2 * np.log(widths)
    top = parts.max(axis=1)
    log_q = top + np.log(np.exp(parts - top[:, None]) @ weights)
    ratios = du.LogRatios(parts[:, :32] - log_q[:, None], priors=weights[:32])
    own = own_levels(problem(1.0), ratios)
    for times in (1.5, 4.0):
        start = time.process_time()
        try:
            solution = du.solve(problem(own / times if problem is du.Likelihood else own * times), ratios)
            assert solution.gap < 1e-8
        except du.InfeasibleError:  # posteriors of nearly everything there is cannot all be lowered
            assert problem is du.Likelihood
        assert time.process_time() - start < 20  # measured: under 5 s on one core; slower machines are no failure
