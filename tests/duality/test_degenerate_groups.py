"""Groups at their limits: masses of each, shares of a constraint's own, single points, and shares next to nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from grouped import divergences, grouped_space

import duality as du


def moved(ratios: du.LogRatios, change: np.ndarray) -> du.LogRatios:
    """With change_c added to all log ratios of group c."""
    return du.LogRatios(
        ratios.values + change[ratios.groups][:, None],
        ratios.log_weights,
        None,
        ratios.priors,
        ratios.groups,
        ratios.group_weights,
    )


def test_factors_that_make_up_for_each_other_between_groups_are_wrong_in_each() -> None:
    ratios = grouped_space(np.random.default_rng(0), count=2, m=1)
    a, b = ratios.group_weights
    off = moved(ratios, np.log([1.5, (1 - 1.5 * a) / b]) if 1.5 * a < 1 else np.log([(1 - 1.2 * b) / a, 1.2]))
    assert off.masses[0] == pytest.approx(1, abs=1e-12)  # all together they hide it
    for problem in (du.ReverseKL(0.5), du.ForwardKL(0.3)):
        with pytest.warns(du.MassWarning, match=r"for constraint 0 in group \d") as caught:
            du.solve(problem, off)
        warning = caught[0].message
        assert warning.by_group.shape == (2, 1)
        np.testing.assert_allclose(np.exp(off.group_log_masses), warning.by_group)
        assert warning.wrong_groups.sum() == (1 if isinstance(problem, du.ReverseKL) else 2)
    mended = off.normalise()
    np.testing.assert_allclose(mended.group_log_masses, 0, atol=1e-13)
    np.testing.assert_allclose(mended.values, ratios.values, atol=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert du.solve(du.ReverseKL(0.5), mended).dual == pytest.approx(
            du.solve(du.ReverseKL(0.5), ratios).dual, abs=1e-10
        )


def test_draws_are_allowed_their_scatter_in_every_group_and_not_more() -> None:
    rng = np.random.default_rng(1)
    groups, rho = np.repeat(np.arange(50), 400), []
    for _ in range(50):
        shift = rng.uniform(-0.5, 0.5)
        rho.append(shift * rng.normal(size=400) - shift**2 / 2)  # ratios of shifted normal laws
    values = np.concatenate(rho)
    shares = np.full(50, 0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error", du.MassWarning)
        du.ForwardKL(0.0).bind(du.LogRatios(values, groups=groups, group_weights=shares))
    values[groups == 7] += 0.5
    values[groups == 8] -= 0.5
    with pytest.warns(du.MassWarning, match="in group .* and 1 more") as caught:
        du.ForwardKL(0.0).bind(du.LogRatios(values, groups=groups, group_weights=shares))
    assert np.flatnonzero(caught[0].message.wrong_groups[:, 0]).tolist() == [7, 8]


def test_a_group_that_lacks_the_concept() -> None:
    ratios = grouped_space(np.random.default_rng(2), count=3, m=1)
    values = np.where((ratios.groups == 1)[:, None], -np.inf, ratios.values)
    absent = du.LogRatios(values, ratios.log_weights, None, None, ratios.groups, ratios.group_weights)
    again = absent.normalise()
    np.testing.assert_array_equal(np.isinf(again.values), np.isinf(values))
    with pytest.warns(du.MassWarning, match="for constraint 0 in group 1"):
        found = du.solve(du.ForwardKL(0.1), absent)
    elsewhere = ratios.groups == 1
    np.testing.assert_allclose(found.log_weights[elsewhere], ratios.log_weights[elsewhere], atol=1e-12)


def test_shares_of_a_constraints_own() -> None:
    rng = np.random.default_rng(3)
    ratios = grouped_space(rng, count=3, m=2)
    own = np.array([[0.2, 0.0], [0.5, 0.7], [0.3, 0.3]])
    weighed = ratios.weighed(own)
    shares, groups = np.asarray(ratios.group_weights), ratios.groups
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = du.solve(du.ForwardKL([0.5, 0.9]), weighed)
    assert found.status is du.Status.OPTIMAL
    assert found.dual == pytest.approx(du.reference.solve(du.ForwardKL([0.5, 0.9]), weighed).value, abs=1e-7)
    p, q = np.exp(found.log_weights), np.exp(ratios.log_weights)
    for i in range(2):
        extra = sum(a * np.log(a / s) for a, s in zip(own[:, i], shares, strict=True) if a > 0)
        part = q * np.exp(ratios.values[:, i])
        each = [divergences(part * (groups == c), p, groups, shares) / s for c, s in enumerate(shares)]
        assert found.levels[i] == pytest.approx(float(own[:, i] @ each) + extra, abs=1e-10)
    # Posteriors: the mean over prompts by the constraint's shares.
    seen = ratios.priors * np.exp(ratios.values)
    means = np.stack([np.bincount(groups, weights=q * column) / shares for column in seen.T], axis=1)
    level = 0.9 * (own * means).sum(axis=0)
    bounded = du.solve(du.Likelihood(level), weighed)
    p = np.exp(bounded.log_weights)
    means = np.stack([np.bincount(groups, weights=p * column) / shares for column in seen.T], axis=1)
    reached = (own * means).sum(axis=0)
    np.testing.assert_allclose(bounded.levels, reached, rtol=1e-10)
    assert (reached <= level + 1e-9).all()


def test_shares_are_refused_where_they_make_no_sense() -> None:
    ratios = grouped_space(np.random.default_rng(4), count=2, m=1, detectors=1)
    weighed = ratios.weighed([0.1, 0.9])
    for problem in (
        du.ReverseKL(0.3),
        du.Keep(0.3, kind="reverse-kl"),
        du.Likelihood(0.1, kind="log-ratio"),
        du.Joint([du.ReverseKL(0.3), du.Keep(0.1)]),
    ):
        with pytest.raises(ValueError, match=r"weigh groups by shares of their own .* given, but"):
            du.solve(problem, weighed)
    for shares, words in (
        ([0.2, 0.9], "add up to one"),
        ([-0.5, 1.5], "add up to one"),
        ([0.2, 0.3, 0.5], r"shape \(3,\) given"),
    ):
        with pytest.raises(ValueError, match=words):
            ratios.weighed(shares)
    with pytest.raises(ValueError, match="weighed already"):
        weighed.weighed([0.5, 0.5])
    with pytest.raises(ValueError, match="groups: none are given"):
        du.LogRatios([0.1, -0.1]).weighed([1.0])


@pytest.mark.parametrize("kind", ["reverse", "forward", "likelihood", "joint", "quotient"])
def test_groups_of_one_point_keep_it_and_the_rest_is_as_without_them(kind: str) -> None:
    rng = np.random.default_rng(5)
    core = grouped_space(rng, count=1, m=1, detectors=1)
    n = core.n
    values = np.concatenate([core.values[:, 0], [0.0, 0.0]])  # of one point the law is q itself: the ratio is 1
    seen = np.concatenate([core.detectors[:, 0], [0.4, 0.9]])
    groups = np.concatenate([np.zeros(n, dtype=int), [1, 2]])
    shares = np.array([0.5, 0.2, 0.3])
    log_weights = np.concatenate([core.log_weights, [0.0, 0.0]])
    log_weights -= np.log(3)
    ratios = du.LogRatios(values, log_weights, None, 0.3, groups, shares, seen)
    own = float(np.exp(ratios.log_weights) @ seen)
    problems = {
        "reverse": du.ReverseKL(0.3),
        "forward": du.ForwardKL(0.4),
        "likelihood": du.Likelihood(0.85 * own, kind="detector"),
        "joint": du.Joint([du.ReverseKL(0.2), du.Likelihood(0.9 * own, kind="detector")]),
        "quotient": du.Joint([du.ForwardKL(0.05), du.Likelihood(0.9 * own, kind="detector")]),
    }
    found = du.solve(problems[kind], ratios)
    assert found.status is du.Status.OPTIMAL
    np.testing.assert_allclose(np.exp(found.log_weights[n:]), shares[1:], rtol=1e-12)
    assert found.dual == pytest.approx(du.reference.solve(problems[kind], ratios).value, abs=1e-7)


def test_all_points_alone_can_be_changed_by_nothing() -> None:
    ratios = du.LogRatios(np.zeros(3), None, None, 0.3, [0, 1, 2], [0.2, 0.3, 0.5], [0.1, 0.5, 0.9])
    own = float(np.exp(ratios.log_weights) @ ratios.detectors[:, 0])
    assert own == pytest.approx(0.62)
    assert du.solve(du.ReverseKL(0.0), du.LogRatios(np.zeros(3), np.log([0.2, 0.3, 0.5]), groups=[0, 1, 2])).inactive
    with pytest.raises(du.InfeasibleError) as refused:
        du.solve(du.Likelihood(0.5, kind="detector"), ratios)
    assert refused.value.least[0] == pytest.approx(own, rel=1e-9)


@pytest.mark.parametrize("tiny", [1e-3, 1e-9, 1e-15, 1e-100])
def test_nearly_all_in_one_group_is_that_group(tiny: float) -> None:
    rng = np.random.default_rng(6)
    ratios = grouped_space(rng, count=2, m=1, detectors=1)
    shares = np.array([1 - tiny, tiny])
    made = du.LogRatios(ratios.values, ratios.log_weights, None, ratios.priors, ratios.groups, shares, ratios.detectors)
    first = ratios.groups == 0
    log_q = ratios.log_weights[first] - np.log(ratios.group_weights[0])
    alone = du.LogRatios(ratios.values[first], log_q, None, ratios.priors, None, None, ratios.detectors[first])
    own = float(np.exp(log_q) @ ratios.detectors[first, 0])
    for problem in (
        du.ReverseKL(0.6),
        du.ForwardKL(0.2),
        du.Likelihood(0.9 * own, kind="detector"),
        du.Joint([du.ReverseKL(0.2), du.Keep(1.02 * own)]),
        du.Joint([du.ForwardKL(0.1), du.Likelihood(0.95 * own, kind="detector")]),
    ):
        one, both = du.solve(problem, alone), du.solve(problem, made)
        assert both.dual == pytest.approx(one.dual, abs=20 * tiny + 1e-9)
        assert both.gap < 1e-9


def test_points_and_groups_without_weight() -> None:
    ratios = grouped_space(np.random.default_rng(7), count=2, m=1, detectors=1)
    more = du.LogRatios(
        np.append(ratios.values[:, 0], [3.0, -2.0]),
        np.append(ratios.log_weights, [-np.inf, -np.inf]),
        None,
        ratios.priors,
        np.append(ratios.groups, [0, 1]),
        ratios.group_weights,
        np.append(ratios.detectors[:, 0], [0.0, 1.0]),
    )
    for problem in (du.ReverseKL(0.5), du.ForwardKL(0.2), du.Joint([du.ForwardKL(0.1), du.Keep(0.1)])):
        assert du.solve(problem, more).dual == pytest.approx(du.solve(problem, ratios).dual, abs=1e-12)
        assert (du.solve(problem, more).log_weights[-2:] == -np.inf).all()
    with pytest.raises(ValueError, match="groups: group 1 has no node of positive weight"):
        du.LogRatios([0.1, 0.2, 0.3], np.log([0.5, 0.5, 1e-300])[[0, 1, 2]] + [0, 0, -np.inf], groups=[0, 0, 1])
    with pytest.raises(ValueError, match="group_weights: positive shares"):
        du.LogRatios([0.1, 0.2], groups=[0, 1], group_weights=[1.0, 0.0])
