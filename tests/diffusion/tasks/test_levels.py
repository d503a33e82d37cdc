"""Levels as people say them, against the solver's own functionals."""

import math

import numpy as np
import pytest

import duality as du
from diffusion.tasks.levels import check_tilt, kind_of, levels, parse, present, resolved

KL = (du.ReverseKL, du.ForwardKL)


@pytest.fixture(scope="module")
def ratios():
    """Two concepts that stand apart, of shares 0.2 and 0.1, as 1,000 samples see them."""
    values = np.full((1000, 2), -4.0)
    values[:200, 0], values[200:300, 1] = math.log(1 / 0.2), math.log(1 / 0.1)
    return du.LogRatios(values, priors=[0.2, 0.1])


@pytest.mark.parametrize(
    ("text", "kind", "value", "relative"),
    [
        ("0.01", du.Likelihood, 0.01, False),
        (0.01, du.Likelihood, 0.01, False),
        ("1%", du.Likelihood, 0.01, False),
        (" 1 % ", du.Likelihood, 0.01, False),
        ("0.1x", du.Likelihood, 0.1, True),
        ("2 ×", du.ReverseKL, 2.0, True),
        ("4", du.ReverseKL, 4.0, False),
        ("4 nats", du.ForwardKL, 4.0, False),
        ("1nat", du.ForwardKL, 1.0, False),
        ("1%", du.ForwardKL, math.log(100), False),
        ("2e-1x", du.ForwardKL, 0.2, True),
        ("0", du.ReverseKL, 0.0, False),
    ],
)
def test_what_is_said_is_what_is_meant(text, kind, value, relative):
    level = parse(text, kind)
    assert level.relative is relative
    assert level.value == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("a little", du.Likelihood, "got 'a little'"),
        ("", du.Likelihood, "got ''"),
        ("1.5", du.Likelihood, "strictly between 0 and 1"),
        ("0", du.Likelihood, "strictly between 0 and 1"),
        ("nan", du.Likelihood, "got 'nan'"),
        ("100%", du.Likelihood, "strictly between 0 and 100"),
        ("4 nats", du.Likelihood, "is a probability"),
        ("1%", du.ReverseKL, "no share of the samples"),
        ("-1", du.ReverseKL, "never negative"),
        ("1e999", du.ForwardKL, "finite"),
        ("0x", du.ForwardKL, "positive multiple"),
        ("-2x", du.Likelihood, "positive multiple"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, kind, words):
    with pytest.raises(ValueError, match=words):
        parse(text, kind)


def test_multiples_are_of_what_q_has(ratios):
    now = ratios.masses * 0 + np.array([0.2 + 0.8 * 0.2 * math.exp(-4), 0.1 + 0.9 * 0.1 * math.exp(-4)])
    np.testing.assert_allclose(present(du.Likelihood, ratios), now, rtol=1e-12)
    asked = levels(du.Likelihood, ["0.1x", "1%"])
    np.testing.assert_allclose(asked.problem(ratios).levels, [0.1 * now[0], 0.01], rtol=1e-12)
    for kind in KL:
        twice = levels(kind, "2x").problem(ratios)
        np.testing.assert_allclose(twice.levels, 2 * present(kind, ratios), rtol=1e-12)
        assert not du.solve(twice, ratios).inactive
        once = du.solve(levels(kind, "0.99x").problem(ratios), ratios)
        assert once.inactive


def test_a_share_of_forward_kl_leaves_that_share():
    """Where the concept stands apart, a level of -log s nats leaves the share s."""
    values = np.full((1000, 1), -np.inf)
    values[:200] = math.log(1 / 0.2)
    ratios = du.LogRatios(values, priors=[0.2])
    solution = du.solve(levels(du.ForwardKL, "1%").problem(ratios), ratios)
    assert np.exp(solution.log_weights)[:200].sum() == pytest.approx(0.01, rel=1e-9)


def test_what_does_not_fit_is_refused(ratios):
    with pytest.raises(ValueError, match="3 given for 2 concepts"):
        levels(du.ReverseKL, ["1", "2", "3"]).problem(ratios)
    with pytest.raises(ValueError, match="no probability"):
        levels(du.Likelihood, "9x").problem(ratios)
    of_no_law = du.LogRatios(ratios.values + 3.0, priors=[0.2, 0.1])
    with pytest.warns(du.MassWarning), pytest.raises(ValueError, match="no divergence is negative"):
        levels(du.ReverseKL, "2x").problem(of_no_law)
    with pytest.raises(ValueError, match="at least one"):
        levels(du.Likelihood, [])
    with pytest.raises(ValueError, match=r"duality\.Likelihood"):
        levels(dict, "1")
    with pytest.raises(ValueError, match="got 'magic'"):
        kind_of("magic")


def test_a_problem_in_numbers_passes_through(ratios):
    problem = du.ReverseKL(1.0)
    assert resolved(problem, ratios) is problem
    assert str(levels(kind_of("reverse-kl"), ["2x", 1])) == "reverse-kl 2x, 1"


def test_a_target_that_no_tilt_has_is_refused_with_what_can_be_had(ratios):
    """Beyond its critical levels a reverse KL has multipliers that add up to 1, and weights without end."""
    most = du.solve(du.ReverseKL(1e3), ratios)
    assert most.status is du.Status.NOT_ATTAINED
    assert most.critical_levels is not None
    with pytest.raises(
        ValueError, match=f"level: 1000, 1000 nats lie beyond.*they come to {most.critical_levels[0]:.4g}"
    ):
        check_tilt(most)
    check_tilt(du.solve(du.ReverseKL(0.999 * most.critical_levels), ratios))
    check_tilt(du.solve(du.ForwardKL(1e3), ratios))  # a limit, but a tilt
    check_tilt(du.solve(du.Likelihood(0.01), ratios))
