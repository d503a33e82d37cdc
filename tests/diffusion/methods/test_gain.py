"""A gain that moves by measured levels: players whose levels answer to it by a slope of their own arrive."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import duality as du
from diffusion.methods.dual_loop import Rounds
from diffusion.methods.gain import REACH, STEP, Gain, gain_of
from diffusion.methods.level_shift import Asking
from diffusion.reports.certificate import rounds_of
from duality.primal_dual import PrimalDual
from tests.diffusion.methods.test_level_shift import KINDS, make_ratios, problem_of

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")


class Short:
    """A network that learns a part: at gain g the logs of its levels lie ``slope log(g/right)`` beyond."""

    def __init__(self, problem, rule, right, slope):
        self.problem, self.rule, self.right, self.slope = problem, rule, np.asarray(right), slope
        self.seen = []

    def step(self, multipliers):
        self.seen.append((self.rule.value, multipliers.copy()))

    def levels(self):
        asking = self.rule.asking
        side = 1.0 if asking.shares else -1.0
        moved = -side * self.slope * np.log(self.rule.value / self.right)
        return asking.levels(asking.coordinate(self.problem.levels) + moved)


@settings(max_examples=40)  # each is a run of sixteen solves
@given(st.sampled_from(KINDS), st.floats(0.3, 1.0), st.floats(1.0, 3.5), st.floats(0.6, 2.5))
def test_one_constraint_moves_the_gain_alone(kind, strictness, right, slope):
    ratios = make_ratios(1)
    problem = problem_of(kind, ratios, strictness)
    start = du.solve(problem, ratios).multipliers
    rule = Gain(problem, ratios, 2.0)
    player = Short(problem, rule, right, slope)
    PrimalDual(problem, player, rule, start, lambda lam: lam).run(16)
    # Slopes are known after one move, so that a miss contracts from then on; steps shrink when it changes sign.
    assert rule.value == pytest.approx(right, rel=0.02)
    assert not rule.capped.any()
    for _, multipliers in player.seen:
        np.testing.assert_allclose(multipliers, start, rtol=1e-6)


def test_steps_are_bounded_and_what_runs_away_is_said():
    ratios = make_ratios(1)
    problem = problem_of("likelihood", ratios, 0.7)
    start = du.solve(problem, ratios).multipliers
    rule = Gain(problem, ratios, 2.0)
    player = Short(problem, rule, 1e6, 1.0)
    PrimalDual(problem, player, rule, start, lambda lam: lam).run(3)
    gains = [gain for gain, _ in player.seen]
    assert gains == pytest.approx([2.0, 2.0 * STEP, 2.0 * STEP**2])
    assert not rule.capped.any()
    PrimalDual(problem, player, rule, start, lambda lam: lam).run(6)
    assert rule.value == pytest.approx(2.0 * REACH)
    assert rule.capped.tolist() == [True]
    down = Gain(problem, ratios, 2.0)
    PrimalDual(problem, Short(problem, down, 1e-6, 1.0), down, start, lambda lam: lam).run(9)
    assert down.value == pytest.approx(2.0 / REACH)
    assert not down.capped.any()  # less than that was needed, and the levels are met


def test_no_hit_among_the_samples_is_no_infinite_step():
    ratios = make_ratios(1)
    problem = problem_of("likelihood", ratios, 0.7)
    rule, start = Gain(problem, ratios, 2.0), du.solve(problem, ratios).multipliers
    after = rule.update(start, 0.0 - problem.levels)
    np.testing.assert_allclose(after, start, rtol=1e-6)
    assert rule.value == pytest.approx(2.0 / STEP)
    rule.update(after, 0.0 * problem.levels)  # and it tells no slope
    assert rule.slope == Gain(problem, ratios, 2.0).slope


@pytest.mark.parametrize("kind", ["likelihood", "reverse"])
def test_the_worst_constraint_moves_the_gain_and_the_other_multipliers_fall(kind):
    ratios = make_ratios(2)
    problem = problem_of(kind, ratios, 0.7)
    rule, start = Gain(problem, ratios, 2.0), du.solve(problem, ratios).multipliers
    player = Short(problem, rule, [3.0, 2.0], 1.0)
    player.step(start)
    misses = -problem.slack(player.levels())
    assert misses[0] > 0
    assert abs(misses[1]) < 1e-9
    after = rule.update(start, misses)
    assert rule.value > 2.0
    assert after[1] < start[1] - 1e-3
    # Both passed by as much: the gain falls, and the multipliers stay.
    rule = Gain(problem, ratios, 2.0)
    player = Short(problem, rule, [1.5, 1.5], 1.0)
    np.testing.assert_allclose(rule.update(start, -problem.slack(player.levels())), start, rtol=1e-6)
    assert rule.value < 2.0


def test_what_is_kept_and_was_lost_is_asked_for_by_its_multiplier():
    columns = np.random.default_rng(0).uniform(size=(500, 2)).round()
    ratios = du.LogRatios(detectors=columns)
    problem = du.Joint([du.Likelihood(0.3, kind="detector"), du.Keep(0.48)]).bind(ratios)
    solution = du.solve(problem, ratios)
    rule = Gain(problem, ratios, 2.0)
    after = rule.update(np.array(solution.multipliers), np.array([0.0, 0.1]))
    assert rule.value == pytest.approx(2.0)
    assert after[1] > solution.multipliers[1]


def test_the_state_is_saved_and_resumed():
    ratios = make_ratios(2)
    problem = problem_of("likelihood", ratios, 0.7)
    start = du.solve(problem, ratios).multipliers
    rule, fresh = Gain(problem, ratios, 2.0), Gain(problem, ratios, 2.0)
    misses = np.array([0.3, 0.1]) * problem.levels
    for _ in range(2):
        rule.update(start, misses)
    fresh.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert fresh.state_dict() == rule.state_dict()
    for times in (-1, -2):
        np.testing.assert_array_equal(rule.update(start, times * misses), fresh.update(start, times * misses))
        assert rule.value == fresh.value
    fresh.load_state_dict({})  # nothing was saved


def test_rounds_keep_the_gain_of_each_with_their_state_and_tell_it():
    ratios = make_ratios(1)
    problem = problem_of("likelihood", ratios, 0.7)

    def fresh(rule):
        return Rounds(problem, rule, np.array([1.0]), lambda lam: lam, lambda _: None, [1, 2])

    rounds = fresh(Gain(problem, ratios, 2.0))
    rounds.trainer = Idle()
    rounds.measure = lambda _: (1.5 * problem.levels, 0.1 * problem.levels)
    rounds.train(rounds.trainer)
    outcome = rounds.outcome([])
    assert outcome.gains[0] == 2.0
    assert (np.diff(outcome.gains) > 0).all()
    assert outcome.gains[-1] == rounds.rule.value
    assert [each.gain for each in rounds_of(outcome)] == outcome.gains[:-1].tolist()
    again = fresh(Gain(problem, ratios, 2.0))
    again.load({}, json.loads(json.dumps(rounds.data())))
    assert again.outcome([]).gains.tolist() == outcome.gains.tolist()
    before = {name: value for name, value in rounds.data().items() if name != "gains"}  # as they were kept without
    again = fresh(Gain(problem, ratios, 2.0))
    again.load({}, json.loads(json.dumps(before)))
    assert [each.gain for each in rounds_of(again.outcome([]))] == [None, None]
    still = fresh(Asking(problem, ratios))  # a rule without one
    still.trainer, still.measure = Idle(), rounds.measure
    still.train(still.trainer)
    assert not still.outcome([]).gains.size
    assert [each.gain for each in rounds_of(still.outcome([]))] == [None, None]


class Idle:
    """A trainer that trains nothing."""

    done = 0

    def run(self, _end=None):
        self.done += 1

    def average_anew(self): ...

    def save(self): ...

    def averaged(self):
        return nullcontext()

    saved_if_interrupted = averaged


def test_whose_gain_a_fit_goes_by():
    ratios = make_ratios(1)
    problem = problem_of("likelihood", ratios, 0.7)

    class Rounds:
        def __init__(self, rule):
            self.rule = rule

    rule = Gain(problem, ratios, 2.0)
    gain = gain_of(Rounds(rule))
    rule.value = 3.0
    assert gain() == 3.0
    assert gain_of(None) is gain_of(Rounds(rule.asking)) is None  # it stays as it was given
