"""The four rules against exact scores: who is exact, who is not, and by how much."""

from __future__ import annotations

import numpy as np
import pytest

import duality as du
import toy
from toy.guidance import guidance_errors, guidance_table, guided_score, rules
from toy.mixtures import GaussianMixture

WORKED = toy.example("worked")
LINE = GaussianMixture([0.4, 0.6], [-1.0, 1.5], [0.5, 0.8])
LEVELS = (0.9, 0.3)


def _errors(
    problem: du.Problem, q: GaussianMixture, per_axis: int = 41
) -> dict[tuple[str, float], tuple[float, float]]:
    answer = toy.solve(problem, q, q.component(0))
    return {(one.rule, one.alpha_bar): (one.error, one.correction) for one in guidance_errors(answer, LEVELS, per_axis)}


def test_forward_rule_is_exact_everywhere() -> None:
    for q in (WORKED.pretrained, LINE, toy.example("unequal").pretrained):
        for error, correction in _errors(du.ForwardKL(2.0), q).values():
            assert error < 1e-12 < 1e-2 < correction


def test_constant_strength_is_exact_for_equal_gaussians_only() -> None:
    made = toy.example("gaussians")
    answer = toy.solve(made.problems[0], made.pretrained, made.unlearn)
    # The lattice ends 7.5 deviations from the target: 1e-13 of mass sees a score cut off there, 1e-7 in the mean.
    assert all(one.error < 1e-6 < one.correction for one in guidance_errors(answer, LEVELS, 21))
    mixed = _errors(du.ReverseKL(30.0), WORKED.pretrained)
    # The error of ESD's rule grows with noise, here to most of the correction itself.
    assert mixed["RU: constant", 0.9][0] < 0.1 * mixed["RU: constant", 0.9][1]
    assert mixed["RU: constant", 0.3][0] > 0.5 * mixed["RU: constant", 0.3][1]


def test_closure_beats_first_order_where_there_is_noise_and_not_at_the_data() -> None:
    found = _errors(du.Likelihood(0.01, priors=0.3), WORKED.pretrained)
    closure, first = "LU: two-valued closure", "LU: first order"
    # First order errs by more than the whole correction at alpha_bar = .3; the closure by less than a hundredth.
    assert found[first, 0.3][0] > found[first, 0.3][1]
    assert found[closure, 0.3][0] < 0.01 * found[closure, 0.3][1]
    # At the data itself first order is the derivative of -lam l: exact there, and better still close by.
    answer = toy.solve(du.Likelihood(0.01, priors=0.3), WORKED.pretrained, WORKED.unlearn)
    near = {one.rule: one.error for one in guidance_errors(answer, (0.995,), 31)}
    assert near[first] < 0.5 * near[closure]
    x = WORKED.pretrained.sample(20, np.random.default_rng(0))
    guided = guided_score(WORKED.pretrained, WORKED.unlearn, rules(answer)[first], x, 1.0)
    np.testing.assert_allclose(guided, toy.score_of_target(answer, x), rtol=1e-10, atol=1e-10)


def test_averages_do_not_depend_on_the_lattice() -> None:
    coarse, fine = (_errors(du.ReverseKL(4.0), LINE, n) for n in (41, 161))
    for key, (error, correction) in coarse.items():
        np.testing.assert_allclose((error, correction), fine[key], rtol=1e-2)


def test_guided_draws_are_the_target() -> None:
    """FU's rule in a sampler: the removed mode is gone to its level, by energy distance to the exact mixture."""
    answer = toy.solve(WORKED.problems[1], WORKED.pretrained, WORKED.unlearn)
    (strengths,) = rules(answer).values()
    generator = np.random.default_rng(1)
    levels = toy.SCHEDULES["linear"]().levels(125)

    def score(x: np.ndarray, alpha_bar: float) -> np.ndarray:
        return guided_score(WORKED.pretrained, WORKED.unlearn, strengths, x, alpha_bar)

    x = toy.sample_ddim(score, levels, generator.normal(size=(600, 2)), 1.0, generator)
    lam = float(answer.solution.multipliers[0])
    weights = np.array([0.3 - lam, 0.4, 0.3]) / (1 - lam)
    exact = GaussianMixture(weights / weights.sum(), WORKED.pretrained.means, 0.5).sample(600, generator)
    assert toy.energy_distance(x, exact, generator).p_value > 0.01
    assert toy.energy_distance(x, WORKED.pretrained.sample(600, generator), generator).p_value < 0.01


def test_table_holds_every_rule_and_level() -> None:
    answer = toy.solve(du.Likelihood(0.05, priors=0.4), LINE, LINE.component(0))
    text = guidance_table(guidance_errors(answer, LEVELS, 31))
    assert "LU: first order" in text
    assert "LU: two-valued closure" in text
    assert "alpha_bar 0.9" in text.splitlines()[0]


def test_other_likelihoods_have_no_rule_here() -> None:
    answer = toy.solve(du.Likelihood(-1.0, kind="log-ratio"), LINE, LINE.component(0))
    with pytest.raises(ValueError, match="posteriors is needed"):
        rules(answer)
