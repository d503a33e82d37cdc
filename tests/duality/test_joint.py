"""Constraints of several kinds at once and constraints that keep: against CVXPY, definitions, and what conflicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from grouped import grouped_space
from joint_cases import MAKERS, agree

import duality as du


@pytest.mark.parametrize("kind", MAKERS)
def test_against_cvxpy_and_definitions(kind: str) -> None:
    pytest.importorskip("cvxpy")
    seen = [agree(kind, seed) for seed in range(20)]
    assert seen.count("OPTIMAL") >= 5, seen
    assert "INFEASIBLE" in seen
    assert "INEXACT" not in seen
    if kind.startswith(("far", "forward, likelihood")):
        assert "NOT_ATTAINED" in seen


@pytest.mark.parametrize("kind", ["keep reverse", "keep forward", "likelihood, keep", "keep forward, expectations"])
def test_what_is_convex_in_p_against_the_program_over_p_itself(kind: str) -> None:
    # The reference forms of these are duals, written from the same theory; this one is written from the definitions.
    pytest.importorskip("cvxpy")
    from relaxed import least_cost

    makers = MAKERS | {
        "keep forward, expectations": lambda rng, own: du.Joint(
            [
                du.Likelihood(own[0] * rng.uniform(0.4, 1.0), kind="detector"),
                du.Keep(rng.uniform(0.1, 0.9, 3), kind="forward-kl"),
                du.Keep(own[1:] * rng.uniform(0.8, 1.3, 2)),
            ]
        )
    }
    solved = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        ratios = grouped_space(rng, detectors=3, m=3)
        problem = makers[kind](rng, np.exp(ratios.log_weights) @ ratios.detectors)
        try:
            found = du.solve(problem, ratios)
        except du.InfeasibleError:
            assert not np.isfinite(least_cost(problem, ratios))
            continue
        assert found.dual == pytest.approx(least_cost(problem, ratios), rel=1e-6, abs=1e-6)
        solved += found.status is du.Status.OPTIMAL
    assert solved >= 5


def test_unlearning_alone_costs_the_neighbours_and_keeping_them_has_a_price() -> None:
    # A concept, and a neighbour that shows along with it: forgetting the one forgets the other, unless it is kept.
    rng = np.random.default_rng(0)
    concept = rng.random(2000) < 0.3
    neighbour = np.where(concept, rng.random(2000) < 0.8, rng.random(2000) < 0.2)
    ratios = du.LogRatios(log_weights=np.full(2000, -np.log(2000)), detectors=np.stack([concept, neighbour], 1))
    share = float(neighbour.mean())
    alone = du.solve(du.Joint([du.Likelihood(0.01, kind="detector"), du.Keep(0.0)]), ratios)
    both = du.solve(du.Joint([du.Likelihood(0.01, kind="detector"), du.Keep(share)]), ratios)
    assert alone.levels[1] < share - 0.1
    assert both.levels[1] == pytest.approx(share, abs=1e-9)
    assert both.primal > alone.primal + 0.05
    assert (both.multipliers > 0).all()
    # Equality as both: no more and no less.
    exactly = du.Joint([du.Likelihood([0.01, share], kind="detector"), du.Keep(share)], columns=[[0, 1], [1]])
    assert du.solve(exactly, ratios).levels[1] == pytest.approx(share, abs=1e-9)


def test_infeasible_names_who_conflicts() -> None:
    ratios = du.LogRatios(log_weights=np.log([0.4, 0.3, 0.3]), detectors=[[1, 1, 0.2], [0, 0, 0.3], [0.5, 0.5, 0.1]])
    problem = du.Joint([du.Likelihood(0.2, kind="detector"), du.Keep([0.4, 0.1])])  # columns 1 and 2 are equal
    with pytest.raises(du.InfeasibleError, match=r"it is constraints 1, 2 that conflict") as refused:
        du.solve(problem, ratios)
    assert refused.value.conflict.tolist() == [0, 1]
    assert refused.value.least[0] == pytest.approx(0.4, rel=1e-9)
    with pytest.raises(du.InfeasibleError, match="it is constraint 3 that cannot be met"):
        du.solve(du.Joint([du.Likelihood(0.2, kind="detector"), du.Keep([0.1, 0.35])]), ratios)


def test_frontier_json_and_dual_function() -> None:
    rng = np.random.default_rng(2)
    ratios = grouped_space(rng, count=3, detectors=2, m=2)
    own = np.exp(ratios.log_weights) @ ratios.detectors
    problem = du.Joint([du.ReverseKL([0.8, 0.5]), du.Likelihood(own[0] * 0.8, kind="detector"), du.Keep(own[1])])
    found = du.solve(problem, ratios)
    read = du.Solution.from_json(found.to_json())
    np.testing.assert_array_equal(read.multipliers, found.multipliers)
    np.testing.assert_array_equal(read.problem.levels, found.problem.levels)
    assert [type(part).__name__ for part in read.problem.problems] == ["ReverseKL", "Likelihood", "Keep"]
    again = du.solve(read.problem, ratios)
    assert again.dual == pytest.approx(found.dual, abs=1e-12)
    np.testing.assert_allclose(
        read.log_weight(found.problem.inputs(ratios)), found.log_weight(found.problem.inputs(ratios))
    )
    at = du.dual_function(problem, ratios, found.multipliers)
    assert at.value == pytest.approx(found.dual, abs=1e-12)
    lam = found.multipliers * 0.9 + 0.01
    there = du.dual_function(problem, ratios, lam)
    step = 1e-6
    around = [du.dual_function(problem, ratios, lam + step * e) for e in np.eye(4)]
    numeric = [(point.value - there.value) / step for point in around]
    np.testing.assert_allclose(there.gradient, numeric, rtol=1e-3, atol=1e-4)
    bent = np.array([(point.gradient - there.gradient) / step for point in around])
    np.testing.assert_allclose(there.hessian, bent, rtol=1e-3, atol=1e-3)
    assert there.value < found.dual
    lower = np.tile(found.problem.levels, (3, 1))
    lower[:, 0] = [0.6, 0.8, 1.0]
    curve = du.frontier(problem, ratios, lower)
    assert curve[1].dual == pytest.approx(found.dual, abs=1e-10)
    assert curve[0].dual <= curve[1].dual <= curve[2].dual


@pytest.mark.filterwarnings("ignore::duality.MassWarning", "ignore::duality.FewDrawsWarning")
def test_standard_errors_of_a_joint_problem_are_the_scatter_of_repetitions() -> None:
    rng = np.random.default_rng(3)
    q = rng.dirichlet(np.ones(30))
    rho = 0.7 * rng.normal(size=30)
    rho -= np.log(q @ np.exp(rho))
    seen = rng.random((30, 2))
    problem = du.Joint(
        [
            du.ReverseKL(0.6),
            du.Likelihood(float(q @ seen[:, 0]) * 0.9, kind="detector"),
            du.Keep(float(q @ seen[:, 1]) * 1.05),
        ]
    )
    table = []
    for _ in range(150):
        chosen = rng.choice(30, 2000, p=q)
        s = du.solve(problem, du.LogRatios(rho[chosen], detectors=seen[chosen]))
        table.append([*s.multipliers, s.dual, *s.multipliers_stderr, s.primal_stderr])
    said = np.array(table)
    for i in range(4):
        assert said[:, i].std() == pytest.approx(said[:, 4 + i].mean(), rel=0.28)  # as in test_groups


def test_keep_turns_a_likelihood_round() -> None:
    rng = np.random.default_rng(4)
    ratios = grouped_space(rng, count=2, m=2, detectors=2)
    values, lam = ratios.values, np.array([0.3, 0.7])
    for kind in ("posterior", "log-ratio"):
        np.testing.assert_allclose(
            du.Keep([0.5, 0.5], kind=kind, priors=0.3 if kind == "posterior" else None).log_weight(values, lam),
            -du.Likelihood([0.5, 0.5], kind=kind, priors=0.3 if kind == "posterior" else None).log_weight(values, lam),
        )
    kept = du.Keep([0.1, 0.1], kind="reverse-kl")
    np.testing.assert_allclose(kept.natural(np.array([1.0, 2.0])), [0.25, 0.5])
    np.testing.assert_allclose(kept.multipliers(np.array([0.25, 0.5])), [1.0, 2.0])
    forward = du.Keep([0.1, 0.1], kind="forward-kl")
    np.testing.assert_allclose(forward.log_weight(values, lam), np.log(1 + np.exp(values) @ lam))
    # Strengths of guidance are the derivatives of the noised weight.
    point = rng.normal(size=(5, 2)) * 0.3 - 1.5
    for problem in (forward, kept, du.Keep([0.5, 0.5], kind="posterior", priors=0.3)):
        step = 1e-6
        slope = [
            (problem.noised_tilt(point + step * e, lam) - problem.noised_tilt(point - step * e, lam)) / (2 * step)
            for e in np.eye(2)
        ]
        np.testing.assert_allclose(problem.strengths(point, lam), -np.stack(slope, 1), rtol=1e-6, atol=1e-8)


def test_equal_divergences_are_met_from_both_sides() -> None:
    rng = np.random.default_rng(5)
    ratios = grouped_space(rng, count=2, m=1)
    here = du.solve(du.ReverseKL(0.0), ratios).levels[0]
    for level in (0.5 * here, 1.5 * here):
        problem = du.Joint([du.ReverseKL(level), du.Keep(level, kind="reverse-kl")], columns=[[0], [0]])
        assert du.solve(problem, ratios).levels[0] == pytest.approx(level, abs=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: du.Keep(0.5, kind="x"), "kind: 'x' given, one of 'posterior'"),
        (lambda: du.Keep(0.5, kind="reverse-kl", priors=0.3), "priors: given, but kind='reverse-kl'"),
        (lambda: du.Keep(-0.5, kind="reverse-kl"), "levels: -0.5 given"),
        (lambda: du.Joint([]), "problems: a list of problems"),
        (lambda: du.Joint([du.Joint([du.Keep(0.1)])]), "problems: a list of problems that are no Joint"),
        (lambda: du.Joint([du.ForwardKL(1.0), du.Keep(0.1, kind="reverse-kl")]), "the cost of some is KL"),
        (lambda: du.Joint([du.ReverseKL(1.0), du.ForwardKL(1.0)]), "the cost of some is KL"),
        (lambda: du.Joint([du.Keep(0.1)], columns=[[0], [1]]), "columns: 2 entries given for 1 parts"),
        (lambda: du.Joint([du.Keep(0.1)], levels=[0.1, 0.2]), "levels: 2 given for parts with 1"),
    ],
)
def test_bad_problems(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_bad_columns() -> None:
    ratios = du.LogRatios([[0.1, -0.2], [0.0, 0.1]], np.log([0.5, 0.5]), detectors=[0.1, 0.4])
    for problem, words in (
        (du.Joint([du.Keep(0.2)], columns=[[1]]), r"columns: part 0 reads \[1\] of detectors, of which 1 are given"),
        (du.Joint([du.ReverseKL([0.1, 0.2, 0.3])]), "columns: part 0 has 3 levels for 2 columns"),
        (du.Joint([du.ReverseKL(0.1), du.Likelihood(0.1, kind="log-ratio")], columns=[[0], [5]]), "columns: part 1"),
        (du.Joint([du.ReverseKL([0.1, 0.1, 0.1]), du.Keep(0.1, kind="reverse-kl")]), "say which each reads"),
    ):
        with pytest.raises(ValueError, match=words):
            du.solve(problem, ratios)
    with pytest.raises(ValueError, match="values: a log ratio of -inf given, but where q_i vanishes"):
        du.solve(du.Keep(0.1, kind="forward-kl"), du.LogRatios([-np.inf, 0.1], np.log([0.5, 0.5])).normalise())
