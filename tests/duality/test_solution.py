"""A solution prints, round-trips, and applies itself to new values."""

import dataclasses
import json

import numpy as np
import pytest
from instances import finite_space, mixture_draws, own_levels, worked_mixture

import duality as du


def solutions():
    grid, draws = worked_mixture(41), mixture_draws(np.random.default_rng(0), 2000)
    absent = du.LogRatios([[-np.inf, 0.3], [0.1, -0.5], [0.2, 0.1]], np.log([0.2, 0.3, 0.5]))
    yield du.solve(du.ReverseKL(30.0), grid), grid
    yield du.solve(du.ForwardKL(4.0), draws), draws
    yield du.solve(du.ForwardKL(25.0), grid), grid
    yield du.solve(du.Likelihood(0.01), draws), draws
    yield du.solve(du.Likelihood(0.001, kind="density"), grid), grid
    yield du.solve(du.ReverseKL([3.0, 0.2]), absent), absent


def test_json_round_trip_is_exact_and_strict():
    for solution, _ in solutions():
        text = solution.to_json()
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))
        again = du.Solution.from_json(text)
        assert again.to_json() == text
        assert type(again.problem) is type(solution.problem)
        assert again.status is solution.status
        for field in dataclasses.fields(du.Solution):
            if field.name not in ("problem", "status"):
                np.testing.assert_array_equal(getattr(again, field.name), getattr(solution, field.name))
        np.testing.assert_array_equal(again.problem.levels, solution.problem.levels)
        assert str(again) == str(solution)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled(du.ReverseKL):
    """A problem of one's own, with fields of its own."""

    unit: str = "nats"
    scale: object = 1.0


def test_json_of_a_problem_of_ones_own():
    ratios = worked_mixture(41)
    solution = du.solve(Scaled(30.0, unit="bits", scale=np.array([0.5, np.inf])), ratios)
    text = solution.to_json()
    again = du.Solution.from_json(text)
    assert type(again.problem) is Scaled
    assert again.problem.unit == "bits"
    np.testing.assert_array_equal(again.problem.scale, [0.5, np.inf])
    assert again.to_json() == text
    with pytest.raises(ValueError, match=r"class 'elsewhere.Scaled'; import the module"):
        du.Solution.from_json(text.replace(f"{__name__}.Scaled", "elsewhere.Scaled"))
    stubborn = dataclasses.replace(solution, problem=Scaled(30.0, scale=np.exp))
    with pytest.raises(ValueError, match="problem: its field 'scale' is a ufunc, which JSON cannot hold"):
        stubborn.to_json()


def test_json_of_something_else():
    for text in ("[]", "{}", "not json", '{"problem": {"type": "Other"}}'):
        with pytest.raises(ValueError, match="text: not the JSON of a Solution"):
            du.Solution.from_json(text)


def test_table():
    text = str(du.solve(du.Likelihood(0.01), mixture_draws(np.random.default_rng(0), 2000)))
    for word in (
        "Likelihood: optimal",
        "asked",
        "reached",
        "slack",
        "multiplier",
        "std. error",
        "gap",
        "KKT",
        "of 2000",
    ):
        assert word in text
    assert "std. error" not in str(du.solve(du.ReverseKL(30.0), worked_mixture(41)))
    assert "not attained" in str(du.solve(du.ForwardKL(25.0), worked_mixture(41)))


def test_the_message_says_what_is_not_attained():
    # Two nodes of four share the least log ratio: beyond -log q_1(both) no tilt reaches the level, but densities on
    # one of the two do.
    flat = du.LogRatios(np.log([0.5, 0.5, 1.5, 1.5]), np.log([0.25] * 4))
    solution = du.solve(du.ReverseKL(2.0), flat)
    assert not solution.attained
    assert solution.message.startswith("not attained by a tilt")
    assert solution.message in str(solution)
    np.testing.assert_allclose(solution.critical_levels, np.log(4.0), rtol=1e-9)
    np.testing.assert_allclose(solution.dual, 2.0 + np.log(0.5), rtol=1e-9)
    beyond = du.solve(du.ForwardKL(25.0), worked_mixture(41))
    assert "no density reaches the value" in beyond.message
    assert du.solve(du.ForwardKL(4.0), worked_mixture(41)).message == du.Status.OPTIMAL.value


def test_slack_has_one_sign_for_all_problems():
    ratios = worked_mixture(81)
    assert (du.solve(du.ReverseKL(1.0), ratios).slack > 1).all()
    assert (du.solve(du.ForwardKL(1.0), ratios).slack > 0.1).all()
    assert (du.solve(du.Likelihood(0.5), ratios).slack > 0.1).all()
    assert (du.solve(du.ForwardKL(25.0), ratios).slack < -1).all()


def test_log_weight_of_a_solution_is_its_target():
    for solution, ratios in solutions():
        if solution.status is not du.Status.OPTIMAL:
            continue
        tilt = solution.log_weight(solution.problem.inputs(ratios))
        log_p = ratios.log_weights + tilt
        log_p -= log_p.max()
        p = np.exp(log_p) / np.exp(log_p).sum()
        np.testing.assert_allclose(p, np.exp(solution.log_weights), atol=1e-12)


def test_log_weight_takes_tensors(torch):
    solution = du.solve(du.Likelihood(0.01), worked_mixture(41))
    rho = np.random.default_rng(1).normal(size=(3, 4, 1))
    np.testing.assert_allclose(solution.log_weight(torch.tensor(rho)).numpy(), solution.log_weight(rho), rtol=1e-14)
    np.testing.assert_allclose(solution.guidance(torch.tensor(rho)).numpy(), solution.guidance(rho), rtol=1e-14)
    assert solution.guidance(rho).shape == rho.shape


def test_natural_parameters_keep_digits_that_multipliers_lose():
    # Ratios of 1e-9 nats: lam = 1 - 1e-9, and a = lam/(1 - lam) from the rounded lam has lost half of its digits.
    rng = np.random.default_rng(2)
    ratios = finite_space(rng, 300, 1, spread=1e-9)
    solution = du.solve(du.ReverseKL(1.0), ratios)
    assert solution.multipliers[0] > 1 - 1e-8
    tilt = solution.log_weight(ratios.values)
    difference = solution.log_weights - ratios.log_weights - tilt
    assert np.ptp(difference) < 1e-12


def test_levels_asked_are_the_problem_s_own():
    ratios = finite_space(np.random.default_rng(3), 100, 2)
    solution = du.solve(du.ReverseKL(own_levels(du.ReverseKL(0.0), ratios).max() + 1), ratios)
    assert solution.problem.levels.shape == (2,)
    with pytest.raises(ValueError, match="read-only"):
        solution.multipliers[0] = 0.0
