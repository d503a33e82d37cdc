"""Groups of nodes: the problems on a distribution of prompts, against CVXPY, definitions, and draws in two stages."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from group_cases import agree, random_problem
from grouped import grouped_space

import duality as du
from duality.group_programs import minimise
from duality.matrix_game import saddle


@pytest.mark.parametrize("kind", ["reverse", "forward", "likelihood"])
def test_against_cvxpy(kind: str) -> None:
    pytest.importorskip("cvxpy")
    seen = [agree(kind, seed) for seed in range(25)]
    assert seen.count("OPTIMAL") > 10
    if kind == "likelihood":
        assert "INFEASIBLE" in seen
    else:
        assert "NOT_ATTAINED" in seen


@pytest.mark.parametrize("kind", ["reverse", "forward", "likelihood"])
def test_one_group_is_no_group(kind: str) -> None:
    rng = np.random.default_rng(3)
    ratios = grouped_space(rng, count=1, m=2)
    plain = du.LogRatios(ratios.values, ratios.log_weights, None, ratios.priors)
    problem = random_problem(kind, rng, 2)
    one, none = du.solve(problem, ratios), du.solve(problem, plain)
    np.testing.assert_allclose(one.multipliers, none.multipliers, rtol=1e-10)
    np.testing.assert_allclose(one.log_weights, none.log_weights, atol=1e-10)


@pytest.mark.parametrize("kind", ["reverse", "forward", "likelihood"])
def test_equal_groups_are_one(kind: str) -> None:
    # The same law under every prompt: the answer is that law's, whatever the prompts' shares.
    rng = np.random.default_rng(4)
    one = grouped_space(rng, count=1, m=2)
    shares = np.array([0.2, 0.5, 0.3])
    many = du.LogRatios(
        np.tile(one.values, (3, 1)),
        np.tile(one.log_weights, 3),
        None,
        one.priors,
        np.repeat(np.arange(3), one.n),
        shares,
    )
    problem = random_problem(kind, rng, 2)
    first, second = du.solve(problem, one), du.solve(problem, many)
    np.testing.assert_allclose(second.multipliers, first.multipliers, rtol=1e-9)
    assert second.primal == pytest.approx(first.primal, rel=1e-10)
    np.testing.assert_allclose(np.exp(second.log_weights).reshape(3, -1).sum(0), np.exp(first.log_weights), rtol=1e-8)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_one_normaliser_for_all_prompts_is_another_problem() -> None:
    # Two prompts, one of which always shows the concept: with one normaliser it would simply be asked less often.
    rng = np.random.default_rng(5)
    seen = np.concatenate([rng.uniform(0.9, 1.0, 50), rng.uniform(0.0, 0.2, 50)])
    priors = 0.999
    ratios = du.LogRatios(np.log(seen / priors), None, None, priors, np.repeat([0, 1], 50), [0.5, 0.5])
    with pytest.raises(du.InfeasibleError) as refused:
        du.solve(du.Likelihood(0.4), ratios)
    assert refused.value.least == pytest.approx(0.5 * (seen[:50].min() + seen[50:].min()), rel=1e-6)
    pooled = du.solve(du.Likelihood(0.4), du.LogRatios(np.log(seen / priors), None, None, priors))
    assert np.exp(pooled.log_weights)[:50].sum() < 0.5 - 0.05


def test_a_constraint_on_some_prompts_leaves_the_others_alone() -> None:
    rng = np.random.default_rng(15)
    ratios = grouped_space(rng, count=4, detectors=1, m=1)
    own, groups = np.array([0.0, 0.3, 0.7, 0.0]), ratios.groups  # shares a(c) of the constraint's own
    seen = ratios.detectors[:, 0] * (own / ratios.group_weights)[groups]
    weighed = du.LogRatios(None, ratios.log_weights, None, None, groups, ratios.group_weights, seen)

    def level(log_p: np.ndarray) -> float:
        means = np.bincount(groups, weights=np.exp(log_p) * ratios.detectors[:, 0]) / ratios.group_weights
        return float(own @ means)

    found = du.solve(du.Likelihood(0.8 * level(ratios.log_weights), kind="detector"), weighed)
    assert level(found.log_weights) == pytest.approx(0.8 * level(ratios.log_weights), rel=1e-9)
    elsewhere = np.isin(groups, [0, 3])
    np.testing.assert_allclose(found.log_weights[elsewhere], ratios.log_weights[elsewhere], atol=1e-12)


@pytest.mark.parametrize("kind", ["reverse", "forward", "likelihood"])
def test_dual_function_is_its_formula_and_has_its_derivatives(kind: str) -> None:
    ratios = grouped_space(np.random.default_rng(6), count=3, m=2)
    lam = np.array([0.1, 0.05])
    b = np.array([0.4, 0.3])
    problem = {"reverse": du.ReverseKL, "forward": du.ForwardKL, "likelihood": du.Likelihood}[kind](b)
    shares, groups = ratios.group_weights, ratios.groups

    def g(lam: np.ndarray) -> float:
        total = 0.0
        for c, share in enumerate(shares):
            q, rho = np.exp(ratios.log_weights[groups == c]) / share, ratios.values[groups == c]
            if kind == "forward":
                u = 1 - np.exp(rho) @ lam
                own = (q[:, None] * np.exp(rho) * rho).sum(axis=0)
                total += share * (-(q * u) @ np.log(u) + (q @ u) * np.log(q @ u) - lam @ own)
            elif kind == "reverse":
                left = 1 - lam.sum()
                total -= share * left * np.log(q @ np.exp(-rho @ lam / left))
            else:
                total -= share * np.log(q @ np.exp(-(ratios.priors * np.exp(rho)) @ lam))
        return total + (-1 if kind == "likelihood" else 1) * float(lam @ b)

    at = du.dual_function(problem, ratios, lam)
    assert at.value == pytest.approx(g(lam), rel=1e-12)
    step = 1e-5
    numeric = [(g(lam + step * e) - g(lam - step * e)) / (2 * step) for e in np.eye(2)]
    np.testing.assert_allclose(at.gradient, numeric, atol=1e-8)  # differences: eps/step and step²
    bent = [(du.dual_function(problem, ratios, lam + step * e).gradient - at.gradient) / step for e in np.eye(2)]
    np.testing.assert_allclose(at.hessian, bent, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["reverse", "likelihood", "forward"])
def test_ten_thousand_groups_of_every_size(kind: str) -> None:
    rng = np.random.default_rng(7)
    count = 10_000
    sizes = np.concatenate([rng.integers(1, 8, count - 3), [300, 1000, 1]])
    groups = np.repeat(np.arange(count), sizes)
    rho = rng.normal(size=groups.size) * 0.7
    mass = np.bincount(groups, weights=np.exp(rho)) / sizes
    ratios = du.LogRatios(
        rho - np.log(mass)[groups], np.zeros(groups.size), None, 0.3, groups, np.full(count, 1 / count)
    )
    level = {"reverse": 0.5, "likelihood": 0.22, "forward": 0.17}[kind]
    problem = {"reverse": du.ReverseKL, "likelihood": du.Likelihood, "forward": du.ForwardKL}[kind](level)
    found = du.solve(problem, ratios)
    assert found.status is du.Status.OPTIMAL
    assert found.gap < 1e-12
    shares = np.bincount(groups, weights=np.exp(found.log_weights))
    np.testing.assert_allclose(shares, 1 / count, rtol=1e-11)


def test_frontier_and_json() -> None:
    ratios = grouped_space(np.random.default_rng(8), count=3, m=1)
    curve = du.frontier(du.ReverseKL(0.0), ratios, np.linspace(0.3, 0.9, 4))
    values = [s.dual for s in curve]
    assert (np.diff(values, 2) >= -1e-12).all()
    for found in curve:
        again = du.solve(found.problem, ratios)
        assert again.dual == pytest.approx(found.dual, abs=1e-12)
        read = du.Solution.from_json(found.to_json())
        np.testing.assert_array_equal(read.log_weights, found.log_weights)
        assert np.isnan(read.primal_bias)


def laws(rng: np.random.Generator, count: int, size: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """q_c `(count, size)` and rho `(count, size)`, of mass one in each."""
    q = rng.dirichlet(np.ones(size), count)
    rho = rng.normal(size=(count, size))
    return q, rho - np.log((q * np.exp(rho)).sum(axis=1, keepdims=True))


PROBLEMS = [du.ReverseKL(1.0), du.Likelihood(0.1), du.ForwardKL(0.1)]


@pytest.mark.filterwarnings("ignore::duality.MassWarning", "ignore::duality.FewDrawsWarning")
@pytest.mark.filterwarnings("ignore::duality.SmallGroupsWarning")
@pytest.mark.parametrize("problem", PROBLEMS, ids=["ru", "lu", "fu"])
def test_standard_errors_within_groups_are_the_scatter_of_repetitions(problem: du.Problem) -> None:
    rng = np.random.default_rng(9)
    q, rho = laws(rng, 4)
    if isinstance(problem, du.ForwardKL):  # milder ratios: a level of few draws beyond the critical one has no tilt
        rho = 0.5 * rho - np.log((q * np.exp(0.5 * rho)).sum(axis=1, keepdims=True))
    shares, each = np.array([0.1, 0.2, 0.3, 0.4]), 300
    groups = np.repeat(np.arange(4), each)
    found, levels = [], []
    for _ in range(150):
        chosen = np.stack([rng.choice(30, each, p=q[c]) for c in range(4)])
        ratios = du.LogRatios(np.take_along_axis(rho, chosen, 1).ravel(), None, None, 0.2, groups, shares)
        s = du.solve(problem, ratios)
        if s.status is du.Status.OPTIMAL:
            # The level that this tilt has under the laws themselves: what levels_stderr speaks of.
            w = np.exp(s.log_weight(rho.reshape(-1, 1))).reshape(rho.shape) * q
            whole = du.LogRatios(rho.ravel(), np.log(q).ravel(), None, 0.2, np.repeat(np.arange(4), 30), shares)
            p = shares[:, None] * w / w.sum(axis=1, keepdims=True)
            levels.append(problem.bind(whole).levels_of(whole, np.log(p).ravel())[0])
            found.append([s.multipliers[0], s.dual, s.multipliers_stderr[0], s.primal_stderr, s.levels_stderr[0]])
    table = np.array(found)
    assert len(table) > 140
    # The scatter of 150 values is known to 1/sqrt(300) = 6 %; four of that, and 5 % for what is of higher order.
    for scatter, said in ((table[:, 0].std(), 2), (table[:, 1].std(), 3), (np.std(levels), 4)):
        assert scatter == pytest.approx(table[:, said].mean(), rel=0.28)


@pytest.mark.filterwarnings("ignore::duality.MassWarning", "ignore::duality.FewDrawsWarning")
@pytest.mark.filterwarnings("ignore::duality.SmallGroupsWarning")
@pytest.mark.parametrize("problem", PROBLEMS[:2], ids=["ru", "lu"])
def test_groups_that_are_a_sample_scatter_more(problem: du.Problem) -> None:
    rng = np.random.default_rng(10)
    q, rho = laws(rng, 400)
    rho = rho + 0.5 * rng.normal(size=(400, 1)) * np.sign(rho)
    rho -= np.log((q * np.exp(rho)).sum(axis=1, keepdims=True))
    count, each = 60, 25
    table = []
    for _ in range(150):
        prompts = rng.choice(400, count)
        chosen = np.stack([rng.choice(30, each, p=q[c]) for c in prompts])
        values = np.take_along_axis(rho[prompts], chosen, 1).ravel()
        groups = np.repeat(np.arange(count), each)
        s = du.solve(problem, du.LogRatios(values, None, None, 0.2, groups))
        fixed = du.solve(problem, du.LogRatios(values, None, None, 0.2, groups, np.full(count, 1 / count)))
        assert s.dual == pytest.approx(fixed.dual, rel=1e-12)
        row = [s.multipliers[0], s.dual, s.multipliers_stderr[0], s.primal_stderr, fixed.primal_stderr]
        table.append(row)
    said = np.array(table)
    assert said[:, 0].std() == pytest.approx(said[:, 2].mean(), rel=0.28)
    assert said[:, 1].std() == pytest.approx(said[:, 3].mean(), rel=0.28)
    assert said[:, 4].mean() < 0.8 * said[:, 3].mean()  # groups taken for all there are would have said too little


@pytest.mark.filterwarnings("ignore::duality.MassWarning", "ignore::duality.FewDrawsWarning")
def test_the_bias_of_few_draws_is_estimated_and_said() -> None:
    rng = np.random.default_rng(11)
    count, each, problem = 200, 10, du.Likelihood(0.1)
    q, rho = laws(rng, count)
    shares = np.full(count, 1 / count)
    exact = du.solve(
        problem, du.LogRatios(rho.ravel(), np.log(q).ravel(), None, 0.2, np.repeat(np.arange(count), 30), shares)
    )
    off, said = [], []
    for _ in range(30):
        chosen = np.stack([rng.choice(30, each, p=q[c]) for c in range(count)])
        values = np.take_along_axis(rho, chosen, 1).ravel()
        with pytest.warns(
            du.SmallGroupsWarning, match="few samples per group: the value is overstated by about"
        ) as seen:
            s = du.solve(problem, du.LogRatios(values, None, None, 0.2, np.repeat(np.arange(count), each), shares))
        warned = next(w.message for w in seen if isinstance(w.message, du.SmallGroupsWarning))
        assert warned.bias == s.primal_bias
        assert "bias +" in str(s)
        off.append(s.dual - exact.dual)
        said.append(s.primal_bias)
    assert np.mean(off) > 3 * np.std(off) / np.sqrt(30)  # overstated it is
    assert np.mean(said) == pytest.approx(np.mean(off), rel=0.35)
    # With many draws in each group nothing is said.
    chosen = np.stack([rng.choice(30, 400, p=q[c]) for c in range(4)])
    many = du.LogRatios(
        np.take_along_axis(rho[:4], chosen, 1).ravel(), None, None, 0.2, np.repeat(np.arange(4), 400), [0.25] * 4
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", du.SmallGroupsWarning)
        du.solve(problem, many)


@pytest.mark.filterwarnings("ignore::duality.MassWarning", "ignore::duality.FewDrawsWarning")
def test_a_single_draw_per_group_cannot_be_tilted() -> None:
    rng = np.random.default_rng(12)
    ratios = du.LogRatios(rng.normal(size=50) - 0.5, None, None, 0.2, np.arange(50), np.full(50, 0.02))
    own = float(np.exp(ratios.log_weights) @ (0.2 * np.exp(ratios.values[:, 0])))
    with pytest.warns(du.SmallGroupsWarning, match="by an amount that such samples do not tell.*cannot be tilted"):
        du.solve(du.Likelihood(own * 1.01), ratios)
    with pytest.raises(du.InfeasibleError):
        du.solve(du.Likelihood(own * 0.99), ratios)


def test_the_linear_program_with_groups() -> None:
    rng = np.random.default_rng(13)
    for _ in range(40):
        ratios = grouped_space(rng)
        partition = ratios.partition
        table = ratios.values[partition.order]
        found = minimise(table, np.ones(ratios.m), np.zeros(ratios.m), partition)
        assert found.reached.max() - found.value <= 1e-12 * (1 + np.abs(table).max())  # both sides of a linear program
        assert (found.masses >= 0).all()
        np.testing.assert_allclose(partition.total(found.masses), partition.shares, rtol=1e-12)
        if partition.count == 1:
            assert found.value == pytest.approx(saddle(table).value, abs=1e-12)
    alone = du.LogRatios([[0.0], [1.0]], np.log([0.5, 0.5])).partition
    assert minimise(np.array([[1.0], [2.0]]), np.ones(1), np.zeros(1), alone).value == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"groups": [0, 1]}, r"groups: shape \(2,\) given, but there are 3 points"),
        ({"groups": [0, -1, 1]}, "groups: -1 given, whole numbers"),
        ({"groups": [0, 0.5, 1]}, "groups: 0.5 given"),
        ({"groups": [0, 2, 2]}, "groups: group 1 has no node of positive weight"),
        ({"groups": [0, 10**9, 2]}, "groups: 1e.09 given for 3 points; number the groups"),
        ({"groups": [0, 1, 1], "group_weights": [0.5, 0.4]}, "group_weights: they add up to 0.9, not to one"),
        ({"groups": [0, 1, 1], "group_weights": [1.0, 0.0]}, r"group_weights: positive shares \(C,\)"),
        ({"groups": [0, 1, 2], "group_weights": [0.5, 0.5]}, "groups: group 2 given, but group_weights are for 0 … 1"),
        ({"group_weights": [0.5, 0.5]}, "group_weights: given, but no groups"),
        ({"groups": [0, 1, 1], "group_weights": [0.2, 0.3, 0.5]}, "groups: group 2 has no node"),
    ],
)
def test_bad_input(change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        du.LogRatios([0.0, 0.1, -0.1], None, None, 0.3, **change)
    assert repr(du.LogRatios([0.0, 0.1], groups=[0, 1])) == "LogRatios(2 draws, 1 constraint, 2 groups)"
