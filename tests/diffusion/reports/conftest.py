"""A survey on which everything is right, and what is measured of a network that is right too; tests spoil one thing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import duality as du
from diffusion.evaluation.bounds import bound, mean_estimate
from diffusion.evaluation.measured import CLASSIFIER, CostFound, Measurement, PromptAccuracy, level_found
from diffusion.evaluation.planning import plan_for
from diffusion.ratios.calibration import Calibration
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts
from tests.diffusion.methods.conftest import make_survey

N = 2000
GOOD = Calibration(auc=0.999, brier=0.001, ece=0.01, mean_posterior=0.1, frequency=0.1, bins=())


def survey_of(posteriors, prior=0.1):
    """One concept with these posteriors (n,) on samples of q."""
    values = torch.tensor(np.log(np.asarray(posteriors) / prior))[:, None]
    prompts = TaskPrompts((ConceptLaw(("seven", "a seven"), prior),), (("one",),))
    return replace(
        make_survey(),
        prompts=prompts,
        values=values,
        elbo=values[:200],
        anchor=torch.zeros(len(values), 4, 8, 8),
        validation=(GOOD,),
    )


@pytest.fixture(scope="session")
def right():
    """A tenth of q surely shows the concept, the rest surely does not."""
    return survey_of(np.where(np.arange(N) % 10 == 0, 0.999, 0.0005))


@pytest.fixture(scope="session")
def plan(right):
    return plan_for(du.Likelihood(0.01), right.ratios, N)


@pytest.fixture(scope="session")
def solved(right, plan):
    return du.solve(plan.solved, right.ratios)


def shares(hits, n=N):
    return np.where(np.arange(n) < hits, 1.0, 0.0)


def level(hits, by="SVM", prompts="anchor", asked=0.01, n=N):
    rule = "betting" if by == CLASSIFIER else "clopper_pearson"
    return level_found(shares(hits, n), asked, "upper", rule, 0.95, concept="seven", prompts=prompts, by=by)


def cost(mean, prompts="anchor", n=256, spread=0.1):
    values = mean + spread * np.linspace(-1, 1, n)
    return CostFound(prompts=prompts, estimate=mean_estimate(values), median=mean, steps=40, exact=False)


def accuracy(before, after, n=720, prompts="all"):
    return PromptAccuracy(
        prompts=prompts,
        by="SVM",
        before=mean_estimate(shares(before, n)),
        after=mean_estimate(shares(after, n)),
        bound=bound(shares(after, n), "lower", "clopper_pearson", 0.95),
    )


@pytest.fixture(scope="session")
def good():
    """Levels met by all, at 1.5 times the target's cost, prompt accuracy as before."""
    return Measurement(
        levels=(level(5, CLASSIFIER), level(6), level(5, CLASSIFIER, "concept"), level(7, prompts="concept")),
        costs=(cost(0.15), cost(0.16, "concept")),
        retained=(accuracy(710, 708), accuracy(79, 78, 80, "one")),
    )
