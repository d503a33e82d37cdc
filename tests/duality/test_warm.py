"""Starts from a part of the nodes, passes in blocks and on threads: none of them is to show in the answer."""

import sys

import numpy as np
import pytest
from instances import finite_space, mixture_draws, own_levels
from kkt import assert_optimal

import duality as du
from duality import passes, warm
from duality.newton import climb

EPS = np.finfo(float).eps
SOLVE = sys.modules["duality.solve"]  # `duality.solve` is the function

PROBLEMS = {
    "reverse": lambda own: du.ReverseKL(own(du.ReverseKL(0.0)) + 0.7),
    "forward": lambda own: du.ForwardKL(own(du.ForwardKL(0.0)) * 1.1),
    "posterior": lambda own: du.Likelihood(own(du.Likelihood(1.0)) * 0.6),
    "density": lambda own: du.Likelihood(own(du.Likelihood(1.0, kind="density")) * 0.6, kind="density"),
    "log-ratio": lambda own: du.Likelihood(own(du.Likelihood(0.0, kind="log-ratio")) - 0.4, kind="log-ratio"),
}


def case(name, n=60_000, m=3, seed=0):
    ratios = finite_space(np.random.default_rng(seed), n, m)
    return PROBLEMS[name](lambda problem: own_levels(problem, ratios)), ratios


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_start_from_some_nodes_does_not_change_the_answer(name, monkeypatch):
    problem, ratios = case(name)
    begun = []

    def nearby(bound, given, dual):
        start = warm.nearby(bound, given, dual)
        begun.append(dual.to_natural(start.x))
        return start

    monkeypatch.setattr(SOLVE, "nearby", nearby)
    started = du.solve(problem, ratios)
    np.testing.assert_allclose(begun[0], started.natural, rtol=0.5)  # it was near
    assert (begun[0] != started.natural).any()
    monkeypatch.setattr(SOLVE, "nearby", lambda *given: None)
    cold = du.solve(problem, ratios)
    assert started.status is cold.status is du.Status.OPTIMAL
    assert_optimal(started, ratios)
    np.testing.assert_allclose(started.multipliers, cold.multipliers, rtol=1e-9)
    np.testing.assert_allclose(started.dual, cold.dual, rtol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_nor_does_one_that_leads_astray(name, monkeypatch):
    problem, ratios = case(name, n=5000)
    expected = du.solve(problem, ratios)

    def wrong(bound, given, dual):
        rng = np.random.default_rng(1)
        bend = np.diag(rng.uniform(1e-6, 1e6, size=dual.m))
        return warm.Start(rng.uniform(0.0, 0.1, size=dual.m), bend)

    monkeypatch.setattr(SOLVE, "nearby", wrong)
    found = du.solve(problem, ratios)
    assert_optimal(found, ratios)
    np.testing.assert_allclose(found.multipliers, expected.multipliers, rtol=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_where_q_meets_every_level_a_start_is_not_believed(name, monkeypatch):
    # Levels of q itself, to the last digit: some nodes say that something is to be done, all of them that nothing is.
    ratios = finite_space(np.random.default_rng(2), 60_000, 2)
    kind = type(PROBLEMS[name](lambda problem: own_levels(problem, ratios)))
    options = {"kind": name} if kind is du.Likelihood else {}
    own = own_levels(kind(1.0, **options), ratios)
    problem = kind(own, **options)
    with_start = du.solve(problem, ratios)
    monkeypatch.setattr(SOLVE, "nearby", lambda *given: None)
    cold = du.solve(problem, ratios)
    assert with_start.status is cold.status
    np.testing.assert_allclose(with_start.multipliers, cold.multipliers, atol=1e-9)


def test_levels_that_no_density_meets_are_infeasible_on_many_nodes_too():
    _, ratios = case("posterior")
    least = (ratios.priors * np.exp(ratios.values)).min(axis=0)
    with pytest.raises(du.InfeasibleError):
        du.solve(du.Likelihood(least * 0.5), ratios)


def test_levels_beyond_what_tilts_reach_have_the_same_answer():
    # On the few nodes a face of the domain is another one, or none.
    ratios = mixture_draws(np.random.default_rng(3), 60_000)
    for problem in (du.ForwardKL(40.0), du.ReverseKL(30.0)):
        found = du.solve(problem, ratios)
        again = SOLVE.finish(b := problem.bind(ratios), ratios, SOLVE.optimise(b, ratios, b.dual(ratios)))
        assert found.status is again.status
        np.testing.assert_allclose(found.dual, again.dual, rtol=1e-10)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("count", [2, 3])
def test_threads_do_not_show(name, count, monkeypatch):
    problem, ratios = case(name, n=20_000)
    alone = du.solve(problem, ratios)
    monkeypatch.setattr(passes, "BLOCK", 3000)  # twenty blocks
    with passes.workers(count):
        shared = du.solve(problem, ratios)
    # Sums in another order, and nothing else.
    np.testing.assert_allclose(shared.multipliers, alone.multipliers, rtol=1e-10)
    np.testing.assert_allclose(shared.log_weights, alone.log_weights, atol=1e-10)


@pytest.mark.parametrize("name", ["reverse", "forward", "posterior"])
def test_sums_in_blocks_are_those_of_all_nodes_at_once(name, monkeypatch):
    problem, ratios = case(name, n=7000)
    bound = problem.bind(ratios)
    x = None
    found = []
    for block in (10**9, 3072):
        monkeypatch.setattr(passes, "BLOCK", block)
        dual = bound.dual(ratios)
        x = dual.from_natural(du.solve(problem, ratios).natural) if x is None else x
        at, seen = dual.evaluate(x), bound.dual(ratios).glance(x)
        assert seen.value == at.value  # the same sums, but for the curvature
        np.testing.assert_array_equal(seen.gradient, at.gradient)
        # In a pass of its own, of masses relative to another node: sums of 7000 terms, rounded anew.
        scale = np.sqrt(np.outer(at.curvature.diagonal(), at.curvature.diagonal()))
        assert (np.abs(seen.curvature - at.curvature) <= 4 * EPS * np.sqrt(7000) * scale).all()
        assert (np.linalg.eigvalsh(at.curvature) > 0).all()
        found.append((at.value, at.misses, at.curvature))
    for whole, parts in zip(*found, strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-13)


def test_far_out_sums_in_blocks_keep_their_digits(monkeypatch):
    # Each block has a heaviest node of its own, hundreds of nats apart: what is relative to one is moved to another.
    rng = np.random.default_rng(4)
    values = np.sort(rng.normal(scale=300.0, size=(8192, 1)), axis=0)
    values -= np.log(np.exp(values - values.max()).mean()) + values.max()
    log_q = rng.normal(scale=20.0, size=8192)
    log_q -= np.log(np.exp(log_q - log_q.max()).sum()) + log_q.max()
    ratios = du.LogRatios(values, log_q)
    problem = du.Likelihood(values.min() + 100.0, kind="log-ratio").bind(ratios)
    dual = problem.dual(ratios)
    found = []
    for block in (10**9, 1024):
        monkeypatch.setattr(passes, "BLOCK", block)
        dual = problem.dual(ratios)
        for natural in (1e-3, 0.3, 40.0):
            at = dual.evaluate(dual.from_natural(np.array([natural])))
            found.append([at.value, at.misses[0], at.curvature[0, 0]])
    np.testing.assert_allclose(found[3:], found[:3], rtol=1e-11)


def test_a_climb_with_old_curvature_ends_where_one_with_new_does():
    # A wrong curvature slows a climb down, and no more: here it is off by a factor of up to a hundred each way.
    problem, ratios = case("reverse", n=4000)
    bound = problem.bind(ratios)
    dual = bound.dual(ratios)
    units = bound.units(ratios)
    plain = climb(dual, np.zeros(3), units)
    bend = plain.at.curvature * np.diag([0.01, 1.0, 100.0])
    lent = climb(dual, plain.x * 1.2, units, bend=bend)
    np.testing.assert_allclose(lent.x, plain.x, rtol=1e-10)
