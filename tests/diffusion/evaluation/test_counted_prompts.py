"""Samples counted as they come: how many it takes, what bounds hold, and what is not shown."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import duality as du
from diffusion.evaluation.bounds import bound
from diffusion.evaluation.counted_prompts import count_prompts, expected
from diffusion.evaluation.planning import Plan, check_shares, most_hits, plan_for
from diffusion.ratios.detected import grouped
from diffusion.tasks.detector_levels import columns, constraints_of, problem_of
from diffusion.tasks.prompts import Prompts

LAW = Prompts([{"prompt": "", "weight": 8}, {"prompt": "a nine", "group": "nines", "weight": 2}])


class Model:
    """What detectors say of fresh samples: shares of sevens and of nines under either prompt."""

    def __init__(self, sevens, nines, seed=0):
        self.shares, self.chance, self.made = np.array([sevens, nines]), np.random.default_rng(seed), 0

    def __call__(self, rows, _seed):
        self.made += len(rows)
        said = self.chance.random((len(rows), 2)) < self.shares.T[rows]
        return torch.zeros(len(rows), 1), said.astype(float)


def plan_of(constraints, samples=2000, sequential=True):
    levels = np.array([each.level.value for each in constraints])
    gone = sum(each.side == "upper" for each in constraints)
    problem = du.Likelihood(levels[:gone], kind="detector")
    asked = problem if gone == len(levels) else du.Joint([problem, du.Keep(levels[gone:])])
    return Plan(asked, asked, samples, 0.95, 0.9, sequential=sequential)


def counted(model, level="1%", *keep, samples=2000, sequential=True, batch=100):
    constraints = constraints_of(["seven"], [level], [("nine", each) for each in keep], LAW)
    plan = plan_of(constraints, samples, sequential)
    return constraints, count_prompts(model, LAW, constraints, plan, 3, batch)


def test_a_level_far_from_reach_is_shown_or_missed_with_few_samples():
    model = Model([0, 0], [1, 1])
    (level,), found = counted(model)
    # (1 - m)^-n times the weight .3 of the greatest stake alone is 20 at m = 1 % after 418 samples, with the others'
    # gains a little before: four looks.
    assert len(found[None]) == model.made == 400
    assert found[None].bounds[level].value <= 0.01
    assert found[None].bounds[level].rule == "anytime"
    (level,), found = counted(Model([1, 1], [1, 1]))
    assert len(found[None]) == 100  # surely missed at the first look
    assert found[None].bounds[level].value == 1


def test_what_is_near_the_level_is_not_shown_by_the_most_samples():
    (level,), found = counted(Model([0.01, 0.01], [1, 1]))
    assert len(found[None]) == 2000
    assert found[None].bounds[level].value > 0.01


def test_no_more_than_one_in_twenty_passes_at_the_level_itself_however_often_one_looks():
    """Share just over the 10 % that is asked, looked at six times in 600 samples, 100 times over."""
    runs, level, share = 100, 0.1, 0.1001
    passed = naive = 0
    for seed in range(runs):
        (constraint,), found = counted(Model([share, share], [0, 0], seed), "10%", samples=600)
        passed += found[None].bounds[constraint].value <= level
        looks = np.cumsum(np.random.default_rng([seed, 1]).random(600) < share)[99::100]
        sizes = np.arange(100, 601, 100)
        exact = du.confidence.clopper_pearson
        naive += any(exact(int(k), int(n)) <= level for k, n in zip(looks, sizes, strict=True))
    # Promised: at most 5 %; more than 13 of 100 would be a chance of 5e-4.
    assert passed <= stats.binom.isf(5e-4, runs, 0.05)
    assert naive > passed  # the exact bound of one look is none of many


def test_what_is_kept_is_counted_in_its_own_prompts_from_below():
    model = Model([0, 0], [0.1, 0.99])
    (gone, kept), found = counted(model, "1%", "90% in nines")
    assert found[None].bounds[gone].value <= 0.01
    assert found["nines"].bounds[kept].value >= 0.9
    assert found["nines"].bounds[kept].side == "lower"
    assert (found["nines"].rows == 1).all()
    # Those of the law that are of the group serve it as well.
    inside = int((found[None].rows == 1).sum())
    assert model.made == len(found[None]) + len(found["nines"]) - inside
    (_, kept), found = counted(Model([0, 0], [0.1, 0.5]), "1%", "90% in nines")
    assert found["nines"].bounds[kept].value < 0.9
    assert len(found["nines"]) < 300


def test_looked_at_once_all_are_made():
    model = Model([0, 0], [0, 1])
    constraints, found = counted(model, "1%", "90% in nines", samples=400, sequential=False)
    # Two of ten samples of the law ask for a nine: six standard deviations of their number.
    assert abs(model.made - expected(LAW, constraints, 400, (400, 400))) <= 6 * (400 * 0.2 * 0.8) ** 0.5
    assert expected(LAW, constraints[:1], 400, (400,)) == 400
    assert [len(some) for some in found.values()] == [400, 400]
    assert not found[None].bounds
    assert 400 < model.made < 800


def test_a_group_has_as_many_samples_as_the_plan_says_and_none_where_the_law_has_brought_them():
    model = Model([0, 0], [0, 1])
    constraints = constraints_of(["seven"], ["1%"], [("nine", "90% in nines")], LAW)
    for count in (200, 30):
        plan = replace(plan_of(constraints, 400, sequential=False), counts=(400, count))
        made = model.made
        found = count_prompts(model, LAW, constraints, plan, 7, 100)
        inside = int((found[None].rows == 1).sum())
        assert len(found[None]) == 400
        assert len(found["nines"]) == max(count, inside)
        assert model.made - made == 400 + max(0, count - inside)
        assert abs(model.made - made - expected(LAW, constraints, 400, (400, count))) <= 6 * (400 * 0.2 * 0.8) ** 0.5
    assert plan.of(0.25).each == (100, 7)


def test_the_bound_at_all_times_is_wider_than_one_look_s_and_is_planned_for():
    values = (np.arange(1000) < 3).astype(float)
    anytime, once = (bound(values, "upper", rule, 0.95).value for rule in ("anytime", "clopper_pearson"))
    assert anytime > once
    lower = bound(1 - values, "lower", "anytime", 0.95).value
    assert lower == pytest.approx(1 - anytime, abs=1e-12)
    assert most_hits(0.01, 2000, 0.95, sequential=True) < most_hits(0.01, 2000, 0.95)
    check_shares([0.01], 400, 0.95, sequential=True)
    with pytest.raises(ValueError, match=r"300 cannot show a level of 0.01 .* at least 39. are needed"):
        check_shares([0.01], 300, 0.95, sequential=True)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning")
@pytest.mark.parametrize("sequential", [False, True])
def test_the_plan_leaves_room_for_both_kinds_and_asks_for_no_more_than_there_is(sequential):
    rows = torch.arange(2).repeat_interleave(1000)
    place = torch.arange(2000) % 1000
    said = torch.stack([place < 100, place >= torch.where(rows == 1, 30, 700)], 1).double()
    constraints = constraints_of(["seven"], ["2%"], [("nine", "95% in nines"), ("again", "96.9% in nines")], LAW)
    said = torch.cat([said, said[:, 1:]], 1)
    ratios = grouped(LAW, rows, columns(LAW, constraints, rows, said))
    plan = plan_for(problem_of(constraints, ratios), ratios, 1500, sequential=sequential)
    gone, kept, near = plan.solved.levels
    assert gone < 0.02
    assert 0.95 < kept < 0.97 + 1e-12
    assert near == pytest.approx(0.97)  # what q has, and not what 1,500 samples would call for
    assert plan.kept.tolist() == [False, True, True]
    assert any("show at least 95 %" in line and "misses" in line for line in plan.lines())
    aimed = plan_for(problem_of(constraints, ratios), ratios, 1500, sequential=sequential, aim=0.9)
    assert aimed.solved.levels == pytest.approx([0.9 * 0.02, kept, near])  # a part of what is to be gone alone
    # Fewer samples of what is kept: fewer misses and a nearer aim of that alone.
    fewer = plan_for(problem_of(constraints, ratios), ratios, 1500, sequential=sequential, counts=(1500, 400, 1500))
    assert (fewer.hits[0], fewer.hits[2]) == (plan.hits[0], plan.hits[2])
    assert fewer.hits[1] < plan.hits[1]
    assert fewer.solved.levels[1] >= kept
    assert sum(line.startswith("400 evaluation") for line in fewer.lines()) == 1
    with pytest.raises(ValueError, match=r"20 cannot show a level of 0\.05"):
        plan_for(problem_of(constraints, ratios), ratios, 1500, sequential=sequential, counts=(1500, 20, 1500))
