"""What is measured of a fitted network: fresh samples, under both kinds of prompts, by every detector there is."""

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import duality as du
from diffusion.digits.data import WORDS, concept_of
from diffusion.evaluation.fresh import fresh_seed, wanted_prompts
from diffusion.evaluation.measure import measure_lora
from diffusion.evaluation.measured import CLASSIFIER
from diffusion.evaluation.pairs import PAIR_PROMPTS, PAIRED, PAIRS
from diffusion.evaluation.planning import Plan
from diffusion.ratios.calibration import Calibration
from diffusion.tasks.config import EvaluationConfig
from diffusion.training.lora import add_student
from tests.diffusion.methods.conftest import LEVELS, make_denoiser, make_survey
from tests.diffusion.workflows.test_concepts import quiet

FEW = EvaluationConfig(samples=5, concept_samples=4, retained_samples=6, integrated=3)


class Sees:
    """An image classifier that sees the same digit in every image, by two classifiers."""

    classes = WORDS

    def __init__(self, label):
        self.label = label

    def __call__(self, images):
        return {name: np.full(len(images), self.label) for name in ("one", "other")}

    def view(self, images):
        return images[:, :1, ::8, ::8]

    def asked(self, prompt):
        return concept_of(prompt)


@cache
def measured(name):
    evaluation, image_classifier = FEW, Sees(4)
    denoiser, estimate = make_denoiser(), make_survey()
    good = Calibration(0.99, 0.0, 0.0, 0.1, 0.1, ())
    estimate = replace(estimate, validation=(good, good))
    add_student(denoiser, 1, 0)
    problem = LEVELS[name].bind(estimate.ratios)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        solution = du.solve(problem, estimate.ratios)
    plan = Plan(problem, problem, evaluation.samples, 0.95, 0.9, (0, 0))
    return estimate, measure_lora(denoiser, estimate, plan, solution, evaluation, image_classifier, quiet)


def test_shares_by_the_classifier_and_by_detectors_under_both_kinds_of_prompts():
    estimate, (_, found) = measured("likelihood")
    seven, four = (concept.name for concept in estimate.prompts.concepts)
    seen = {(level.concept, level.prompts, level.by): level for level in found.levels}
    assert len(seen) == len(found.levels) == 2 * 2 * 3
    for (concept, prompts, by), level in seen.items():
        assert level.estimate.n == (
            5 if prompts == "anchor" else 4
        )  # of a concept's own prompts, its own samples alone
        assert level.bound.side == "upper"
        if by == CLASSIFIER:
            assert level.bound.rule == "betting"
        else:
            assert level.estimate.mean == (1.0 if concept == four else 0.0)
            assert level.hits == (level.estimate.n if concept == four else 0)
            assert level.bound.rule == "clopper_pearson"
    assert {concept for concept, _, _ in seen} == {seven, four}
    assert [cost.prompts for cost in found.costs] == ["anchor", "concept"]
    assert found.cost().estimate.mean == 0.0  # fresh adapters change nothing
    assert found.cost("concept").estimate.mean > 0  # under its own prompts the base model is asked for the anchor
    assert {kept.prompts for kept in found.retained} == {"all", "one", "three", "eight"}
    assert all(kept.after.mean == 0 for kept in found.retained)  # it sees fours only
    assert found.moved is None  # nothing is left that shows no four
    assert found.target_shares == {"one": pytest.approx(1.0), "other": pytest.approx(1.0)}


def test_samples_are_fresh():
    estimate, (samples, _) = measured("reverse")
    seeds = [sample.noise for name, sample in samples.items() if name.startswith("LoRA, ") and name != PAIRED]
    assert len(set(seeds)) == len(seeds) == 4
    assert estimate.budget.anchor_seed not in seeds
    assert samples[PAIRED].noise == samples["before, anchor"].noise == estimate.budget.anchor_seed
    before, after = (samples[name] for name in PAIRS)  # by prompt and noise; fresh adapters change nothing
    assert before.prompts == after.prompts
    assert before.noise == after.noise
    assert torch.equal(before.latents, after.latents)
    asked = [text for concept in estimate.prompts.concepts for text in concept.prompts][:PAIR_PROMPTS]
    assert set(asked) < set(before.prompts) <= {*asked, *estimate.retained[1]}
    other = FEW.but(seed=1)
    assert fresh_seed(other, estimate, 0) != fresh_seed(FEW, estimate, 0) != fresh_seed(FEW, estimate, 1)


@pytest.mark.parametrize("name", ["reverse", pytest.param("forward", marks=pytest.mark.slow)])
def test_divergences_have_lower_bounds_that_are_called_approximate(name):
    _, (_, found) = measured(name)
    assert {level.by for level in found.levels} == {CLASSIFIER}  # no detector counts nats
    assert {level.prompts for level in found.levels} == {"anchor", "concept"}
    for level in found.levels:
        assert (level.bound.side, level.bound.rule) == ("lower", "student_t")
        assert level.bound.value < level.estimate.mean
    # ForwardKL is a mean over q: over fresh samples of it, and not those that were solved on.
    assert {level.estimate.n for level in found.levels} == ({5} if name == "forward" else {3})


def test_the_evaluation_says_what_it_asks_for():
    estimate = make_survey()
    wanted = wanted_prompts(FEW, estimate)
    assert [len(wanted[name]) for name in ("anchor", "concept", "retained")] == [5, 8, 6]
    assert [estimate.prompts.asks_for(text) for text in wanted["concept"]] == [0] * 4 + [1] * 4
    assert len(set(wanted["concept"])) == 4  # all paraphrases in turn
    assert FEW.fewest == 4
    assert FEW.but(concept_samples=None).fewest == 5
