"""A bounded tail: every threshold by CVXPY, the definition of CVaR, and what has no threshold."""

from __future__ import annotations

import time

import numpy as np
import pytest
from grouped import grouped_space

import duality as du


def tail_mean(p: np.ndarray, values: np.ndarray, tail: float) -> float:
    """The mean of the worst share of p, by sorting."""
    falling = np.argsort(-values)
    taken = np.diff(np.minimum(np.cumsum(p[falling]), tail), prepend=0.0)
    return float(taken @ values[falling]) / tail


def space_of(rng: np.random.Generator, count: int | None = None) -> du.LogRatios:
    made = grouped_space(rng, count=count, most=14, detectors=1, m=1)
    return du.LogRatios(None, made.log_weights, None, None, made.groups, made.group_weights, made.detectors)


def at_threshold(ratios: du.LogRatios, t: float, tail: float) -> du.LogRatios:
    seen = t + np.maximum(ratios.detectors - t, 0.0) / tail
    return du.LogRatios(None, ratios.log_weights, None, None, ratios.groups, ratios.group_weights, seen)


def agree(seed: int) -> str:
    """Against CVXPY's value at every threshold that a node gives."""
    rng = np.random.default_rng(seed)
    ratios = space_of(rng)
    seen, q = ratios.detectors[:, 0], np.exp(ratios.log_weights)
    tail = float(rng.choice([0.05, 0.2, 0.5, 0.9, 1.0]))
    level = tail_mean(q, seen, tail) * rng.uniform(0.3, 1.05)
    values = []
    for t in np.unique(seen[seen < level]):
        try:
            values.append(
                du.reference.solve(du.Likelihood(level, kind="detector"), at_threshold(ratios, t, tail)).value
            )
        except ValueError:
            values.append(np.inf)
    best = min(values, default=np.inf)
    problem = du.TailLikelihood(level, kind="detector", tail=tail)
    if best == np.inf:
        with pytest.raises(du.InfeasibleError) as refused:
            du.solve(problem, ratios)
        # The least of all tails: every group on its least value.
        least = np.full(ratios.group_weights.size, np.inf)
        np.minimum.at(least, ratios.groups, seen)
        assert refused.value.least[0] == pytest.approx(
            tail_mean(np.asarray(ratios.group_weights), least, tail), rel=1e-6
        )
        return "INFEASIBLE"
    found = du.solve(problem, ratios)
    assert found.dual == pytest.approx(best, abs=1e-6)
    assert found.gap <= 1e-10
    p = np.exp(found.log_weights)
    if found.status is du.Status.OPTIMAL:
        assert tail_mean(p, seen, tail) == pytest.approx(level, abs=1e-8)
    else:
        assert tail_mean(p, seen, tail) <= level + 1e-8
    return found.status.name


def test_against_cvxpy_at_every_threshold() -> None:
    pytest.importorskip("cvxpy")
    seen = [agree(seed) for seed in range(24)]
    assert seen.count("OPTIMAL") > 10


def test_least_of_the_tails_is_said_where_none_will_do() -> None:
    ratios = du.LogRatios(
        None, np.log([0.25, 0.25, 0.3, 0.2]), None, None, [0, 0, 1, 1], [0.5, 0.5], [0.1, 0.9, 0.6, 0.8]
    )
    with pytest.raises(du.InfeasibleError) as refused:
        du.solve(du.TailLikelihood(0.3, kind="detector", tail=0.7), ratios)
    assert refused.value.least[0] == pytest.approx((0.5 * 0.6 + 0.2 * 0.1) / 0.7, rel=1e-9)


def test_a_tail_asks_for_more_than_a_mean_and_leaves_the_rest_alone() -> None:
    rng = np.random.default_rng(1)
    ratios = du.LogRatios(None, np.full(4000, -np.log(4000)), detectors=rng.beta(0.4, 2.0, 4000))
    seen = ratios.detectors[:, 0]
    mean = du.solve(du.Likelihood(0.1, kind="detector"), ratios)
    tail = du.solve(du.TailLikelihood(0.4, kind="detector", tail=0.1), ratios)
    assert tail_mean(np.exp(mean.log_weights), seen, 0.1) > 0.4
    assert tail_mean(np.exp(tail.log_weights), seen, 0.1) == pytest.approx(0.4, abs=1e-9)
    tilt = tail.log_weights - ratios.log_weights
    below = seen < tail.problem.threshold
    assert np.ptp(tilt[below]) < 1e-12
    assert tilt[~below].min() < tilt[below].min() - 0.1
    assert du.solve(du.TailLikelihood(0.1, kind="detector", tail=1.0), ratios).dual == pytest.approx(
        mean.dual, rel=1e-9
    )
    worse = du.solve(du.TailLikelihood(0.4, kind="detector", tail=0.1, threshold=0.2), ratios)
    assert worse.primal > tail.primal
    assert tail_mean(np.exp(worse.log_weights), seen, 0.1) <= 0.4


def test_many_draws_take_few_thresholds() -> None:
    rng = np.random.default_rng(2)
    ratios = du.LogRatios(detectors=rng.beta(0.4, 0.6, 50_000))
    start = time.process_time()
    found = du.solve(du.TailLikelihood(0.97, kind="detector", tail=0.1), ratios)
    assert time.process_time() - start < 30  # a second where it was written; every threshold would take half an hour
    assert found.status is du.Status.OPTIMAL


def test_json_joint_and_curve() -> None:
    ratios = space_of(np.random.default_rng(3), count=2)
    own = tail_mean(np.exp(ratios.log_weights), ratios.detectors[:, 0], 0.3)
    problem = du.TailLikelihood(own * 0.9, kind="detector", tail=0.3)
    found = du.solve(problem, ratios)
    read = du.Solution.from_json(found.to_json())
    assert read.problem.threshold == found.problem.threshold
    np.testing.assert_array_equal(read.log_weight(ratios.detectors), found.log_weight(ratios.detectors))
    curve = du.frontier(problem, ratios, own * np.array([1.1, 0.95, 0.9]))
    assert curve[0].inactive
    assert curve[2].dual == pytest.approx(found.dual, abs=1e-10)
    both = du.Joint([found.problem, du.Keep(0.0)], columns=[[0], [0]])
    assert du.solve(both, ratios).dual == pytest.approx(found.dual, abs=1e-10)
    lam, step = np.array([0.7]), 1e-6
    point = np.array([[0.1], [0.5], [0.9]])
    slope = (found.problem.noised_tilt(point + step, lam) - found.problem.noised_tilt(point - step, lam)) / (2 * step)
    np.testing.assert_allclose(found.problem.strengths(point, lam)[:, 0], -slope, rtol=1e-6, atol=1e-9)


def test_refused() -> None:
    for tail in (0.0, 1.2, float("nan")):
        with pytest.raises(ValueError, match=r"tail: .* a share in"):
            du.TailLikelihood(0.1, tail=tail)
    with pytest.raises(ValueError, match="levels: 2 given; each tail has a threshold"):
        du.TailLikelihood([0.1, 0.2])
    with pytest.raises(ValueError, match="part 0 is a TailLikelihood without a threshold"):
        du.Joint([du.TailLikelihood(0.1, kind="detector"), du.Keep(0.1)])
    with pytest.raises(ValueError, match="threshold: this problem has none yet"):
        du.TailLikelihood(0.1, kind="detector").log_weight(np.zeros((2, 1)), [0.1])
    two = du.LogRatios(detectors=[[0.1, 0.2], [0.3, 0.4]])
    with pytest.raises(ValueError, match="columns: 2 given for one tail"):
        du.solve(du.TailLikelihood(0.1, kind="detector"), two)
