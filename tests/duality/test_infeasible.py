"""Likelihood levels that no density meets, and the least that can be had."""

import numpy as np
import pytest
from instances import finite_space, mixture_draws
from scipy.optimize import linprog

import duality as du


def test_below_the_smallest_likelihood():
    ratios = finite_space(np.random.default_rng(0), 100, 1)
    smallest = float((ratios.priors * np.exp(ratios.values)).min())
    for level in (smallest * 0.99, smallest, 0.0, -1.0):
        with pytest.raises(du.InfeasibleError, match="the least that can be had") as caught:
            du.solve(du.Likelihood(level), ratios)
        # A linear program of one row, scaled to unit size: HiGHS works to 1e-9 of that size and better.
        np.testing.assert_allclose(caught.value.least, max(smallest, level), rtol=1e-7)
    assert du.solve(du.Likelihood(smallest * 1.01), ratios).attained


def test_nodes_without_weight_cannot_help():
    values = np.log(np.array([0.5, 0.4, 0.01]))
    ratios = du.LogRatios(values, [np.log(0.5), np.log(0.5), -np.inf], priors=0.5)
    with pytest.raises(du.InfeasibleError) as caught:
        du.solve(du.Likelihood(0.1), ratios)
    np.testing.assert_allclose(caught.value.least, 0.2, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_conflicting_levels_against_the_plain_linear_program(seed):
    rng = np.random.default_rng(seed)
    # Three concepts that cover everything: posteriors sum to 1, so levels that sum to less conflict.
    posterior = rng.dirichlet(np.ones(3), size=400)
    ratios = du.LogRatios(np.log(posterior * 3), np.full(400, -np.log(400)), priors=np.full(3, 1 / 3))
    levels = np.array([0.5, 0.2, 0.1]) * rng.uniform(0.8, 1.2)
    own = posterior.mean(axis=0)
    with pytest.raises(du.InfeasibleError) as caught:
        du.solve(du.Likelihood(levels), ratios)
    gap = np.maximum(own - levels, 0.0)
    program = linprog(
        np.append(np.zeros(400), 1.0),
        A_ub=np.column_stack([posterior.T, -gap]),
        b_ub=levels,
        A_eq=np.append(np.ones(400), 0.0)[None],
        b_eq=[1.0],
    )
    np.testing.assert_allclose(caught.value.least, levels + program.fun * gap, rtol=1e-7)
    assert (caught.value.least >= levels).all()
    # Just above the least, a density exists; just below, none does.
    step = 1e-3 * (own - caught.value.least)
    assert du.solve(du.Likelihood(caught.value.least + step), ratios).status is du.Status.OPTIMAL
    with pytest.raises(du.InfeasibleError):
        du.solve(du.Likelihood(caught.value.least - 1e-3 * gap), ratios)


def test_many_nodes_go_through_the_working_set():
    rng = np.random.default_rng(7)
    posterior = rng.dirichlet(np.ones(4), size=60_000)[:, :3]
    ratios = du.LogRatios(np.log(posterior * 4), np.full(60_000, -np.log(60_000)), priors=np.full(3, 0.25))
    with pytest.raises(du.InfeasibleError) as caught:
        du.solve(du.Likelihood([1e-5, 2e-5, 1e-5]), ratios)
    least = caught.value.least
    share = (least - [1e-5, 2e-5, 1e-5]) / (posterior.mean(axis=0) - [1e-5, 2e-5, 1e-5])
    np.testing.assert_allclose(share, share[0], rtol=1e-6)
    # Duality: for every weight y ≥ 0, min_x y·l(x) ≤ y·least.
    for y in rng.dirichlet(np.ones(3), size=200):
        assert float((posterior @ y).min()) <= y @ least + 1e-12


def test_conflict_in_log_ratios():
    values = np.array([[1.0, -1.0], [-1.0, 1.0]])
    with pytest.raises(du.InfeasibleError) as caught:
        du.solve(du.Likelihood([-0.5, -0.5], kind="log-ratio"), du.LogRatios(values, np.log([0.5, 0.5])))
    np.testing.assert_allclose(caught.value.least, [0.0, 0.0], atol=1e-9)


def test_it_is_a_value_error_that_says_everything():
    error = du.InfeasibleError(np.array([0.1, 0.2]), np.array([0.3, 0.4]))
    assert isinstance(error, ValueError)
    assert "0.1, 0.2" in str(error)
    assert "0.3, 0.4" in str(error)


def test_a_kind_that_does_not_say_what_can_be_had():
    class Silent(du.Likelihood):
        def least_levels(self, ratios):
            return du.Problem.least_levels(self, ratios)

    with pytest.raises(du.InfeasibleError, match=r"what can be had is not known.*Problem.least_levels") as caught:
        du.solve(Silent(1e-9, priors=0.5), finite_space(np.random.default_rng(0), 50, 1))
    assert np.isnan(caught.value.least).all()


@pytest.mark.parametrize("seed", range(3))
def test_conflicts_among_many_concepts_are_minimal(seed):
    # By a linear program over all draws, from the definition: the constraints named have no density in common, and
    # without any one of them they do.
    ratios = mixture_draws(np.random.default_rng(seed), 3000, concepts=(0, 1, 2))
    table = np.exp(ratios.values) * np.array([0.3, 0.4, 0.3])
    table = np.hstack([table, 1 - table, np.random.default_rng(seed).uniform(size=(3000, 6))])
    own = table.mean(axis=0)
    levels = np.concatenate([0.3 * own[:3], own[3:6] * [1.0, 0.9, 0.5], 0.9 * own[6:]])
    detected = du.LogRatios(detectors=table)
    with pytest.raises(du.InfeasibleError) as caught:
        du.solve(du.Likelihood(levels, kind="detector"), detected)
    named = caught.value.conflict

    def least(chosen):
        rows = np.hstack([(table[:, chosen] - levels[chosen]).T, -np.ones((len(chosen), 1))])
        cost = np.append(np.zeros(3000), 1.0)
        mass = np.append(np.ones(3000), 0.0)[None]
        bounds = [(0, None)] * 3000 + [(None, None)]
        return linprog(cost, A_ub=rows, b_ub=np.zeros(len(chosen)), A_eq=mass, b_eq=[1.0], bounds=bounds).fun

    assert 1 < named.size < 12
    assert least(named) > 0
    for i in named:
        assert least(named[named != i]) < 0


@pytest.mark.parametrize(
    ("forgotten", "kept"), [((0.0, 0.2), (0.0, 0.3)), ((0.05, 0.3), (0.0, 1.0)), ((0.0, 0.25), (0.05, 0.3))]
)
def test_what_is_kept_may_vanish_to_doubles_where_q_has_weight(forgotten, kept):
    # Narrow modes of a wide law, as the explorer draws them: e^rho underflows on most of q, for one or for both.
    x = np.linspace(-50.0, 50.0, 401)
    log_q = np.logaddexp(np.logaddexp(-0.5 * x**2, -0.5 * (x - 3.0) ** 2), -0.5 * (x - 40.0) ** 2)
    weights = log_q - np.logaddexp.reduce(log_q)

    def ratio(mean, width):
        rho = -0.5 * ((x - mean) / width) ** 2 - log_q
        return rho - np.logaddexp.reduce(rho + weights)

    ratios = du.LogRatios(np.stack([ratio(*forgotten), ratio(*kept)], axis=1), weights)
    assert (np.exp(ratios.values - ratios.values.max(axis=0))[:, 1] == 0).any()

    def asked(levels):
        return du.Joint([du.ForwardKL(float(levels[0])), du.Keep(float(levels[1]), kind="forward-kl")])

    first = np.array([30.0, 1e-4])
    with pytest.raises(du.InfeasibleError) as found:
        du.solve(asked(first), ratios)
    least = found.value.least
    assert (np.isfinite(least)).all()
    assert least[0] <= first[0]
    assert least[1] >= first[1]
    # The same part of the way for both: a little less of it cannot be had either, a little more can.
    with pytest.raises(du.InfeasibleError):
        du.solve(asked(least + 1e-3 * (first - least)), ratios)
    had = du.solve(asked(least - 1e-2 * (first - least)), ratios)
    assert np.isfinite(had.dual)
