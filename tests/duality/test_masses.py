"""Ratios that belong to no law are named with their mass; honest ones, heavy tails included, are let pass."""

import warnings

import numpy as np
import pytest
from instances import finite_space, mixture_draws, worked_mixture
from scipy.special import logsumexp

import duality as du
from duality.masses import lawless, standard_errors

KL = (du.ReverseKL(0.2), du.ForwardKL(0.2))


def off_by(factor, n=200, m=2):
    exact = finite_space(np.random.default_rng(0), n, m, 0.5)
    shift = np.append(np.zeros(m - 1), np.log(factor))
    return exact, du.LogRatios(exact.values + shift, exact.log_weights, exact.log_densities + shift, exact.priors)


def test_a_mass_above_one_is_no_law_and_the_number_says_so():
    _, wrong = off_by(1.03)
    for problem in KL:
        with pytest.warns(
            du.MassWarning, match=r"= 1\.03 for constraint 1, .*no law has such.*normalise\(\)"
        ) as caught:
            du.solve(problem, wrong)
        assert caught[0].filename == __file__
        np.testing.assert_allclose(caught[0].message.masses, [1.0, 1.03])
        assert caught[0].message.wrong.tolist() == [False, True]
        for verb in (
            lambda p=problem: du.frontier(p, wrong, [0.1]),
            lambda p=problem: du.dual_function(p, wrong, [0.1, 0.1]),
            lambda p=problem: du.fixed_weights(p, wrong, [0.1]),
        ):
            with pytest.warns(du.MassWarning) as caught:
                verb()
            assert caught[0].filename == __file__


def test_a_mass_below_one_matters_where_all_of_q_i_is_integrated():
    _, wrong = off_by(0.9)
    with pytest.warns(du.MassWarning, match=r"0\.9 for constraint 1, .*part of q_i lies where"):
        du.solve(du.ForwardKL(0.2), wrong)
    du.solve(du.ReverseKL(0.2), wrong)  # what q_i has beyond the nodes no p on them can see


def test_a_likelihood_is_whatever_function_it_is():
    for factor in (0.5, 1.5):
        _, wrong = off_by(factor)
        for kind, level in (("posterior", 0.2), ("log-ratio", 0.0), ("density", 0.02)):
            with warnings.catch_warnings():
                warnings.simplefilter("error", du.MassWarning)
                du.solve(du.Likelihood(level, kind=kind), wrong)


def test_what_a_wrong_mass_costs_and_that_normalising_repays_it():
    exact, wrong = off_by(1.03)
    for problem in KL:
        right = du.solve(problem, exact)
        with pytest.warns(du.MassWarning):
            assert abs(du.solve(problem, wrong).dual - right.dual) > 1e-3
        again = du.solve(problem, wrong.normalise())
        np.testing.assert_allclose(again.dual, right.dual, rtol=1e-12)
    normal = wrong.normalise()
    np.testing.assert_allclose(normal.masses, 1.0, rtol=1e-13)
    np.testing.assert_allclose(normal.log_densities, exact.log_densities, atol=1e-13)
    np.testing.assert_array_equal(normal.priors, exact.priors)
    assert not normal.is_draws


@pytest.mark.parametrize("shift", [-5000.0, -800.0, 800.0])
def test_ratios_of_any_size_can_be_normalised(shift):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(50, 2)) + shift
    ratios = du.LogRatios(values)
    np.testing.assert_allclose(ratios.log_masses, logsumexp(values, axis=0) - np.log(50), rtol=1e-14)
    assert np.isposinf(ratios.masses).all() == (shift > 0)
    normal = ratios.normalise()
    assert normal.is_draws
    # Numbers of size |shift| have been subtracted: what is left of their digits.
    np.testing.assert_allclose(normal.masses, 1.0, rtol=8 * np.finfo(float).eps * abs(shift))


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("spread", [1e-9, 1.0, 100.0])
def test_exact_masses_are_one_to_rounding_and_a_little_more_is_seen(m, spread):
    for seed in range(20):
        ratios = finite_space(np.random.default_rng(seed), 300, m, spread)
        assert not lawless(ratios).any()
        for sign in (1, -1):
            moved = du.LogRatios(ratios.values + sign * 3e-8, ratios.log_weights)
            assert lawless(moved).all()


def test_single_precision_is_judged_by_its_own_digits():
    # Log ratios of 3000 nats in single precision are known to 1e-4 nats, and so are their masses.
    rng = np.random.default_rng(2)
    values = -3000 + 1000 * rng.uniform(size=500)
    log_q = rng.normal(size=500)
    log_q -= logsumexp(log_q)
    values[0] = -log_q[0]
    values -= logsumexp(values + log_q)
    coarse = du.LogRatios(values.astype(np.float32), log_q)
    assert 1e-8 < abs(coarse.masses[0] - 1) < 1e-6
    assert not lawless(coarse).any()
    assert lawless(du.LogRatios(values.astype(np.float32).astype(np.float64), log_q)).all()


LAWS = {
    "mixture": lambda rng, n: mixture_draws(rng, n, (0, 2)).values,
    "lognormal, sd 0.5": lambda rng, n: 0.5 * rng.normal(size=n) - 0.125,
    "lognormal, sd 2": lambda rng, n: 2 * rng.normal(size=n) - 2,
    "no variance": lambda rng, n: np.log(1 / 3) + np.log1p(rng.pareto(1.5, size=n)),
    "absent from one in a hundred": lambda rng, n: np.where(rng.random(n) < 0.01, -30.0, -np.log(0.99)),
}


@pytest.mark.parametrize("n", [2, 30, 300, 3000])
@pytest.mark.parametrize("name", LAWS)
def test_honest_draws_do_not_warn(name, n):
    rng = np.random.default_rng(3)
    assert not any(lawless(du.LogRatios(LAWS[name](rng, n))).any() for _ in range(200))


def test_a_concept_that_no_draw_shows():
    # One draw in a hundred has all of q_i. A hundred draws that miss it show a mass of nothing, and that is said.
    rng, seen = np.random.default_rng(6), []
    for _ in range(200):
        shown = rng.random(100) < 0.01
        warned = lawless(du.LogRatios(np.where(shown, np.log(100.0), -30.0)))[0]
        assert warned == (not shown.any())
        seen.append(warned)
    assert 0.2 < np.mean(seen) < 0.55  # 0.99^100 = 0.37, known to 0.034 from 200


@pytest.mark.parametrize(("factor", "n"), [(1.5, 1000), (1.1, 20_000), (0.5, 1000), (0.9, 30_000)])
def test_draws_of_no_law_do(factor, n):
    draws = mixture_draws(np.random.default_rng(4), n)
    wrong = du.LogRatios(draws.values + np.log(factor))
    assert lawless(wrong).all()
    assert lawless(wrong, below=False).all() == (factor > 1)
    with pytest.warns(du.MassWarning, match=r"E_q\[e\^rho\] = [0-9.]+ ± [0-9.]+ for constraint 0"):
        du.solve(du.ForwardKL(4.0), wrong)


def test_standard_errors_of_masses():
    draws = mixture_draws(np.random.default_rng(5), 500, (0, 1))
    np.testing.assert_allclose(standard_errors(draws), np.exp(draws.values).std(axis=0) / np.sqrt(500))
    assert not standard_errors(worked_mixture(21)).any()
