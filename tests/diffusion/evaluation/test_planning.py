"""What is solved for, so that samples of the fit can show what was asked; and the bounds that they show it by."""

import warnings

import numpy as np
import pytest
from scipy import stats

import duality as du
from diffusion.evaluation.bounds import bound, mean_estimate, meets
from diffusion.evaluation.planning import check_aim, check_measured, check_samples, check_shares, most_hits, plan_for
from diffusion.tasks.levels import levels

N = 2000


@pytest.fixture(scope="module")
def ratios():
    """A tenth of q shows the concept surely, the rest with probabilities from 1e-4 to 1e-2."""
    share = np.where(np.arange(N) % 10 == 0, 0.999, np.geomspace(1e-4, 1e-2, N))
    return du.LogRatios(np.log(share / 0.1)[:, None], priors=[0.1])


def test_the_plan_is_passed_with_the_probability_that_it_promises(ratios):
    """A network exactly at the level that is solved for shows the level asked for in nine runs of ten."""
    found = plan_for(du.Likelihood(0.02), ratios, N)
    hits, aim = found.hits[0], float(found.solved.levels[0])
    assert stats.binom.cdf(hits, N, aim) == pytest.approx(0.9)
    ones = np.zeros(N)
    ones[:hits] = 1
    assert meets(bound(ones, "upper", "betting", 0.95), 0.02)
    assert meets(bound(ones, "upper", "clopper_pearson", 0.95), 0.02)
    ones[hits] = 1
    assert not meets(bound(ones, "upper", "betting", 0.95), 0.02)
    # A network at the level itself passes no more often than one time in twenty.
    assert stats.binom.cdf(hits, N, 0.02) <= 0.05
    assert f"at most {hits} hits: the solver is asked for {100 * aim:.3g} %" in found.lines()[0]


def test_a_part_of_the_level_is_asked_for_where_one_is_said(ratios):
    """Instead of what the samples call for, whether that is more or less; what the samples have to show stays."""
    planned, aimed, itself = (plan_for(du.Likelihood(0.02), ratios, N, aim=aim) for aim in (None, 0.1, 1.0))
    assert aimed.solved.levels == pytest.approx([0.1 * 0.02])
    assert itself.solved.levels == pytest.approx([0.02])
    assert itself.solved.levels[0] > planned.solved.levels[0] > aimed.solved.levels[0]
    assert aimed.hits == itself.hits == planned.hits
    assert aimed.lines()[0].endswith("the solver is asked for 0.2 %")
    several = plan_for(du.Likelihood([0.02, 0.04]), du.LogRatios(np.repeat(ratios.values, 2, 1), priors=[0.1] * 2), N,
                       aim=0.5)  # fmt: skip
    assert several.solved.levels == pytest.approx([0.01, 0.02])


def test_an_aim_of_nats_is_refused(ratios):
    for problem in (du.ReverseKL(4.0), levels(du.ForwardKL, "3 nats")):
        with pytest.raises(ValueError, match=r"aim: a part of a share is meant, 0\.5 was given, and the levels are in"):
            check_aim(problem, 0.5)
        check_aim(problem, None)
    check_aim(levels(du.Likelihood, "0.1x"), 0.5)
    with pytest.raises(ValueError, match="aim: a part of a share is meant"):
        plan_for(du.ReverseKL(4.0), ratios, N, aim=0.5)


def test_more_samples_buy_a_looser_margin(ratios):
    aims = [float(plan_for(du.Likelihood(0.02), ratios, n).solved.levels[0]) for n in (500, 2000, 20_000)]
    assert aims == sorted(aims)
    assert aims[-1] < 0.02


def test_an_aim_that_cannot_be_had_is_taken_as_far_as_it_goes():
    flat = du.LogRatios(np.log(np.linspace(0.004, 0.2, 500) / 0.1)[:, None], priors=[0.1])
    found = plan_for(du.Likelihood(0.02), flat, 150)  # would have to solve for less than the least posterior
    assert found.short
    assert 0.004 < found.solved.levels[0] < 0.02
    assert "less than the samples call for" in found.lines()[-1]
    with pytest.raises(du.InfeasibleError):
        du.solve(plan_for(du.Likelihood(0.003), flat, 10_000).solved, flat)


@pytest.mark.parametrize("problem", [du.ReverseKL(4.0), du.ForwardKL(3.0)])
def test_divergences_are_aimed_beyond_by_their_own_spread(ratios, problem):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        few, many = (plan_for(problem, ratios, n) for n in (100, 10_000))
    beyond = [float(plan.solved.levels[0] - problem.levels[0]) for plan in (few, many)]
    assert beyond[0] == pytest.approx(10 * beyond[1])
    assert beyond[1] > 0
    assert not few.hits
    assert "nats" in few.lines()[0]


def test_too_few_samples_are_refused_for_levels_that_are_numbers():
    check_samples(du.Likelihood(0.01), 299, 0.95)
    check_samples(levels(du.Likelihood, "0.1x"), 4, 0.95)  # a multiple is known later
    check_samples(du.ReverseKL(4.0), 4, 0.95)
    for problem in (du.Likelihood([0.5, 0.01]), levels(du.Likelihood, ["50%", "1%"])):
        with pytest.raises(ValueError, match="at least 299 are needed"):
            check_samples(problem, 298, 0.95)


@pytest.mark.parametrize("problem", [du.Likelihood(0.02), du.ReverseKL(4.0)])
def test_no_samples_ask_for_the_level_itself_and_need_no_room(ratios, problem):
    found = plan_for(problem, ratios, 0)
    assert found.solved.levels.tolist() == found.asked.levels.tolist() == problem.levels.tolist()
    assert (found.samples, found.short) == (0, False)
    assert set(found.hits) <= {0}
    assert found.lines() == [
        "0 evaluation samples: nothing is measured, and the solver is asked for the levels themselves"
    ]
    assert found.solved.levels[0] != plan_for(problem, ratios, 500).solved.levels[0]
    check_samples(problem, 0, 0.95)
    check_shares([1e-6], 0, 0.95, sequential=True)
    check_measured(1, "this")
    with pytest.raises(ValueError, match="this is there to measure, and 0 were given; at least 1 is needed"):
        check_measured(0, "this")


def test_most_hits_is_at_most_what_an_exact_count_allows():
    from duality.confidence import plan

    for level, n in ((0.01, 2000), (0.01, 298), (0.2, 50), (0.5, 5)):
        assert -1 <= most_hits(level, n, 0.95) <= plan(level, n)
        assert (most_hits(level, n, 0.95) < 0) == (plan(level, n) < 0)


@pytest.mark.parametrize("rule", ["clopper_pearson", "betting", "student_t"])
def test_bounds_hold_as_often_as_they_say(rule):
    """One-sided at 90 %: over 400 repetitions at most 10 % may miss, up to the noise of 400 (three standard errors)."""
    rng = np.random.default_rng(0)
    missed = {"upper": 0, "lower": 0}
    for _ in range(400):
        values = (rng.random(200) < 0.1).astype(float) if rule != "student_t" else rng.normal(0.1, 1, 30)
        for side in missed:
            found = bound(values, side, rule, 0.9)
            assert found.rule == rule
            missed[side] += found.value < 0.1 if side == "upper" else found.value > 0.1
    assert max(missed.values()) <= 400 * 0.1 + 3 * (400 * 0.1 * 0.9) ** 0.5


def test_bounds_refuse_what_their_rule_is_not_for():
    with pytest.raises(ValueError, match="zeros and ones"):
        bound(np.array([0.5]), "upper", "clopper_pearson", 0.95)
    with pytest.raises(ValueError, match="finite"):
        bound(np.array([np.nan]), "upper", "betting", 0.95)
    assert bound(np.array([3.0]), "lower", "student_t", 0.95).value == -np.inf  # one sample bounds nothing
    assert mean_estimate(np.array([0.0, 1.0])).stderr == pytest.approx(0.5)
