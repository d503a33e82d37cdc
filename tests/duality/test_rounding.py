"""Rounding is a matter of the order of sums, and so of the processor: what the solver allows for it must cover that."""

import dataclasses

import numpy as np
import pytest
from instances import mixture_draws, own_levels
from kkt import assert_optimal

import duality as du
from duality.dual_protocol import rounding
from duality.newton import TARGET, climb
from duality.solve import finish

CASES = {
    "reverse": lambda own: du.ReverseKL(own(du.ReverseKL(0.0)) * 1.1 + 0.5),
    "forward": lambda own: du.ForwardKL(own(du.ForwardKL(0.0)) * 1.2),
    "posterior": lambda own: du.Likelihood(own(du.Likelihood(1.0)) * 0.5),
    "log-ratio": lambda own: du.Likelihood(own(du.Likelihood(0.0, kind="log-ratio")) - 1.0, kind="log-ratio"),
}


def case(name, n, seed=0):
    ratios = mixture_draws(np.random.default_rng(seed), n, concepts=(0, 2))
    return CASES[name](lambda problem: own_levels(problem, ratios)).bind(ratios), ratios


class Lowered:
    """A dual function on a processor that rounds as badly as `noise` allows: down, and the more so near the optimum.

    Values within it then seem to fall on the last steps, by less than two `noise`, as sums do in an unlucky order.
    """

    def __init__(self, dual, optimum):
        self._dual, self._optimum = dual, optimum

    def __getattr__(self, name):
        return getattr(self._dual, name)

    def evaluate(self, x):
        at = self._dual.evaluate(x)
        distance = np.abs(x - self._optimum).max() / np.abs(self._optimum).max() + 1e-16
        return dataclasses.replace(at, value=at.value + at.noise * np.clip(np.log10(distance) / 4 + 2, -1.0, 1.0))


@pytest.mark.parametrize("n", [2_000, 20_000, 200_000])
@pytest.mark.parametrize("name", CASES)
def test_the_climb_ends_at_the_optimum_however_values_round(name, n):
    problem, ratios = case(name, n)
    dual = problem.dual(ratios)
    dual = Lowered(dual, dual.from_natural(du.solve(problem, ratios).natural))
    found = climb(dual, np.zeros(dual.m), problem.units(ratios))
    plain = problem.dual(ratios)
    found = dataclasses.replace(found, at=plain.evaluate(found.x), dual=plain)
    solution = finish(problem, ratios, problem.answer(ratios, plain, found, TARGET))
    assert_optimal(solution, ratios)


@pytest.mark.parametrize("name", CASES)
def test_another_order_of_the_nodes_moves_the_value_by_no_more_than_its_noise(name):
    problem, ratios = case(name, 50_000)
    natural = du.solve(problem, ratios).natural
    rng = np.random.default_rng(1)
    found = []
    for _ in range(10):
        order = rng.permutation(ratios.n)
        other = du.LogRatios(ratios.values[order], None, ratios.log_densities[order], ratios.priors)
        dual = problem.dual(other)
        found.append(dual.evaluate(dual.from_natural(natural)))
    values = np.array([at.value for at in found])
    assert np.ptp(values) <= 2 * found[0].noise
    assert found[0].noise <= 1e-11  # and it says something: a gap of 1e-10 is what the certificate promises


def test_the_rule_covers_the_worst_order_there_is():
    # One accumulator, from the first term to the last: no processor is worse.
    rng = np.random.default_rng(2)
    for n in (100, 10_000, 1_000_000):
        terms = rng.exponential(size=n) / n
        one_by_one, exact = float(np.cumsum(terms)[-1]), float(np.sum(terms.astype(np.longdouble)))
        assert abs(one_by_one - exact) <= rounding(exact, exact, n)
        # Not for free: with the part that does not grow with n alone, a long sum passes the rule.
        if n == 1_000_000:
            assert abs(one_by_one - exact) > rounding(exact, 0.0, n)
