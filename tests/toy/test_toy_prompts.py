"""Mixtures under prompts: closed forms where modes are far apart, what one prompt is, and what a prompt without a
concept keeps."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq

import duality as du
import toy
from toy.prompts import joined

MEANS = [[-6.0, 0.0], [0.0, 6.0], [6.0, 0.0]]
WEIGHTS = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.02, 0.48, 0.5]])
SHARES = np.array([0.3, 0.5, 0.2])
SHOWS = du.Likelihood(0.01, kind="detector")


@pytest.fixture
def apart() -> toy.PromptedMixture:
    """Modes 12 standard deviations apart: what shows the concept and what does not is all but disjoint."""
    return toy.PromptedMixture(WEIGHTS, MEANS, 0.5, SHARES)


def test_one_multiplier_and_a_normaliser_for_each_prompt(apart: toy.PromptedMixture) -> None:
    """For l in {0, 1}: Z_c = 1 - pi_c (1 - e^-lam), and lam solves sum_c P(c) pi_c e^-lam/Z_c = b."""
    found = toy.solve_prompted(SHOWS, apart, [0])
    priors = WEIGHTS[:, 0]
    left = lambda lam: priors * np.exp(-lam) / (1 - priors * -np.expm1(-lam))  # noqa: E731
    lam = brentq(lambda one: SHARES @ left(one) - 0.01, 0, 20, xtol=1e-14)
    # Posteriors are 0 or 1 but for a share of Phi(-6) = 1e-9 of either mode, which enters to first order.
    assert found.solution.multipliers[0] == pytest.approx(lam, rel=1e-7)
    np.testing.assert_allclose(found.shown[:, 0], left(lam), rtol=1e-6)
    logs = np.log1p(priors * np.expm1(-lam))
    assert found.solution.primal == pytest.approx(-lam * 0.01 - SHARES @ logs, rel=1e-7)
    np.testing.assert_allclose(found.costs, -lam * left(lam) - logs, rtol=1e-6)
    assert SHARES @ found.costs == pytest.approx(found.solution.primal, rel=1e-12)
    # One normaliser for all (the pooled law) answers another question: it is never the dearer one.
    pooled = toy.solve(du.Likelihood(0.01, priors=float(SHARES @ priors)), apart.pooled, apart.pooled.component(0))
    assert pooled.solution.primal < found.solution.primal - 0.01


def test_divergences_are_averaged_over_prompts(apart: toy.PromptedMixture) -> None:
    """RU and FU reach their levels in the mean over prompts, divergences taken from their definition."""
    for problem in (du.ReverseKL(100.0), du.ForwardKL(3.5)):
        found = toy.solve_prompted(problem, apart, [0])
        assert found.solution.gap < 1e-10
        q_1 = [apart.concept(0, c) for c in range(3)]
        divergences = []
        for c, target in enumerate(found.targets):
            log_q1 = q_1[c].log_prob(found.nodes[c].points)
            step = np.prod([axis[1] - axis[0] for axis in found.nodes[c].axes])
            part = log_q1 + np.log(step)
            pair = (target, part) if isinstance(problem, du.ReverseKL) else (part, target)
            divergences.append(np.exp(pair[0]) @ (pair[0] - pair[1]))
        assert SHARES @ divergences == pytest.approx(float(problem.levels[0]), rel=1e-9)
        assert SHARES @ found.costs == pytest.approx(found.solution.primal, rel=1e-9)


def test_one_prompt_is_no_prompt() -> None:
    example = toy.example("overlapping")
    q = example.pretrained
    alone = toy.PromptedMixture([q.weights], q.means, q.covariances)
    given = toy.solve(du.Likelihood(0.1, priors=0.35), q, q.component(0)).solution
    found = toy.solve_prompted(du.Likelihood(0.1, kind="detector"), alone, [0])
    assert found.solution.multipliers[0] == pytest.approx(given.multipliers[0], rel=1e-9)
    assert found.costs[0] == pytest.approx(given.primal, rel=1e-9)
    same = toy.PromptedMixture([q.weights] * 3, q.means, q.covariances, [0.2, 0.5, 0.3])
    several = toy.solve_prompted(du.Likelihood(0.1, kind="detector"), same, [0])
    np.testing.assert_allclose(several.costs, given.primal, rtol=1e-9)


def test_a_prompt_that_never_shows_the_concept_keeps_its_law() -> None:
    q = toy.PromptedMixture([[0.6, 0.4, 0.0], [0.0, 0.3, 0.7]], MEANS, 0.5)
    ratios = q.log_ratios([0], 61)
    assert ratios.m == 0  # the concept has no law under the second prompt
    assert ratios.detectors is not None
    found = toy.solve_prompted(SHOWS, q, [0], 61)
    assert found.costs[1] == pytest.approx(0, abs=1e-12)
    # The first prompt, one half of what is asked, is left with 2 %: the divergence of two coins.
    coins = 0.02 * np.log(0.02 / 0.6) + 0.98 * np.log(0.98 / 0.4)
    assert found.costs[0] == pytest.approx(coins, rel=1e-6)
    np.testing.assert_array_equal(found.shown[1], 0)
    with pytest.raises(ValueError, match="prompt 1 has no weight on"):
        q.concept(0, 1)


def test_keeping_is_priced_under_prompts(apart: toy.PromptedMixture) -> None:
    """Modes 0 and 1 are kept and removed at once; without room for both the constraints are named."""
    own = float(SHARES @ WEIGHTS[:, 1])
    joint = du.Joint([SHOWS, du.Keep([own * 1.3])])
    free, held = (toy.solve_prompted(one, apart, [0, 1], 81) for one in (du.Joint([SHOWS, du.Keep([0.1])]), joint))
    assert free.solution.multipliers[1] == 0
    assert held.solution.multipliers[1] > 0
    assert held.solution.primal > free.solution.primal
    assert SHARES @ held.shown[:, 1] == pytest.approx(1.3 * own, rel=1e-9)
    # Modes 1 and 2 cannot have 0.6 and 0.5 of all: the removal is not to blame.
    with pytest.raises(du.InfeasibleError) as caught:
        toy.solve_prompted(du.Joint([SHOWS, du.Keep([0.6, 0.5])]), apart, [0, 1, 2], 81)
    np.testing.assert_array_equal(caught.value.conflict, [1, 2])


def test_draws_of_each_prompt_are_nodes_too(apart: toy.PromptedMixture) -> None:
    rng = np.random.default_rng(0)
    nodes = [toy.draws(law, 2000, rng) for law in apart.laws]
    found = toy.solve_prompted(SHOWS, apart, [0], nodes)
    assert found.ratios.is_draws
    exact = toy.solve_prompted(SHOWS, apart, [0], 81).solution
    error = float(found.solution.primal_stderr)
    assert 0 < error < 0.02
    assert abs(found.solution.dual - exact.dual) < 4 * error
    with pytest.raises(ValueError, match="draws for all prompts"):
        apart.log_ratios([0], [nodes[0], *apart.nodes(81)[1:]])


def test_nodes_that_do_not_see_a_target_are_refused() -> None:
    q = toy.PromptedMixture([[1.0, 0.0], [0.5, 0.5]], [[0.0, 0.0], [2.0, 0.0]], 1.0)
    with pytest.raises(toy.TruncationError):
        toy.solve_prompted(du.ReverseKL(150.0), q, [0, 1][:1], q.nodes(61, 9.0))
    with pytest.raises(ValueError, match="nodes per coordinate are needed"):
        q.nodes(9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": [0.5, 0.5]}, "a row for each prompt"),
        ({"weights": [[0.5, 0.6]]}, "a sum of 1"),
        ({"shares": [0.5]}, "2 probabilities above 0"),
        ({"shares": [0.0, 1.0]}, "2 probabilities above 0"),
        ({"shares": [0.6, 0.6]}, "with a sum of 1"),
        ({"shares": [np.nan, 0.5]}, "2 probabilities above 0"),
        ({"covariances": -1.0}, "variances > 0"),
    ],
)
def test_what_is_no_family_of_mixtures_is_refused(change: dict[str, object], words: str) -> None:
    given = {"weights": [[0.5, 0.5], [0.1, 0.9]], "means": [-1.0, 1.0], "covariances": 1.0, "shares": [0.5, 0.5]}
    with pytest.raises(ValueError, match=words):
        toy.PromptedMixture(**{**given, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("modes", [3, -1, [0, 0], [], [0, 3]])
def test_concepts_are_modes_that_are_there(apart: toy.PromptedMixture, modes: object) -> None:
    with pytest.raises(ValueError, match="modes: different ones of 0 … 2"):
        apart.log_ratios([modes], 61)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at least one"):
        apart.log_ratios([], 61)
    with pytest.raises(ValueError, match="one for each prompt"):
        apart.log_ratios([0], apart.nodes(61)[:2])


def test_joined_keeps_shares_and_order() -> None:
    parts = [du.LogRatios([0.1, -0.2], np.log([0.3, 0.7])), du.LogRatios([0.4], np.log([1.0]))]
    both = joined(parts, [0.25, 0.75])
    np.testing.assert_allclose(np.exp(both.log_weights), [0.075, 0.175, 0.75], rtol=1e-15)
    np.testing.assert_array_equal(both.values[:, 0], [0.1, -0.2, 0.4])
