"""The verdicts on levels of detectors: yes where all is right, and no, with its reason, where one thing is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import duality as du
from diffusion.evaluation.measured import Measurement, level_found
from diffusion.evaluation.planning import plan_for
from diffusion.methods import Outcome
from diffusion.ratios.detected import DetectedSamples
from diffusion.reports.detector_certificate import detector_certificate, question_of
from diffusion.tasks.config import RatiosConfig, Sampling
from diffusion.tasks.detector_levels import constraints_of, problem_of
from diffusion.tasks.prompts import Prompts
from tests.diffusion.reports.conftest import accuracy, cost, level

LAW = Prompts(["one", {"prompt": "seven", "anchor": ""}, ""])
N = 3000


def estimate_of(share):
    """As many samples of every prompt, of which a share shows the concept."""
    rows = torch.arange(3).repeat_interleave(N // 3)
    shown = (torch.arange(N) % (N // 3)) < round(share * N / 3)
    return DetectedSamples(
        LAW, ("seven",), rows, torch.zeros(N, 1), shown.double()[:, None], None, (None,), "model", RatiosConfig(),
        Sampling(guidance_scale=3),
    )  # fmt: skip


RIGHT = estimate_of(0.1)
GOOD = Measurement(
    levels=(level(5, "digits:seven", "prompts"), level(6, "SVM", "prompts")),
    costs=(cost(0.15, "prompts"),),
    retained=(accuracy(712, 710), accuracy(79, 79, 80, "one")),
)


KEEPING = constraints_of(
    ["seven"],
    ["1%"],
    [("one", "90% in ones")],
    GROUPED := Prompts([{"prompt": "one", "group": "ones"}, {"prompt": "seven", "anchor": ""}, ""]),
)


def kept_level(hits, n=2000):
    """Of n samples of the group so many show what is kept."""
    values = (np.arange(n) < hits).astype(float)
    found = level_found(
        values, 0.9, "lower", "clopper_pearson", 0.95, concept="one", prompts="prompts", by="digits:one"
    )
    return found.model_copy(update={"group": "ones"})


def judged_with_keep(hits):
    ones = (RIGHT.rows == 0).double() * (RIGHT.detected[:, 0] == 0)
    estimate = replace(
        RIGHT, prompts=GROUPED, names=("seven", "one"), detected=torch.stack([RIGHT.detected[:, 0], ones], 1),
        validation=(None, None), constraints=KEEPING,
    )  # fmt: skip
    plan = plan_for(problem_of(KEEPING, estimate.ratios), estimate.ratios, 2000)
    solution = du.solve(plan.solved, estimate.ratios)
    measured = GOOD.model_copy(update={"levels": (level(5, "digits:seven", "prompts"), kept_level(hits))})
    outcome = Outcome([], solution.multipliers[None])
    question = question_of(estimate, plan, ("digits:seven", "digits:one"))
    return detector_certificate(estimate, question, solution, measured, outcome, {"fit": {"full_weights": False}})


def test_what_is_kept_is_a_level_of_its_own_which_is_met_or_not():
    proof = judged_with_keep(1900)
    assert proof.objections == []
    assert proof.certified
    question = proof.question
    assert (question.problem, question.concepts, question.kept) == ("Joint", ("seven",), ("one",))
    asked = question.levels[1]
    assert (asked.side, asked.group, asked.level, asked.detector) == ("lower", "ones", 0.9, "digits:one")
    assert 0.9 < asked.solved_level <= 0.91
    assert proof.detectors.levels_before[1].mean == pytest.approx(0.9)
    lost = judged_with_keep(1800)  # nine tenths as counted, which shows no nine tenths
    assert not lost.certified
    (reason,) = lost.fitted_model.reasons
    assert "level not shown: 'one' under the prompts of group 'ones', by digits:one: 0.9" in reason
    assert "at least 0.88" in reason


def judged(measured=GOOD, estimate=RIGHT, capped=(False,), **change):
    plan = plan_for(du.Likelihood(0.01, kind="detector"), RIGHT.ratios, 2000)
    solution = replace(du.solve(plan.solved, RIGHT.ratios), **change)
    outcome = replace(Outcome([], solution.multipliers[None]), capped=np.array(capped))
    question = question_of(estimate, plan, ("digits:seven",))
    return detector_certificate(estimate, question, solution, measured, outcome, {"fit": {"full_weights": False}})


def test_everything_right_is_certified():
    proof = judged()
    assert proof.objections == []
    assert proof.certified
    assert [verdict.passed for verdict in proof.verdicts.values()] == [True] * 3
    assert proof.detectors.levels_before[0].mean == pytest.approx(0.1)
    assert 0 < proof.fitted_model.least_cost < 0.15


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({"status": du.Status.INEXACT}, "solution", "inexact"),
        ({"kkt_residual": 1e-3}, "solution", "KKT residual"),
        ({"estimate": estimate_of(0.003)}, "detectors", "9 of 3000 samples show it"),
        (
            {"levels": (level(13, "digits:seven", "prompts"),)},
            "fitted model",
            "under the law of prompts, by digits:seven",
        ),
        ({"levels": (*GOOD.levels[:1], level(166, "SVM", "prompts"))}, "fitted model", "by SVM: 0.083"),
        ({"levels": ()}, "fitted model", "before the fitted network was measured"),
        ({"costs": (cost(1.5, "prompts"),)}, "fitted model", "under the law of prompts the network costs"),
        ({"costs": (cost(float("nan"), "prompts"),)}, "fitted model", "costs nan"),
        ({"costs": (cost(0.014, "prompts", spread=0.001),)}, "fitted model", "the cost estimate is in error"),
        ({"retained": (accuracy(710, 650),)}, "fitted model", "retained prompts (all)"),
        (
            {"capped": (True,)},
            "fitted model",
            "'seven': what was asked of the network for it ran away and",
        ),
    ],
)
def test_what_is_not_right_is_objected_to_by_its_own_verdict(change, verdict, words):
    measured = GOOD.model_copy(update={k: v for k, v in change.items() if k in ("levels", "costs", "retained")})
    rest = {k: v for k, v in change.items() if k not in ("levels", "costs", "retained")}
    proof = judged(measured, **rest)
    assert not proof.certified
    assert [name for name, each in proof.verdicts.items() if not each.passed] == [verdict]
    assert any(words in reason for reason in proof.verdicts[verdict].reasons), proof.objections
