"""Multipliers of a network that follows none of them are held back, and it is told."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

import duality as du
from diffusion.methods import FitContext
from diffusion.methods.dual_loop import Rounds
from diffusion.methods.level_shift import REACH, Asking
from diffusion.methods.primal_dual import Alternation, PrimalDual
from tests.diffusion.methods.conftest import LEVELS, SMALL


@pytest.fixture(autouse=True)
def few():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        yield


@pytest.fixture(scope="module")
def ratios():
    share = np.where(np.arange(2000) % 10 == 0, 0.999, np.geomspace(1e-6, 1e-2, 2000))
    return du.LogRatios(np.log(share / 0.1)[:, None], priors=[0.1])


def path(ratios, level_of, rounds=8):
    """Multipliers of so many rounds of a network whose level is a function of the round."""
    problem = du.Likelihood(0.01).bind(ratios)
    rule, lam, found = Asking(problem, ratios), du.solve(problem, ratios).multipliers, []
    for k in range(rounds):
        lam = rule.update(lam, np.array([level_of(k) - 0.01]))
        found.append(float(lam[0]))
    return rule, found


def test_a_network_that_stays_where_it_is_does_not_send_them_away(ratios):
    rule, found = path(ratios, lambda _: 0.06)
    assert rule.capped.tolist() == [True]
    assert rule.asked[0] == pytest.approx(0.01 / REACH)
    assert max(found) == pytest.approx(float(rule.farthest()[0]))
    assert found[-1] == found[-2]


def test_one_that_follows_is_left_alone(ratios):
    rule, _ = path(ratios, lambda k: 0.01 + 0.02 * 0.3**k)
    assert not rule.capped.any()


def test_being_held_back_is_part_of_the_state(ratios):
    rule, _ = path(ratios, lambda _: 0.06)
    fresh = Asking(du.Likelihood(0.01).bind(ratios), ratios)
    fresh.load_state_dict(rule.state_dict())
    assert fresh.capped.tolist() == [True]


def test_rounds_tell_their_outcome(ratios):
    problem = du.Likelihood(0.01).bind(ratios)
    rule = Asking(problem, ratios)
    rounds = Rounds(problem, rule, np.array([1.0]), lambda lam: lam, lambda _: None, [1])
    assert rounds.outcome([]).capped.tolist() == [False]
    rule.capped[:] = True
    assert rounds.outcome([]).capped.tolist() == [True]
    held = Rounds(problem, None, np.array([1.0]), lambda lam: lam, lambda _: None, [1])
    assert held.outcome([]).capped.tolist() == [False]
    held.ceiling = np.array([1.0])
    assert held.outcome([]).capped.tolist() == [True]


@pytest.mark.parametrize(("level", "missed"), [(0.0101, True), (0.0099, False)])
def test_what_was_held_back_once_and_arrived_all_the_same_did_not_run_away(ratios, level, missed):
    problem = du.Likelihood(0.01).bind(ratios)
    rounds = Rounds(problem, Asking(problem, ratios), np.array([1.0]), lambda lam: lam, lambda _: None, [1, 2])
    rounds.rule.capped[:] = True
    rounds.seen = [([0.05], [0.001]), ([level], [0.001])]
    assert rounds.outcome([]).capped.tolist() == [missed]
    ceiling = Rounds(problem, None, np.array([1.0]), lambda lam: lam, lambda _: None, [1, 2])
    ceiling.ceiling, ceiling.seen = np.array([1.0]), rounds.seen
    assert ceiling.outcome([]).capped.tolist() == [missed]


def test_the_alternating_algorithm_is_held_below_a_ceiling(denoiser, estimate, solutions):
    """The levels of a random network do not answer, so at this gain its multipliers would leave for good."""
    method = PrimalDual(inner=1, warmup=0, gain=1e3, samples=4, noise_levels=1)
    problem = replace(LEVELS["likelihood"], levels=np.array([0.05, 0.06]))
    run = Alternation(method, FitContext(denoiser, estimate, du.solve(problem, estimate.ratios), SMALL))
    outcome = run.run()
    assert (outcome.multipliers <= run.ceiling).all()
    assert (outcome.multipliers > 0).any()
    other = Alternation(method, FitContext(denoiser, estimate, solutions["forward"], SMALL))
    assert other.ceiling is None  # its domain is bounded
