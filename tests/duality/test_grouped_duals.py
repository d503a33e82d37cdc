"""A dual function with one normaliser for all nodes is refused where these are in several groups."""

import numpy as np
import pytest

import duality as du
from duality.dual_functions import ExponentialDual, MixtureDual


class OneNormaliser(du.ReverseKL):
    def dual(self, ratios):
        return ExponentialDual(ratios.values, ratios.log_weights, -self.levels, shared=True)


class OneMixture(du.ForwardKL):
    def dual(self, ratios):
        return MixtureDual(ratios.values, ratios.log_weights, self.levels)


class OneLikelihood(du.Likelihood):
    def dual(self, ratios):
        table = np.asarray(self.likelihoods(ratios.values))
        return ExponentialDual(table, ratios.log_weights, self.levels, shared=False)


PROBLEMS = [OneNormaliser(1.2), OneMixture(0.2), OneLikelihood(0.15, priors=0.2)]


def nodes(count):
    rng = np.random.default_rng(0)
    groups = None if count is None else np.arange(300) % count
    weights = None if count is None else np.full(count, 1.0 / count)
    rho = rng.normal(size=(300, 1)) * 0.5 - 0.125
    return du.LogRatios(rho, np.full(300, -np.log(300)), groups=groups, group_weights=weights).normalise()


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
def test_it_is_refused_wherever_it_would_be_used(problem):
    for use in (
        lambda ratios: du.solve(problem, ratios),
        lambda ratios: du.dual_function(problem, ratios, 0.1),
        lambda ratios: du.frontier(problem, ratios, [0.15, 0.16]),
        lambda ratios: du.fixed_weights(problem, ratios, [0.1]),
        lambda ratios: du.primal_dual.ExactPlayer(problem, ratios),
    ):
        with pytest.raises(ValueError, match=rf"groups: 3 given, .*{type(problem).__name__} is .*one normaliser"):
            use(nodes(3))


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: type(problem).__name__)
@pytest.mark.parametrize("count", [None, 1])
def test_where_there_is_one_group_it_is_as_good_as_the_built_in_one(problem, count):
    built_in = type(problem).__bases__[0]
    options = {"priors": 0.2} if built_in is du.Likelihood else {}
    found, expected = du.solve(problem, nodes(count)), du.solve(built_in(problem.levels, **options), nodes(count))
    np.testing.assert_allclose(found.multipliers, expected.multipliers, rtol=1e-9)
    assert np.isfinite(du.solve(built_in(problem.levels, **options), nodes(3)).dual)  # which groups are nothing to
