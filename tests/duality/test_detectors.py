"""Detectors: a concept by definition, with no density ratio."""

from __future__ import annotations

import numpy as np
import pytest

import duality as du


def test_a_detector_is_the_posterior_that_it_says() -> None:
    # Where the detector's answer is the posterior of a concept, both problems are the same.
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(50))
    rho = rng.normal(size=(50, 2)) - 1.5
    rho -= np.log(q @ np.exp(rho))
    priors = np.array([0.1, 0.2])
    own = q @ (priors * np.exp(rho))
    seen = priors * np.exp(rho)
    one = du.solve(du.Likelihood(own * 0.4), du.LogRatios(rho, np.log(q), None, priors))
    other = du.solve(du.Likelihood(own * 0.4, kind="detector"), du.LogRatios(log_weights=np.log(q), detectors=seen))
    np.testing.assert_allclose(other.multipliers, one.multipliers, rtol=1e-9)
    np.testing.assert_allclose(other.log_weights, one.log_weights, atol=1e-9)
    assert other.gap <= 1e-12
    np.testing.assert_allclose(np.exp(other.log_weights) @ seen, own * 0.4, rtol=1e-9)


def test_a_coin_has_the_closed_form() -> None:
    # l in {0, 1} of mean pi, bent to b: the cost of a coin, and its multiplier.
    hits = np.arange(1000) < 200
    ratios = du.LogRatios(log_weights=np.full(1000, -np.log(1000)), detectors=hits)
    found, exact = du.solve(du.Likelihood(0.01, kind="detector"), ratios), du.gaussians.disjoint_posterior(0.2, 0.01)
    assert found.primal == pytest.approx(exact.value, rel=1e-12)
    assert found.multipliers[0] == pytest.approx(exact.multiplier, rel=1e-9)
    with pytest.raises(du.InfeasibleError):
        du.solve(du.Likelihood(0.0, kind="detector"), ratios)


def test_detectors_of_any_real_scale() -> None:
    rng = np.random.default_rng(1)
    score = rng.normal(size=4000) * 1e4 - 3e5
    ratios = du.LogRatios(detectors=score)
    found = du.solve(du.Likelihood(float(score.mean()) - 2000, kind="detector"), ratios)
    assert found.status is du.Status.OPTIMAL
    assert found.gap <= 1e-10
    zero = du.solve(du.Likelihood(0.0, kind="detector"), du.LogRatios(detectors=(score - score.mean()) / 1e4 + 0.5))
    assert zero.levels[0] == pytest.approx(0.0, abs=1e-9)


def test_noised_weight_is_exact_for_one_detector_of_two_values() -> None:
    eta, lam = np.linspace(0, 1, 11)[:, None], np.array([2.0])
    problem = du.Likelihood(0.1, kind="detector")
    np.testing.assert_allclose(np.exp(problem.noised_tilt(eta, lam)), 1 - (1 - np.exp(-2.0)) * eta[:, 0])
    step = 1e-6
    inside = eta[1:-1]
    slope = (problem.noised_tilt(inside + step, lam) - problem.noised_tilt(inside - step, lam)) / (2 * step)
    np.testing.assert_allclose(problem.strengths(inside, lam)[:, 0], -slope, rtol=1e-8)
    far = np.array([[-3.0], [4.0]])
    np.testing.assert_allclose(problem.noised_tilt(far, lam), [6.0, -8.0])
    np.testing.assert_allclose(problem.strengths(far, lam), 2.0)
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(eta, dtype=torch.float32, requires_grad=True)
    problem.noised_tilt(tensor, torch.tensor([2.0])).sum().backward()
    np.testing.assert_allclose(-tensor.grad[1:-1], problem.strengths(inside, lam), rtol=1e-5)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="values: neither log ratios nor detectors"):
        du.LogRatios()
    with pytest.raises(ValueError, match="detectors: nan at point 1"):
        du.LogRatios(detectors=[0.1, float("nan")])
    with pytest.raises(ValueError, match="detectors: -inf at point 1, column 0; finite numbers"):
        du.LogRatios(detectors=[0.1, -np.inf])
    with pytest.raises(ValueError, match="detectors: 2 points given, but values has 3"):
        du.LogRatios([0.1, 0.2, 0.3], detectors=[0.1, 0.2])
    with pytest.raises(ValueError, match="detectors: the ratios carry none, but kind='detector'"):
        du.solve(du.Likelihood(0.1, kind="detector"), du.LogRatios([0.1, 0.2], np.log([0.5, 0.5])))
    with pytest.raises(ValueError, match="levels: 3 given for 2 constraints"):
        du.solve(du.Likelihood([0.1] * 3, kind="detector"), du.LogRatios(detectors=np.ones((5, 2))))
    assert repr(du.LogRatios(detectors=[0.1, 0.2])) == "LogRatios(2 draws, 1 detector)"
