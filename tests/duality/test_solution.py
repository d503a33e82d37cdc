"""A solution prints, round-trips, and applies itself to new values."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from instances import finite_space, mixture_draws, own_levels, worked_mixture

import duality as du
from duality import uncertainty
from duality.uncertainty import delta_method


def solutions():
    grid, draws = worked_mixture(41), mixture_draws(np.random.default_rng(0), 2000)
    absent = du.LogRatios([[-np.inf, 0.3], [0.1, -0.5], [0.2, 0.1]], np.log([0.2, 0.3, 0.5])).normalise()
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


def changed(text, **fields):
    data = json.loads(text)
    for name, value in fields.items():
        (data["problem"] if name in data["problem"] else data)[name] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"multipliers": [1.0, 2.0]}, "multipliers: 2 numbers given for 1 constraints"),
        ({"multipliers": 1.0}, "multipliers: 1.0 given, a list of numbers is needed"),
        ({"multipliers": [-1.0]}, "multipliers: numbers ≥ 0"),
        ({"multipliers": ["NaN"]}, "multipliers: numbers ≥ 0"),
        ({"multipliers": ["1"]}, "multipliers: '1' given, a number is needed"),
        ({"natural": ["１"]}, "natural: '１' given"),
        ({"natural": [True]}, "natural: True given"),
        ({"natural": [10**400]}, "natural: a whole number of 401 digits is beyond the range"),
        ({"natural": [[1.0]]}, r"natural: \[1.0\] given"),
        ({"natural": None}, "natural: None given"),
        ({"levels": []}, r"levels: \[\] given"),
        ({"levels": ["0.1"]}, "levels: '0.1' given"),
        ({"levels_stderr": [0.1, 0.1]}, "levels_stderr: 2 numbers"),
        ({"critical_levels": [0.1, 0.1]}, "critical_levels: 2 numbers"),
        ({"log_weights": "much"}, "log_weights: 'much' given"),
        ({"primal": "1.0"}, "primal: '1.0' given"),
        ({"primal": [1.0]}, r"primal: \[1.0\] given"),
        ({"primal": None}, "primal: None given"),
        ({"iterations": 2.5}, "iterations: 2.5 given"),
        ({"primal": "nan"}, "primal: 'nan' given"),
        ({"iterations": -1}, "iterations: -1 given"),
        ({"status": "CERTIFIED"}, "status: 'CERTIFIED' given, one of OPTIMAL"),
        ({"status": 1}, "status: 1 given"),
        ({"problem": []}, "problem: an object with a type"),
        ({"type": 3}, "problem: an object with a type"),
        ({"kind": "other"}, "problem: kind: 'other' given"),
        ({"priors": [0.1, 0.2]}, "priors: 2 given for 1 levels"),
        ({"priors": [2.0]}, "problem: priors: 2.0 given"),
    ],
)
def test_json_is_checked_field_by_field(fields, reason):
    ratios = mixture_draws(np.random.default_rng(0), 500)
    text = du.solve(du.Likelihood(0.1), ratios).to_json()
    with pytest.raises(ValueError, match=f"text: not the JSON of a Solution.*{reason}"):
        du.Solution.from_json(changed(text, **fields))


def test_json_that_is_none_and_numbers_that_are_none():
    text = du.solve(du.Likelihood(0.1), mixture_draws(np.random.default_rng(0), 500)).to_json()
    value = json.loads(text)["primal"]
    for number, reason in (
        ("NaN", "NaN is not strict JSON"),
        ("-Infinity", "-Infinity is not strict"),
        ("1e400", "1e400 is beyond the range"),
        ("9" * 5000, "digits"),
        ("１", "JSONDecodeError"),
    ):
        with pytest.raises(ValueError, match=f"text: not the JSON of a Solution.*{reason}"):
            du.Solution.from_json(text.replace(str(value), number))
    for odd in (None, 3, b"\xff", "[" * 100_000, text[: len(text) // 2], f"[{text}]"):
        with pytest.raises(ValueError, match="text: not the JSON of a Solution"):
            du.Solution.from_json(odd)
    short = json.loads(text)
    del short["dual"]
    with pytest.raises(ValueError, match="dual: missing"):
        du.Solution.from_json(json.dumps(short))


@pytest.mark.parametrize("version", [None, 0, 2, "1", True])
def test_json_of_another_version_is_refused(version):
    data = json.loads(du.solve(du.Likelihood(0.1), mixture_draws(np.random.default_rng(0), 500)).to_json())
    assert data.pop("schema_version") == 1
    other = data if version is None else data | {"schema_version": version}
    with pytest.raises(ValueError, match=f"schema_version: {version!r} given, 1 is needed; another release wrote this"):
        du.Solution.from_json(json.dumps(other))


def test_table():
    solution = du.solve(du.Likelihood(0.01), mixture_draws(np.random.default_rng(0), 2000))
    text = str(solution)
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
    assert text.count("std. error") == 2
    assert f"{solution.levels_stderr[0]:.6g}" in text
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


def drawn(kind):
    draws = mixture_draws(np.random.default_rng(20), 3000, concepts=(0, 2))
    own = own_levels(kind(1.0), draws)
    return kind(own * (0.5 if kind is du.Likelihood else 1.2)), draws


@pytest.mark.parametrize("kind", [du.ReverseKL, du.ForwardKL, du.Likelihood])
def test_standard_errors_are_computed_when_they_are_looked_at(kind, monkeypatch):
    problem, draws = drawn(kind)
    calls = []
    monkeypatch.setattr(uncertainty, "delta_method", lambda *given: calls.append(1) or delta_method(*given))
    solution = du.solve(problem, draws)
    assert solution.primal_stderr > 0
    assert solution.gap < 1e-10
    assert not calls
    first = solution.multipliers_stderr
    assert (first > 0).all()
    assert (solution.levels_stderr > 0).all()
    assert solution.multipliers_stderr is first
    assert len(calls) == 1
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0.0
    with pytest.raises(AttributeError, match="no attribute 'elsewhere'"):
        solution.elsewhere  # noqa: B018


@pytest.mark.parametrize(
    "seen",
    [
        lambda s: pickle.loads(pickle.dumps(s)),
        copy.copy,
        copy.deepcopy,
        dataclasses.replace,
        lambda s: du.Solution.from_json(s.to_json()),
        lambda s: du.Solution(**{f.name: getattr(s, f.name) for f in dataclasses.fields(s)}),
    ],
)
def test_standard_errors_that_nobody_has_looked_at_come_along(seen):
    problem, draws = drawn(du.Likelihood)
    looked_at = du.solve(problem, draws)
    expected = [*looked_at.multipliers_stderr, *looked_at.levels_stderr]
    solution = du.solve(problem, draws)
    again = seen(solution)
    np.testing.assert_array_equal([*again.multipliers_stderr, *again.levels_stderr], expected)
    assert repr(du.solve(problem, draws)) == repr(looked_at)
    assert str(du.solve(problem, draws)) == str(looked_at)


@pytest.mark.parametrize("kind", [du.ReverseKL, du.ForwardKL, du.Likelihood])
def test_standard_errors_are_the_same_from_a_dual_function_that_is_made_again(kind, monkeypatch):
    problem, draws = drawn(kind)
    kept = du.solve(problem, draws)
    monkeypatch.setattr(uncertainty, "SMALL", 0)
    again = du.solve(problem, draws)
    np.testing.assert_allclose(again.multipliers_stderr, kept.multipliers_stderr, rtol=1e-8)
    np.testing.assert_allclose(again.levels_stderr, kept.levels_stderr, rtol=1e-12)
