"""Levels that hold for all ratios within an error of those at hand, and no others that are milder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from grouped import divergences, grouped_space

import duality as du


def moved(ratios: du.LogRatios, change: np.ndarray) -> du.LogRatios:
    return du.LogRatios(
        ratios.values + change,
        ratios.log_weights,
        None,
        ratios.priors,
        ratios.groups,
        ratios.group_weights,
        None if ratios.detectors is None else ratios.detectors + change,
    )


@pytest.mark.parametrize(
    ("make", "sign"),
    [
        (lambda own: du.ReverseKL(own + 0.3), 1),
        (lambda own: du.Likelihood(0.8 * own), 1),
        (lambda own: du.Likelihood(own - 0.1, kind="log-ratio"), 1),
        (lambda own: du.Likelihood(0.85 * own, kind="detector"), 1),
        (lambda own: du.Keep(1.1 * own), -1),
        (lambda own: du.Keep(own + 0.1, kind="log-ratio"), -1),
        (lambda own: du.Keep(1.1 * own, kind="posterior"), -1),
        (lambda own: du.Keep(0.95 * own, kind="reverse-kl"), -1),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.filterwarnings("ignore::duality.MassWarning")
def test_safe_for_all_within_the_error_and_no_milder(
    make: Callable[[np.ndarray], du.Problem], sign: int, count: int
) -> None:
    rng = np.random.default_rng(2)
    known = grouped_space(rng, count=count, detectors=2, m=2)
    blank = make(np.ones(2)).bind(known)
    own = blank.levels_of(known, known.log_weights)
    problem, error = make(own).bind(known), np.array([0.005, 0.01])
    found = du.solve(problem.robust(error), known)
    for _ in range(50):
        true = moved(known, rng.uniform(-1, 1, size=known.values.shape) * error)
        assert (problem.slack_of(true, found.log_weights) >= -1e-10).all()
    worst = problem.slack_of(moved(known, sign * error * np.ones_like(known.values)), found.log_weights)
    active = found.multipliers > 0
    assert active.any()
    np.testing.assert_allclose(worst[active], 0, atol=1e-8)  # some ratios within the error leave nothing
    plain = du.solve(problem, known).log_weights
    assert (problem.slack_of(moved(known, sign * error * np.ones_like(known.values)), plain) < -1e-4).any()


def test_reverse_kl_by_definition() -> None:
    # q_i itself is moved, p is not: the divergence from the true law is what was asked for at least.
    rng = np.random.default_rng(3)
    known = grouped_space(rng, count=2, m=1)
    found = du.solve(du.ReverseKL(0.8).robust(0.05), known)
    p, q = np.exp(found.log_weights), np.exp(known.log_weights)
    for _ in range(50):
        true = q * np.exp(known.values[:, 0] + rng.uniform(-0.05, 0.05, size=known.n))
        assert divergences(p, true, known.groups, known.group_weights) >= 0.8 - 1e-10


def test_joint_and_tail_move_their_parts() -> None:
    joint = du.Joint([du.ReverseKL([0.5, 0.6]), du.Likelihood(0.2, kind="detector"), du.Keep(0.3)])
    np.testing.assert_allclose(joint.robust([0.1, 0.2, 0.01, 0.02]).levels, [0.6, 0.8, 0.19, 0.32])
    np.testing.assert_allclose(joint.robust(0.1).levels, [0.6, 0.7, 0.1, 0.4])
    tail = du.TailLikelihood(0.4, kind="detector", tail=0.1).robust(0.05)
    assert tail.levels[0] == pytest.approx(0.35)
    assert tail.tail == 0.1


def test_refused() -> None:
    for given in (-0.1, float("inf")):
        with pytest.raises(ValueError, match=r"error: .* finite numbers ≥ 0"):
            du.ReverseKL(1.0).robust(given)
    with pytest.raises(ValueError, match="error: 3 given for 2 levels"):
        du.Likelihood([0.1, 0.2]).robust([0.1, 0.1, 0.1])
    for problem in (du.ForwardKL(1.0), du.Keep(1.0, kind="forward-kl"), du.Joint([du.ForwardKL(1.0), du.Keep(0.1)])):
        with pytest.raises(ValueError, match="has no levels that are safe for all ratios within it"):
            problem.robust(0.1)
    with pytest.raises(ValueError, match=r"no divergence is known to be at most 0\.05 nats"):
        du.Keep(0.05, kind="reverse-kl").robust(0.1)
