"""Rényi divergences and chi-squared as costs: against CVXPY, closed forms, derivatives and draws."""

from __future__ import annotations

import numpy as np
import pytest
from grouped import grouped_space

import duality as du


def detectors_of(rng: np.random.Generator, count: int = 3) -> du.LogRatios:
    space = grouped_space(rng, count=1, detectors=count, m=1)
    return du.LogRatios(None, space.log_weights, detectors=space.detectors)


def agree(seed: int) -> str:
    rng = np.random.default_rng(seed)
    ratios = detectors_of(rng)
    own = np.exp(ratios.log_weights) @ ratios.detectors
    order = float(rng.choice([1.1, 1.5, 1.9, 2.0]))
    problem = du.Renyi(own * rng.uniform(0.3, 1.1, 3), kind="detector", order=order)
    try:
        ours = du.solve(problem, ratios)
    except du.InfeasibleError as error:
        with pytest.raises(ValueError, match="CVXPY"):
            du.reference.solve(problem, ratios)
        # The levels that can be had do not depend on the cost.
        with pytest.raises(du.InfeasibleError) as other:
            du.solve(du.Likelihood(problem.levels, kind="detector"), ratios)
        np.testing.assert_allclose(error.least, other.value.least, atol=1e-9)
        return "INFEASIBLE"
    theirs = du.reference.solve(problem, ratios)
    assert ours.dual == pytest.approx(theirs.value, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(ours.multipliers, theirs.multipliers, rtol=1e-3, atol=1e-4)
    assert ours.gap <= 1e-10
    p, q = np.exp(ours.log_weights), np.exp(ratios.log_weights)
    assert ours.primal == pytest.approx(np.log(q @ (p / q) ** order) / (order - 1), abs=1e-12)
    tilted = q * np.exp(ours.log_weight(ratios.detectors))
    np.testing.assert_allclose(tilted / tilted.sum(), p, atol=1e-12)
    return ours.status.name


def test_against_cvxpy() -> None:
    pytest.importorskip("cvxpy")
    seen = [agree(seed) for seed in range(40)]
    assert seen.count("OPTIMAL") > 20
    assert "INFEASIBLE" in seen
    assert "INEXACT" not in seen


def test_order_two_is_chi_squared() -> None:
    rng = np.random.default_rng(1)
    ratios = detectors_of(rng)
    q, seen = np.exp(ratios.log_weights), ratios.detectors
    found = du.solve(du.Renyi(q @ seen * 0.7, kind="detector"), ratios)
    p = np.exp(found.log_weights)
    squared = float((p - q) ** 2 @ (1 / q))
    assert np.expm1(found.primal) == pytest.approx(squared, rel=1e-12)
    # The target of chi-squared itself is q ((mu - lam·(l - b))/2)_+ with mu = 2 (1 + chi²).
    lam = found.multipliers * (1 + squared)
    w = np.maximum(2 * (1 + squared) - (seen - found.problem.levels) @ lam, 0) / 2
    np.testing.assert_allclose(q * w, p, atol=1e-12)


def test_towards_order_one_it_is_likelihood_and_weights_are_milder_at_two() -> None:
    ratios = detectors_of(np.random.default_rng(2))
    levels = np.exp(ratios.log_weights) @ ratios.detectors * 0.75
    plain = du.solve(du.Likelihood(levels, kind="detector"), ratios)
    for order in (1.001, 1.0001):
        near = du.solve(du.Renyi(levels, kind="detector", order=order), ratios)
        assert near.primal == pytest.approx(plain.primal, rel=2 * (order - 1))
        np.testing.assert_allclose(near.multipliers, plain.multipliers, rtol=20 * (order - 1), atol=1e-9)
    top = [
        float((s.log_weights - ratios.log_weights).max())
        for s in (plain, du.solve(du.Renyi(levels, "detector"), ratios))
    ]
    assert top[1] < top[0]


def test_dual_function_frontier_and_json() -> None:
    ratios = detectors_of(np.random.default_rng(3), 2)
    own = np.exp(ratios.log_weights) @ ratios.detectors
    problem = du.Renyi(own * 0.7, kind="detector", order=1.5)
    found = du.solve(problem, ratios)
    assert du.dual_function(problem, ratios, found.multipliers).value == pytest.approx(found.dual, abs=1e-13)
    lam = found.multipliers * 0.8 + 0.05
    there, step = du.dual_function(problem, ratios, lam), 1e-6
    assert there.value < found.dual
    pairs = [[du.dual_function(problem, ratios, lam + s * step * e) for s in (1, -1)] for e in np.eye(2)]
    slopes = [(a.value - b.value) / (2 * step) for a, b in pairs]
    bends = np.array([(a.gradient - b.gradient) / (2 * step) for a, b in pairs])
    np.testing.assert_allclose(there.gradient, slopes, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(there.hessian, bends, rtol=1e-5, atol=1e-8)
    levels = own * np.array([0.9, 0.8, 0.7])[:, None]
    curve = du.frontier(problem, ratios, levels)
    assert curve[2].dual == pytest.approx(found.dual, abs=1e-12)
    assert curve[0].dual < curve[1].dual < curve[2].dual
    read = du.Solution.from_json(found.to_json())
    assert isinstance(read.problem, du.Renyi)
    assert read.problem.order == 1.5
    np.testing.assert_array_equal(read.log_weight(ratios.detectors), found.log_weight(ratios.detectors))


def test_strengths_are_derivatives() -> None:
    problem = du.Renyi([0.2, 0.3], priors=0.3, order=1.5)
    point, lam, step = np.random.default_rng(4).normal(size=(5, 2)) * 0.3, np.array([0.4, 0.3]), 1e-6
    natural = problem.natural(lam)
    slope = [
        (problem.noised_tilt(point + step * e, natural) - problem.noised_tilt(point - step * e, natural)) / (2 * step)
        for e in np.eye(2)
    ]
    np.testing.assert_allclose(problem.strengths(point, natural), -np.stack(slope, 1), rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_standard_errors_are_the_scatter_of_repetitions() -> None:
    rng = np.random.default_rng(5)
    ratios = detectors_of(rng, 2)
    q = np.exp(ratios.log_weights)
    problem = du.Renyi(q @ ratios.detectors * 0.8, kind="detector")
    assert (du.solve(problem, ratios).multipliers > 0.1).all()
    table = []
    for _ in range(150):
        s = du.solve(problem, du.LogRatios(detectors=ratios.detectors[rng.choice(ratios.n, 2000, p=q)]))
        table.append([*s.multipliers, s.dual, *s.multipliers_stderr, s.primal_stderr])
    said = np.array(table)
    for i in range(3):
        assert said[:, i].std() == pytest.approx(said[:, 3 + i].mean(), rel=0.28)  # as in test_groups


def test_refused() -> None:
    for order in (1.0, 0.5, 2.5, float("nan")):
        with pytest.raises(ValueError, match=r"order: .* an order in \(1, 2\] is needed"):
            du.Renyi(0.1, order=order)
    grouped = grouped_space(np.random.default_rng(6), count=2, detectors=1, m=1)
    with pytest.raises(ValueError, match="groups: given, but Renyi knows one normaliser"):
        du.solve(du.Renyi(0.2, kind="detector"), grouped)
    with pytest.raises(ValueError, match="part 1 is Renyi, whose cost is another"):
        du.Joint([du.Keep(0.1), du.Renyi(0.2, kind="detector")])
