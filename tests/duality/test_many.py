"""Many constraints: overlapping, redundant, partly inactive, duplicated; closed forms for up to 32 of them."""

import numpy as np
import pytest
from instances import finite_space, own_levels
from kkt import assert_optimal

import duality as du


def apart(m, rest=0.25, parts=4, seed=0):
    """q = sum_i pi_i q_i + rest · q_0 with supports apart, `parts` uneven nodes to each component."""
    rng = np.random.default_rng(seed)
    pi = (1 - rest) * rng.dirichlet(np.full(m, 5.0))
    within = rng.dirichlet(np.full(parts, 3.0), size=m + 1)
    masses = np.append(pi, rest)[:, None] * within
    values = np.full((m + 1, parts, m), -np.inf)
    for i in range(m):
        values[i, :, i] = -np.log(pi[i])
    log_q = np.log(masses.ravel())
    return du.LogRatios(values.reshape(-1, m), log_q - np.log(masses.sum()), priors=pi), pi


@pytest.mark.parametrize("m", [1, 2, 5, 16, 32])
def test_forward_supports_apart(m):
    # p keeps component i with mass e^{-b_i}: lam_i = pi_i - (1 - L) e^{-b_i}, linear in lam once L is known.
    ratios, pi = apart(m)
    levels = -np.log(pi) + np.random.default_rng(m).uniform(0.2, 3.0, size=m)
    levels[m // 2] = 0.5 * -np.log(pi[m // 2]) if m > 2 else levels[m // 2]
    solution = du.solve(du.ForwardKL(levels), ratios)
    assert_optimal(solution, ratios)
    kept = np.exp(-levels)
    active = np.ones(m, dtype=bool)
    if m > 2:
        active[m // 2] = False
    remainder = 1 - pi[active].sum()  # what the active ones share out: (1 - L) (1 - sum kept) = remainder
    share = remainder / (1 - kept[active].sum())
    expected = np.where(active, pi - share * kept, 0.0)
    np.testing.assert_allclose(solution.multipliers, expected, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(1 - solution.multipliers.sum(), share, rtol=1e-9)


@pytest.mark.parametrize("m", [1, 2, 5, 16, 32])
def test_posterior_supports_apart(m):
    # p keeps component i with mass b_i: lam_i = log(pi_i / b_i) - log((1 - sum pi)/(1 - sum b)) over active ones.
    ratios, pi = apart(m)
    levels = pi * np.random.default_rng(m).uniform(0.05, 0.8, size=m)
    solution = du.solve(du.Likelihood(levels), ratios)
    assert_optimal(solution, ratios)
    expected = np.log(pi / levels) - np.log((1 - pi.sum()) / (1 - levels.sum()))
    np.testing.assert_allclose(solution.multipliers, expected, rtol=1e-9)


PROBLEMS = {
    "reverse": (du.ReverseKL, {}, lambda own, u: own + 1.5 * u - 0.3),
    "forward": (du.ForwardKL, {}, lambda own, u: own * (0.9 + 0.25 * u)),
    "posterior": (du.Likelihood, {}, lambda own, u: own * (1.1 - 0.3 * u)),
    "log-ratio": (du.Likelihood, {"kind": "log-ratio"}, lambda own, u: own + 0.05 - 0.2 * u),
}


def instance(name, m, seed=0, n=600):
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, m, spread=0.7)
    kind, options, levels = PROBLEMS[name]
    own = own_levels(kind(1.0, **options), ratios)
    asked = levels(own, rng.uniform(size=m))
    return ratios, lambda b: kind(b, **options), asked if options else np.maximum(asked, 0.0)


@pytest.mark.parametrize("m", [2, 8, 32])
@pytest.mark.parametrize("name", PROBLEMS)
def test_partly_inactive(name, m):
    ratios, problem, levels = instance(name, m)
    solution = du.solve(problem(levels), ratios)
    assert_optimal(solution, ratios)
    if m == 32:
        assert 0 < (solution.multipliers > 0).sum() < m


@pytest.mark.parametrize("m", [3, 16])
@pytest.mark.parametrize("name", PROBLEMS)
def test_duplicates_share_their_multiplier(name, m):
    ratios, problem, levels = instance(name, m, seed=1)
    lone = du.solve(problem(levels), ratios)
    twice = du.LogRatios(
        np.hstack([ratios.values, ratios.values]), ratios.log_weights, priors=np.tile(ratios.priors, 2)
    )
    both = du.solve(problem(np.tile(levels, 2)), twice)
    assert_optimal(both, twice)
    np.testing.assert_allclose(both.dual, lone.dual, rtol=1e-10, atol=1e-12)
    # The sum over duplicates is determined where the constraints themselves are independent.
    np.testing.assert_allclose(both.multipliers[:m] + both.multipliers[m:], lone.multipliers, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(np.exp(both.log_weights), np.exp(lone.log_weights), atol=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_milder_duplicate_is_redundant(name):
    ratios, problem, levels = instance(name, 3, seed=2)
    lone = du.solve(problem(levels), ratios)
    twice = du.LogRatios(
        np.hstack([ratios.values, ratios.values]), ratios.log_weights, priors=np.tile(ratios.priors, 2)
    )
    milder = levels - lone.problem.direction * 0.05 * np.abs(levels)
    both = du.solve(problem(np.append(levels, milder)), twice)
    assert_optimal(both, twice)
    np.testing.assert_allclose(both.dual, lone.dual, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(both.multipliers[3:], 0.0, atol=1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_more_constraints_cost_more(name):
    ratios, problem, levels = instance(name, 12, seed=3)
    values = []
    for m in (1, 3, 6, 12):
        part = du.LogRatios(ratios.values[:, :m], ratios.log_weights, priors=ratios.priors[:m])
        values.append(du.solve(problem(levels[:m]), part).dual)
    assert (np.diff(values) >= -1e-12).all()


def test_a_face_of_the_forward_domain_with_several_nodes():
    # Three regions: only q_1, only q_2, both. The joint region binds first: lam_1 r_1 + lam_2 r_2 ≤ 1 there.
    q = np.array([0.2, 0.2, 0.3, 0.3])
    q_1 = np.array([0.1, 0.0, 0.7, 0.2])
    q_2 = np.array([0.0, 0.1, 0.7, 0.2])
    with np.errstate(divide="ignore"):
        ratios = du.LogRatios(np.log(np.column_stack([q_1, q_2]) / q[:, None]), np.log(q))
    for level in (2.0, 5.0, 12.0, 20.0):
        solution = du.solve(du.ForwardKL(level), ratios)
        assert_optimal(solution, ratios)
        lam = solution.multipliers
        np.testing.assert_allclose(lam[0], lam[1], rtol=1e-9)
        assert lam.sum() * 0.7 / 0.3 < 1
    # Far beyond what doubles resolve, the face itself is the answer, and its multiplier the slope of the value.
    far = [du.solve(du.ForwardKL([b, 3.0]), ratios) for b in (90.0, 100.0)]
    assert not any(s.attained for s in far)
    np.testing.assert_allclose(far[1].dual - far[0].dual, 10 * far[0].multipliers[0], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("name", PROBLEMS)
def test_random_instances_of_every_size(name, seed):
    m = [1, 2, 3, 5, 8, 13, 21, 32][seed % 8]
    ratios, problem, levels = instance(name, m, seed=100 + seed, n=300)
    assert_optimal(du.solve(problem(levels), ratios), ratios)
