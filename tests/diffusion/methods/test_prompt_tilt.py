"""The weights that a fit uses are the solution's own, prompt by prompt, and their means at noised states are right."""

import numpy as np
import pytest
import torch

import duality as du
from diffusion.methods.detected import PromptTilt, drawn_for_all
from diffusion.methods.level_shift import Asking
from diffusion.ratios.detected import DetectedSamples
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.detector_levels import constraints_of, problem_of
from diffusion.tasks.prompts import Prompts

LAW = Prompts([{"prompt": "", "weight": 3}, {"prompt": "a nine", "group": "nines"}, "a seven"])
pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning")


def estimate_of(said, level="4%; 3% in nines", keep="80% in nines"):
    rows = torch.arange(3).repeat_interleave(len(said) // 3)
    constraints = constraints_of(["seven"], [level], [("nine", keep)], LAW)
    return DetectedSamples(
        LAW, ("seven", "nine"), rows, torch.zeros(len(said), 1), said, None, (None, None), "", RatiosConfig(),
        Sampling(), constraints,
    )  # fmt: skip


def exclusive(n=300):
    place = torch.arange(n) % (n // 3)
    seven = (place < torch.tensor([10, 5, 30])[torch.arange(n) // (n // 3)]).double()
    nine = (place >= 100 - torch.tensor([10, 70, 10])[torch.arange(n) // (n // 3)]).double()
    return torch.stack([seven, nine], 1)


def test_log_weights_are_those_of_the_solution_but_for_a_number_for_each_prompt():
    estimate = estimate_of(exclusive())
    ratios = estimate.ratios
    solution = du.solve(problem_of(estimate.constraints, ratios), ratios)
    assert (solution.multipliers[[0, 2]] > 0).all()
    own = solution.log_weight(solution.problem.inputs(ratios))
    weights = PromptTilt(estimate).log_weights(np.array(solution.multipliers)).numpy()
    assert weights.max() <= 0
    for c in range(3):
        mine = estimate.rows.numpy() == c
        apart = (weights - own)[mine]
        assert np.ptp(apart) < 1e-12
        # So the target under each prompt is what the solver certified.
        target = np.exp(solution.log_weights[mine])
        np.testing.assert_allclose(
            np.exp(weights[mine]) / np.exp(weights[mine]).sum(), target / target.sum(), rtol=1e-9
        )
    # What shows a nine counts for more than what shows nothing, where nines are kept, and what shows a seven for less.
    nines = estimate.rows.numpy() == 1
    said = estimate.detected.numpy()[nines]
    kept, rest, gone = (weights[nines][some][0] for some in (said[:, 1] > 0, said.sum(1) == 0, said[:, 0] > 0))
    assert kept == 0 > rest > gone


@pytest.mark.parametrize("apart", [True, False])
def test_the_mean_at_a_noised_state_is_that_of_its_images(apart):
    """Samples of one noised state: eta is their share, and log E[w] the log of the mean of their weights."""
    said = exclusive()
    if not apart:  # every pair of answers as often as independence has it
        pairs = torch.cartesian_prod(torch.tensor([1.0] + [0.0] * 9), torch.tensor([1.0] * 4 + [0.0] * 6)).double()
        said = pairs.repeat(3, 1)
    estimate = estimate_of(said)
    tilt = PromptTilt(estimate)
    assert tilt.exclusive is apart
    lam = np.array([1.3, 0.2, 0.4])
    weights = tilt.log_weights(lam).exp()
    for c in range(3):
        mine = estimate.rows == c
        eta = estimate.detected[mine].mean(0, keepdim=True)
        found = tilt.noised(lam, eta, torch.tensor([c]))
        assert float(found) == pytest.approx(float(weights[mine].mean().log()), rel=1e-12)


def test_heads_that_disagree_leave_no_weight_that_no_image_has():
    tilt = PromptTilt(estimate_of(exclusive()))
    lam = np.array([3.0, 0.0, 0.0])
    found = tilt.noised(lam, torch.tensor([[1.0, 0.9]]), torch.tensor([0]))
    assert float(found) == pytest.approx(-3.0, rel=1e-6)
    crowded = estimate_of(torch.stack([exclusive()[:, 0], exclusive()[:, 0] * 0], 1), keep="0.9x")
    both = PromptTilt(crowded).noised(np.array([3.0, 0.0, 0.0]), torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
    assert torch.isfinite(both).all()


def test_where_no_sample_of_a_prompt_shows_a_concept_nothing_is_changed_there():
    """Whatever the network that predicts eta says: E[w] of weights that are all one is one."""
    said = exclusive()
    said[:100, 0] = 0
    tilt, lam = PromptTilt(estimate_of(said)), np.array([3.0, 0.5, 0.0])
    eta, asked = torch.tensor([[0.4, 0.0]] * 3), torch.arange(3)
    found = tilt.noised(lam, eta, asked)
    assert float(found[0]) == 0
    assert (found[1:] < -0.1).all()
    # And never beyond the weights that samples of the prompt have.
    weights = tilt.log_weights(lam)
    for c in range(3):
        mine = weights[tilt.estimate.rows == c]
        for level in (0.0, 0.3, 1.0):
            at = float(tilt.noised(lam, torch.tensor([[level, 0.0]]), torch.tensor([c])))
            assert float(mine.min()) - 1e-6 <= at <= float(mine.max()) + 1e-6


def test_groups_of_which_the_law_gives_few_are_drawn_for_their_level():
    rare = Prompts([{"prompt": "", "weight": 999}, {"prompt": "a nine", "group": "nines"}])
    constraints = constraints_of(["seven"], ["4%"], [("nine", "80% in nines")], rare)
    base = estimate_of(exclusive())
    estimate = DetectedSamples(
        rare, base.names, base.rows * 0, base.latents, base.detected, None, (None, None), "", base.budget,
        base.sampling, constraints,
    )  # fmt: skip
    chosen = drawn_for_all(estimate, 200, 5)
    np.testing.assert_array_equal(chosen[:200], rare.drawn(200, 5))
    assert (chosen == 1).sum() >= 20
    assert len(drawn_for_all(base, 300, 5)) == 300  # a fifth of that law are nines


def test_what_is_kept_is_asked_for_more_of_where_the_network_has_lost_it():
    estimate = estimate_of(exclusive(), level="4%", keep="60% in nines")
    ratios = estimate.ratios
    problem = problem_of(estimate.constraints, ratios)
    rule = Asking(problem, ratios)
    start = du.solve(problem, ratios).multipliers
    assert start[1] == pytest.approx(0, abs=1e-9)  # nines are at 70 % already
    lost = np.array([0.04, 0.5])
    moved = rule.update(np.array(start), -problem.slack(lost))
    assert rule.asked[1] > 0.6
    assert moved[1] > 0
    again = Asking(problem, ratios)
    again.load_state_dict(rule.state_dict())
    np.testing.assert_array_equal(again.asked, rule.asked)
    # A network that has it is asked for nothing.
    fine = Asking(problem, ratios)
    assert fine.update(np.array(start), -problem.slack(np.array([0.04, 0.9])))[1] == pytest.approx(0, abs=1e-9)
