"""Levels of detectors on all prompts and on groups, and of what is kept: said, solved, and held against plain sums."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import duality as du
from diffusion.ratios.detected import FEW, grouped, normalisers
from diffusion.tasks.detector_levels import (
    clauses,
    columns,
    constraints_of,
    estimates,
    named_conflict,
    problem_of,
    shares,
    strengths,
)
from diffusion.tasks.kept import Kept
from diffusion.tasks.prompts import Prompts
from diffusion.tasks.task import Concept, ConceptTask

LAW = Prompts(
    [
        {"prompt": "", "weight": 5},
        {"prompt": "a street", "weight": 2, "group": "street"},
        {"prompt": "a road", "weight": 1, "group": "street"},
        {"prompt": "a nine", "weight": 2, "group": "nines"},
        {"prompt": "never", "weight": 0, "group": "nines"},
    ]
)
# Of a hundred samples of each prompt so many show a seven, and so many others a nine.
SEVENS, NINES = (10, 30, 20, 6), (10, 20, 30, 80)
ROWS = torch.arange(4).repeat_interleave(100)
PLACE = torch.arange(400) % 100
SAID = torch.stack(
    [
        (torch.tensor(SEVENS)[ROWS] > PLACE).double(),
        (100 - torch.tensor(NINES)[ROWS] <= PLACE).double(),
    ],
    dim=1,
)
pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.SmallGroupsWarning")


def asked(level, *keep, prompts=LAW):
    return constraints_of(["seven"], [level], [("nine", each) for each in keep], prompts)


def solved(constraints, prompts=LAW, rows=ROWS, said=SAID):
    ratios = grouped(prompts, rows, columns(prompts, constraints, rows, said))
    return du.solve(problem_of(constraints, ratios), ratios), ratios


def test_what_is_said():
    found = [(level.value, level.relative, group) for level, group in clauses("1%; 0.5x in a street in town ; .2 in b")]
    assert found == [(0.01, False, None), (0.5, True, "a street in town"), (0.2, False, "b")]
    constraints = asked("1%; 5% in street", "95% in nines")
    assert [(c.concept, c.column, c.side, c.group) for c in constraints] == [
        ("seven", 0, "upper", None),
        ("seven", 0, "upper", "street"),
        ("nine", 1, "lower", "nines"),
    ]
    assert str(constraints[2]) == "'nine' in 'nines' at least 0.95"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: asked("1% in town"), "no prompt that is asked is of the group 'town'; groups are 'street', 'nines'"),
        (lambda: asked("1%; 2%"), "says two levels of the same prompts"),
        (lambda: asked("1% on street"), "got '1% on street'"),
        (lambda: asked("1%", "110%"), "strictly between 0 and 100"),
        (lambda: asked("1%", "90%", "80%"), "must have different names"),
        (lambda: asked("1% in a", prompts=Prompts(["one"])), "none: the prompts name no groups"),
        (lambda: Kept("digits:nine"), "must be DETECTOR=LEVEL"),
        (lambda: Kept("=95%"), "must be DETECTOR=LEVEL"),
        (lambda: solved(asked("1%", "5x")), "of the present 0.28 is 1.4, which is no probability"),
    ],
)
def test_what_cannot_be_meant(call, words):
    with pytest.raises(ValueError, match=words.replace("(", "\\(")):
        call()


def test_a_task_holds_them_and_comes_back_from_its_file(tmp_path):
    task = ConceptTask(
        concepts=[Concept("seven", detector="digits:seven")],
        levels="1%; 5% in street",
        keep=["digits:nine=95% in nines", {"concept": "one", "detector": "digits:one", "level": "0.9x"}],
        prompts=LAW,
    )
    assert [each.concept for each in task.constraints] == ["seven", "seven", "nine", "one"]
    assert task.detectors == {"seven": "digits:seven", "nine": "digits:nine", "one": "digits:one"}
    (tmp_path / "task.yaml").write_text(task.to_yaml(), encoding="utf-8")
    assert ConceptTask.from_yaml(tmp_path / "task.yaml") == task
    with pytest.raises(ValueError, match="keep: levels of what is retained are of detectors"):
        ConceptTask(concepts=["seven"], levels="1%", keep=["digits:nine=95%"])
    with pytest.raises(ValueError, match="is of the group 'nowhere'"):
        task.but(levels="5% in nowhere")
    with pytest.raises(ValueError, match="was given in memory"):
        Kept(task.but(keep=[{"detector": lambda images: images, "level": "9%"}]).plain()["keep"][0])


def test_the_target_has_every_level_by_the_sums_of_its_own_prompts():
    constraints = asked("4%; 10% in street", "32%; 0.85 in nines")
    solution, _ = solved(constraints)
    masses, rows = np.exp(solution.log_weights), ROWS.numpy()
    p = np.array([masses[rows == c].sum() for c in range(4)])
    np.testing.assert_allclose(p, LAW.probabilities[:4], rtol=1e-9)  # no prompt is asked less often for it
    mean = np.array([[masses[rows == c] @ SAID[rows == c, k].numpy() / p[c] for k in (0, 1)] for c in range(4)])
    had = [p @ mean[:, 0], (2 * mean[1, 0] + mean[2, 0]) / 3, p @ mean[:, 1], mean[3, 1]]
    np.testing.assert_allclose(solution.levels, had, rtol=1e-9)
    assert solution.gap < 1e-8
    slack = np.array([0.04 - had[0], 0.1 - had[1], had[2] - 0.32, had[3] - 0.85])
    assert (slack > -1e-9).all()
    assert (np.abs(slack * solution.multipliers) < 1e-8).all()
    assert (solution.multipliers > 0).sum() >= 2


def test_levels_on_groups_and_what_is_kept_cost_what_they_cost():
    """Each further constraint can only cost; without room for it the solver says so, by name."""
    costs = [solved(asked(*words))[0].primal for words in (("4%",), ("4%; 4% in street",), ("4%; 4% in street", "45%"))]
    assert costs[0] < costs[1] < costs[2]
    loose = solved(asked("4%; 99% in street", "1%"))[0]
    assert loose.primal == pytest.approx(costs[0], abs=1e-9)
    assert loose.multipliers[1:].max() < 1e-8


def test_levels_that_cannot_be_had_together_are_named():
    no_seven = SAID.clone()
    no_seven[:, 1] = 1 - SAID[:, 0]  # what is kept is whatever shows no seven in the street, and a seven elsewhere
    no_seven[ROWS == 3, 1] = SAID[ROWS == 3, 0]
    constraints = asked("1% in nines", "90% in nines")
    with pytest.raises(du.InfeasibleError) as caught:
        solved(constraints, said=no_seven)
    told = str(named_conflict(caught.value, constraints))
    assert "1 is 'seven' in 'nines' at most 0.01; 2 is 'nine' in 'nines' at least 0.9" in told


@given(st.lists(st.floats(0, 30), min_size=4, max_size=4))
def test_the_strengths_are_the_problem_s_own_log_weight(multipliers):
    constraints = asked("4%; 10% in street", "32%; 0.85 in nines")
    said = columns(LAW, constraints, ROWS, SAID)
    problem, lam = problem_of(constraints, grouped(LAW, ROWS, said)), np.array(multipliers)
    own = np.asarray(problem.log_weight(said.numpy(), lam))
    by_detector = -(strengths(shares(LAW, constraints), constraints, lam)[ROWS] * SAID).sum(1).numpy()
    # Four products and their sum, in either order: each is known to eps of the greatest term, lam alpha <= 30 / .2.
    np.testing.assert_allclose(by_detector, own, atol=8 * np.finfo(float).eps * 4 * 150)


def test_levels_of_samples_are_those_of_their_prompts():
    constraints = asked("4%; 10% in street", "0.85 in nines")
    rows = np.array([0, 1, 0, 3, 3])
    said = np.array([[1, 0], [1, 0], [0, 0], [0, 1], [0, 0.0]])
    levels, errors = estimates(LAW, constraints, rows, said, 3)
    np.testing.assert_allclose(levels, [2 / 3, 1, 0.5])  # the whole law: the first three alone
    assert errors[1] == np.inf
    assert errors[2] == pytest.approx(0.5)
    assert np.isnan(estimates(LAW, constraints, rows[:1], said[:1], 1)[0][1:]).all()


def test_few_samples_of_a_prompt_share_the_normaliser_of_its_group():
    rows = torch.tensor([0] * 3 + [1] * (FEW - 1) + [2] * (FEW - 1) + [3] * FEW)
    assert normalisers(LAW, rows).tolist() == [0, 1, 1, 2, -1]
    more = torch.cat([rows, torch.tensor([1])])
    assert normalisers(LAW, more).tolist() == [0, 1, 2, 3, -1]
    ratios = grouped(LAW, rows, torch.zeros(len(rows), 1))
    np.testing.assert_allclose(ratios.group_weights, [0.5, 0.3, 0.2])
