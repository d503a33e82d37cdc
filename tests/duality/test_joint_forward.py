"""ForwardKL beside bounded expectations: the mass multiplier, its derivatives, draws, curves and text."""

from __future__ import annotations

import numpy as np
import pytest
from grouped import grouped_space

import duality as du


def problem_of(ratios: du.LogRatios, harder: float = 1.0) -> du.Joint:
    """FU with one level, a detector bounded above, another below."""
    own = np.exp(ratios.log_weights) @ ratios.detectors
    return du.Joint(
        [
            du.Likelihood(own[0] * 0.8, kind="detector"),
            du.ForwardKL(0.6 * harder),
            du.Keep(own[1] * 1.1),
        ]
    )


def test_the_target_is_the_quotient_and_its_mass_multiplier_is_what_the_mixture_leaves() -> None:
    ratios = grouped_space(np.random.default_rng(2), count=1, detectors=2, m=1)
    found = du.solve(problem_of(ratios), ratios)
    assert found.status is du.Status.OPTIMAL
    assert (found.multipliers > 0).all()
    most, lam, least = found.multipliers
    b = found.problem.levels
    seen = ratios.detectors
    u = 1 - lam * np.exp(ratios.values[:, 0])
    eta = 1 - lam + most * (seen[:, 0] - b[0]) - least * (seen[:, 1] - b[2])
    # Not normalised: with mu = 1 - lam its mass is one by itself.
    np.testing.assert_allclose(np.exp(ratios.log_weights) * u / eta, np.exp(found.log_weights), rtol=1e-9)
    # No other density on the way to it that meets the levels costs less.
    rng = np.random.default_rng(3)
    q, p = np.exp(ratios.log_weights), np.exp(found.log_weights)
    for _ in range(200):
        other = p * np.exp(0.05 * rng.normal(size=p.size))
        other /= other.sum()
        if (found.problem.slack_of(ratios, np.log(other)) >= 0).all():
            assert q @ np.log(q / other) >= found.primal


def test_ratios_of_another_mass_leave_the_weight_that_of_the_target() -> None:
    ratios = grouped_space(np.random.default_rng(2), count=1, detectors=2, m=1)
    off = du.LogRatios(ratios.values - 0.2, ratios.log_weights, detectors=ratios.detectors)
    with pytest.warns(du.MassWarning):
        found = du.solve(problem_of(off, 0.5), off)
    assert found.status is du.Status.OPTIMAL
    again = du.Solution.from_json(found.to_json())
    for one in (found, again):
        log_p = off.log_weights + one.log_weight(one.problem.inputs(off))
        log_p -= np.log(np.exp(log_p).sum())
        np.testing.assert_allclose(np.exp(log_p), np.exp(found.log_weights), rtol=1e-9)


@pytest.mark.parametrize("count", [1, 3])
def test_dual_function_has_its_derivatives_and_bounds_every_density(count: int) -> None:
    ratios = grouped_space(np.random.default_rng(4), count=count, detectors=2, m=1)
    problem = problem_of(ratios)
    found = du.solve(problem, ratios)
    assert du.dual_function(problem, ratios, found.multipliers).value == pytest.approx(found.dual, abs=1e-12)
    lam = found.multipliers * 0.8 + 0.01
    there = du.dual_function(problem, ratios, lam)
    step = 1e-6
    up = [du.dual_function(problem, ratios, lam + step * e) for e in np.eye(3)]
    down = [du.dual_function(problem, ratios, lam - step * e) for e in np.eye(3)]
    pairs = list(zip(up, down, strict=True))
    slopes = [(a.value - b.value) / (2 * step) for a, b in pairs]
    bends = np.array([(a.gradient - b.gradient) / (2 * step) for a, b in pairs])
    np.testing.assert_allclose(there.gradient, slopes, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(there.hessian, bends, rtol=1e-5, atol=1e-7)
    assert there.value < found.dual
    outside = np.array([0.1, 2.0 * float(np.exp(-ratios.values).min()), 0.1])
    assert du.dual_function(problem, ratios, outside).value == -np.inf


def test_frontier_is_convex_and_its_slopes_are_the_multipliers() -> None:
    for count in (1, 2):
        ratios = grouped_space(np.random.default_rng(5), count=count, detectors=2, m=1)
        levels = np.tile(problem_of(ratios).levels, (5, 1))
        levels[:, 1] = [0.3, 0.4, 0.5, 0.6, 0.7]
        curve = du.frontier(problem_of(ratios), ratios, levels)
        values = np.array([one.dual for one in curve])
        slopes = np.diff(values) / 0.1
        assert (np.diff(slopes) >= -1e-12).all()
        for k, slope in enumerate(slopes):
            assert curve[k].multipliers[1] - 1e-9 <= slope <= curve[k + 1].multipliers[1] + 1e-9
        alone = du.solve(du.Joint(curve[2].problem.problems), ratios)
        np.testing.assert_allclose(curve[2].multipliers, alone.multipliers, rtol=1e-7, atol=1e-10)


def test_solutions_are_read_back_and_groups_refuse_a_weight_of_values() -> None:
    one = grouped_space(np.random.default_rng(6), count=1, detectors=2, m=1)
    found = du.solve(problem_of(one), one)
    read = du.Solution.from_json(found.to_json())
    np.testing.assert_array_equal(read.natural, found.natural)
    inputs = found.problem.inputs(one)
    np.testing.assert_array_equal(read.log_weight(inputs), found.log_weight(inputs))
    np.testing.assert_allclose(found.problem.log_weight(inputs, found.multipliers), found.log_weight(inputs), atol=1e-9)
    many = grouped_space(np.random.default_rng(7), count=3, detectors=2, m=1)
    grouped = du.solve(problem_of(many), many)
    again = du.Solution.from_json(grouped.to_json())
    for each in (grouped, again):
        for ask in (each.log_weight, each.guidance):
            with pytest.raises(ValueError, match="every group has a mass multiplier of its own"):
                ask(grouped.problem.inputs(many))


def test_strengths_of_guidance_are_derivatives_of_the_noised_weight() -> None:
    rng = np.random.default_rng(8)
    problem = du.Joint(
        [du.ForwardKL(0.5), du.Likelihood(0.2, priors=0.3), du.Keep(0.3), du.Keep(0.2, kind="forward-kl")],
        columns=[[0], [1], [0], [2]],
    )
    lam = np.array([0.2, 0.7, 0.3, 0.1])
    point = rng.normal(size=(6, 4)) * 0.3 - 0.5
    step = 1e-6
    slope = [
        (problem.noised_tilt(point + step * e, lam) - problem.noised_tilt(point - step * e, lam)) / (2 * step)
        for e in np.eye(4)
    ]
    np.testing.assert_allclose(problem.strengths(point, lam), -np.stack(slope, 1), rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore::duality.MassWarning", "ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize("count", [1, 3])
def test_standard_errors_are_the_scatter_of_repetitions(count: int) -> None:
    rng = np.random.default_rng(11)
    space = grouped_space(rng, count=count, most=40, detectors=2, m=1)
    problem = problem_of(space, 0.8)
    assert (du.solve(problem, space).multipliers > 0.1).all()
    shares = np.asarray(space.group_weights)
    q = np.exp(space.log_weights)
    places = [np.flatnonzero(space.groups == c) for c in range(count)]
    table = []
    for _ in range(150):
        chosen = np.concatenate([rng.choice(at, 1500, p=q[at] / q[at].sum()) for at in places])
        groups = None if count == 1 else space.groups[chosen]
        weights = None if count == 1 else shares
        draws = du.LogRatios(
            space.values[chosen], groups=groups, group_weights=weights, detectors=space.detectors[chosen]
        )
        s = du.solve(problem, draws)
        table.append([*s.multipliers, s.dual, *s.multipliers_stderr, s.primal_stderr])
    said = np.array(table)
    for i in range(4):
        assert said[:, i].std() == pytest.approx(said[:, 4 + i].mean(), rel=0.28)  # as in test_groups


@pytest.mark.filterwarnings(
    "ignore::duality.MassWarning", "ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning"
)
def test_the_bias_of_few_draws_in_each_group_is_estimated() -> None:
    rng = np.random.default_rng(10)
    space = grouped_space(rng, count=1, most=60, detectors=2, m=1)
    problem = problem_of(space, 0.5)
    exact = du.solve(problem, space).dual
    q, count, size = np.exp(space.log_weights), 200, 12
    biases, said = [], []
    for _ in range(150):
        chosen = rng.choice(space.n, count * size, p=q)
        draws = du.LogRatios(
            space.values[chosen],
            groups=np.repeat(np.arange(count), size),
            group_weights=np.full(count, 1 / count),
            detectors=space.detectors[chosen],
        )
        s = du.solve(problem, draws)
        biases.append(s.dual - exact)
        said.append(s.primal_bias)
    error = np.std(biases) / np.sqrt(150)
    assert np.mean(biases) > 4 * error  # there is something to be said
    assert np.mean(said) == pytest.approx(np.mean(biases), abs=max(4 * error, 0.3 * np.mean(biases)))
