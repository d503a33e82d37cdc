"""The alternating algorithm meets the solver, by both dual rules, and resumes where it stopped."""

import importlib.util
import json

import numpy as np
import pytest
from instances import finite_space, own_levels, worked_mixture

import duality as du
from duality.primal_dual import Ascent, ExactPlayer, NuPI, PrimalDual

with_cooper = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "cooper")), reason="cooper is not installed: [torch]"
)
PROBLEMS = [du.ReverseKL(30.0), du.ForwardKL(2.5), du.Likelihood(0.05), du.Likelihood(0.005, kind="density")]


def rate(problem, ratios, solution):
    """1/h, by the derivative of the miss along lam at the solution."""
    player = ExactPlayer(problem, ratios)
    lam, step = solution.multipliers[0], 1e-4 * solution.multipliers[0]
    levels = []
    for at in (lam, lam + step):
        player.step(np.array([at]))
        levels.append(player.levels()[0])
    return step / abs(levels[1] - levels[0])


@pytest.mark.parametrize("problem", PROBLEMS, ids=["reverse", "forward", "posterior", "density"])
@pytest.mark.parametrize("rule", ["ascent", pytest.param("nupi", marks=with_cooper)])
def test_converges_to_the_solver(problem, rule):
    ratios = worked_mixture(61)
    solution = du.solve(problem, ratios)
    eta = 0.5 * rate(problem, ratios, solution)
    chosen = Ascent(eta) if rule == "ascent" else NuPI(eta, proportional=0.3)
    player = ExactPlayer(problem, ratios)
    path = PrimalDual(problem, player, chosen).run(150)
    # Near the solution the error halves in each round; far from it, concavity keeps it falling.
    np.testing.assert_allclose(path.multipliers[-1], solution.multipliers, rtol=1e-9)
    np.testing.assert_allclose(path.levels[-1], problem.levels, rtol=1e-9)
    np.testing.assert_allclose(np.exp(player.log_weights), np.exp(solution.log_weights), atol=1e-10)
    assert path.multipliers.shape == (151, 1)
    assert path.levels.shape == (150, 1)


def test_several_constraints_some_inactive():
    ratios = finite_space(np.random.default_rng(0), 200, 4)
    problem = du.Likelihood(own_levels(du.Likelihood(1.0), ratios) * np.array([0.7, 0.8, 1.5, 0.9]))
    solution = du.solve(problem, ratios)
    assert (solution.multipliers == 0).any()
    path = PrimalDual(problem, ExactPlayer(problem, ratios), Ascent(20.0)).run(1500)
    np.testing.assert_allclose(path.multipliers[-1], solution.multipliers, rtol=1e-7, atol=1e-9)


def test_too_bold_a_rate_does_not_leave_the_domain():
    ratios = worked_mixture(61)
    for problem in PROBLEMS[:2]:
        path = PrimalDual(problem, ExactPlayer(problem, ratios), Ascent(0.05)).run(50)
        assert np.isfinite(path.multipliers).all()
        assert (path.multipliers >= 0).all()
        assert all(problem.domain(lam) for lam in path.multipliers)


@pytest.mark.parametrize(
    "make",
    [lambda: Ascent(0.5), pytest.param(lambda: NuPI(0.5, proportional=0.5, smoothing=0.3), marks=with_cooper)],
    ids=["ascent", "nupi"],
)
def test_saved_and_resumed_bit_for_bit(make):
    ratios = worked_mixture(41)
    problem = du.Likelihood(0.05)
    straight = PrimalDual(problem, ExactPlayer(problem, ratios), make()).run(12).multipliers
    first = PrimalDual(problem, ExactPlayer(problem, ratios), make())
    first.run(5)
    second = PrimalDual(problem, ExactPlayer(problem, ratios), make())
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.rounds == 5
    np.testing.assert_array_equal(second.run(7).multipliers, straight[5:])


@with_cooper
def test_a_late_player_oscillates_under_ascent_and_nupi_damps_it():
    class Late(ExactPlayer):
        """Goes only a tenth of the way to the minimiser."""

        def step(self, multipliers):
            before = np.exp(self.log_weights)
            super().step(multipliers)
            self.log_weights = np.log(0.9 * before + 0.1 * np.exp(self.log_weights))

    ratios = worked_mixture(41)
    problem = du.Likelihood(0.05)
    goal = du.solve(problem, ratios).multipliers[0]

    def swing(rule):
        """The largest distance from the goal over the last fifty of 200 rounds."""
        path = PrimalDual(problem, Late(problem, ratios), rule).run(200)
        return np.abs(path.multipliers[-50:] - goal).max()

    plain = swing(Ascent(2.0))
    assert plain > 1e-6
    assert swing(NuPI(2.0, proportional=4.0)) < 0.05 * plain


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Ascent(0.0), "rate: 0.0 given"),
        (lambda: NuPI(-1.0), "rate: -1.0 given"),
        (lambda: Ascent(1.0).load_state_dict({"xi": 1}), "state: plain ascent keeps none"),
        (lambda: PrimalDual(PROBLEMS[0], None, Ascent(1.0), start=[1.5]), "start: .* inside the dual domain"),
        (lambda: PrimalDual(PROBLEMS[0], None, Ascent(1.0), start=[0.1, 0.1]), "start: .* 1 multipliers"),
        (
            lambda: PrimalDual(PROBLEMS[0], None, Ascent(1.0)).load_state_dict({"multipliers": [0, 0], "rounds": 1}),
            "state: 2 multipliers given",
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
