"""A climb in single precision: near the maximum, never the answer, and left out where it would be no help."""

import sys
from functools import partial

import numpy as np
import pytest
from instances import bound_case
from kkt import assert_optimal

import duality as du
from duality import warm
from duality.coarse import GRAIN, coarse
from duality.newton import maximise
from duality.quick import CLOSE, quick

SOLVE = sys.modules["duality.solve"]  # `duality.solve` is the function
SINGLE = float(np.finfo(np.float32).eps)
KINDS = {
    "reverse": (du.ReverseKL, {}, (1.2, 1.8)),
    "forward": (du.ForwardKL, {}, (1.02, 1.1)),
    "posterior": (du.Likelihood, {}, (0.5, 0.9)),
    "log-ratio": (du.Likelihood, {"kind": "log-ratio"}, (1.05, 1.5)),
}


def case(name, n=30_000, m=5, seed=0):
    kind, options, bounds = KINDS[name]
    return bound_case(partial(kind, **options), bounds, n, m, seed)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_the_same_function_to_six_digits(name):
    problem, ratios = case(name)
    dual = problem.dual(ratios)
    rough = coarse(dual)
    x = np.full(5, 0.05)
    at, there = dual.evaluate(x), rough.evaluate(x)
    # A sum of n numbers in single precision is off by about sqrt(n) roundings of its terms at the most.
    allowed = SINGLE * (16 + 4 * np.sqrt(ratios.n))
    size = 1.0 + np.abs(problem.levels)
    assert (np.abs(at.misses - there.misses) <= allowed * size).all()
    assert abs(at.value - there.value) <= there.noise
    assert there.noise >= GRAIN * at.noise / 4  # it does not claim digits that it has not
    scale = np.sqrt(np.outer(at.curvature.diagonal(), at.curvature.diagonal()))
    assert (np.abs(at.curvature - there.curvature) <= allowed * scale).all()
    assert there.misses.dtype == there.gradient.dtype == there.curvature.dtype == np.float64
    assert (at.misses != there.misses).any()


@pytest.mark.parametrize("name", KINDS)
def test_a_leap_lands_near_the_maximum_and_does_not_claim_to_be_there(name):
    problem, ratios = case(name)
    dual, units = problem.dual(ratios), problem.units(ratios)
    halt = quick(coarse(dual), np.zeros(5), units, warm.COARSE**2, leap=warm.COARSE)
    assert halt.arrived
    landed = dual.evaluate(halt.climb.x)
    active = halt.climb.x > 0
    miss = np.where(active, np.abs(landed.misses), landed.misses) / units
    assert CLOSE < miss.max() <= warm.COARSE / 10
    best = maximise(problem.dual(ratios), np.zeros(5), units)
    assert landed.value <= best.at.value + best.at.noise + landed.noise


@pytest.mark.parametrize("name", KINDS)
def test_the_answer_is_that_of_double_precision(name, monkeypatch):
    problem, ratios = case(name)
    calls = []

    def seen(dual):
        calls.append(dual)
        return coarse(dual)

    monkeypatch.setattr(warm, "coarse", seen)
    found = du.solve(problem, ratios)
    assert len(calls) == 1
    assert_optimal(found, ratios)
    monkeypatch.setattr(warm, "coarse", lambda dual: None)
    alone = du.solve(problem, ratios)
    assert found.status is alone.status is du.Status.OPTIMAL
    np.testing.assert_allclose(found.multipliers, alone.multipliers, rtol=1e-8)
    np.testing.assert_allclose(found.dual, alone.dual, rtol=1e-12)
    assert max(found.gap, found.kkt_residual) <= 1e-10


@pytest.mark.parametrize("name", KINDS)
def test_nonsense_from_it_is_not_believed(name, monkeypatch):
    problem, ratios = case(name)
    expected = du.solve(problem, ratios)

    def wrong(dual):  # of other weights: its maximum is elsewhere
        rough = coarse(dual)
        rough._log_q = np.roll(rough._log_q, 7)
        if hasattr(rough, "_qs"):
            rough._qs = lambda part: np.full(len(range(*part.indices(30_000))), np.float32(3.0 / 30_000))
        return rough

    monkeypatch.setattr(warm, "coarse", wrong)
    found = du.solve(problem, ratios)
    assert_optimal(found, ratios)
    np.testing.assert_allclose(found.multipliers, expected.multipliers, rtol=1e-8)


def test_single_precision_would_lose_what_hangs_on_small_differences():
    # A statistic far from 0 and of little spread is centred first; single precision has no digits of that.
    values = 1e4 + np.random.default_rng(0).normal(size=(4000, 3))
    problem = du.Likelihood(values.mean(axis=0) - 0.1, kind="log-ratio")
    ratios = du.LogRatios(values)
    assert coarse(problem.bind(ratios).dual(ratios)) is None


def test_ratios_that_are_in_single_precision_are_not_copied_into_it():
    ratios = du.LogRatios((np.random.default_rng(0).normal(size=(4000, 3)) * 0.1).astype(np.float32))
    assert coarse(du.ReverseKL(0.1).bind(ratios).dual(ratios)) is None
