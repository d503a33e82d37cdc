"""Each of the three verdicts says yes where all is right, and no, with its reason, where one thing is not."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

import duality as du
from diffusion.evaluation.measured import CLASSIFIER, Measurement
from diffusion.evaluation.planning import plan_for
from diffusion.methods import Outcome
from diffusion.reports.certificate import Certificate, certificate, so_far
from diffusion.reports.standards import Standards
from diffusion.reports.verdicts import UNASKED, least_cost, of_fitted_model, of_ratios, of_solution
from tests.diffusion.reports.conftest import GOOD, N, accuracy, cost, level, survey_of

STANDARDS = Standards()


def judged(right, plan, solved, measured, outcome=None):
    outcome = outcome or Outcome([], solved.multipliers[None])
    return certificate(right, plan, solved, measured, outcome, {"fit": {"rank": 8}, "evaluation": {"samples": N}})


def test_everything_right_is_certified(right, plan, solved, good):
    proof = judged(right, plan, solved, good)
    assert proof.objections == []
    assert proof.certified
    assert proof.lines()[0] == "certified: True (at 95 % confidence)"
    assert [verdict.passed for verdict in proof.verdicts.values()] == [True] * 3


# -- solution ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": du.Status.INEXACT}, "inexact"),
        ({"status": du.Status.INEXACT, "multipliers": np.zeros(1), "kkt_residual": 0.5}, "KKT residual is 5.0e-01"),
        ({"status": du.Status.NOT_ATTAINED}, "not attained"),
        ({"kkt_residual": 1e-3}, "KKT residual"),
        ({"kkt_residual": float("nan")}, "KKT residual is nan"),
        ({"dual": 0.0}, "duality gap"),
        ({"primal": float("nan")}, "not finite"),
        ({"multipliers": np.array([np.inf])}, "not finite"),
        ({"effective_sample_size": 99.0}, "rests on 99 effective samples"),
    ],
)
def test_a_solution_that_is_not_optimal_is_objected_to(solved, change, words):
    assert of_solution(solved, STANDARDS) == []
    assert any(words in reason for reason in of_solution(replace(solved, **change), STANDARDS))


# -- ratios -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"validation": (replace(GOOD, auc=0.9),)}, "AUC 0.900"),
        ({"validation": (replace(GOOD, auc=float("nan")),)}, "AUC nan"),
        ({"validation": (replace(GOOD, ece=0.2),)}, "calibration error"),
        ({"validation": ()}, "validated on none"),
    ],
)
def test_ratios_that_do_not_tell_the_truth_are_objected_to(right, change, words):
    assert of_ratios(right, STANDARDS) == []
    assert any(words in reason for reason in of_ratios(replace(right, **change), STANDARDS))


def test_ratios_that_do_not_cover_the_model_or_disagree_are_objected_to(right):
    uncovered = survey_of(np.where(np.arange(N) % 30 == 0, 0.999, 0.0005))
    assert any("do not cover" in reason for reason in of_ratios(uncovered, STANDARDS))
    assert any("agrees" in reason for reason in of_ratios(replace(right, elbo=-right.elbo), STANDARDS))


# -- fitted model -----------------------------------------------------------------------------------------------------


def spoiled(good, **change):
    return good.model_copy(update=change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": (level(166),)}, "level not shown: 'seven' under the anchor, by SVM: 0.083"),
        ({"levels": (level(13),)}, "at most 0.01031 at 95 % confidence; asked 0.01"),  # 12 would do
        ({"levels": (level(10, CLASSIFIER),)}, "by ratio_classifier"),
        ({"levels": (level(5), level(300, prompts="concept"))}, "under its own prompts"),
        ({"levels": (level(0, n=298),)}, "at most 0.01"),  # nothing seen, and too few looked at
        ({"levels": ()}, "before the fitted network was measured"),
        ({"costs": ()}, "before the fitted network was measured"),
        ({"costs": (cost(1.5),)}, "times the target's"),
        ({"costs": (cost(0.15), cost(1.5, "concept"))}, "under the concept's prompts the network costs"),
        ({"costs": (cost(float("nan")),)}, "costs nan"),
        ({"costs": (cost(0.014, spread=0.001),)}, "the cost estimate is in error"),
        ({"retained": (accuracy(710, 650),)}, "retained prompts (all)"),
        ({"retained": (accuracy(710, 710), accuracy(79, 50, 80, "one"))}, "retained prompts (one)"),
    ],
)
def test_a_network_that_is_not_what_was_asked_for_is_objected_to(right, plan, solved, good, change, words):
    measured = spoiled(good, **change)
    # Weak duality reads the classifier's level.
    least = least_cost(measured.level(), plan.asked, right.ratios) if measured.level() else 0.05
    found = of_fitted_model(measured, solved, least, [], STANDARDS)
    assert any(words in reason for reason in found), found


def test_twelve_hits_of_two_thousand_show_one_percent(plan, solved, good):
    assert of_fitted_model(spoiled(good, levels=(level(12),)), solved, None, [], STANDARDS) == []


def test_a_fit_that_was_not_measured_certifies_nothing(right, plan, solved):
    proof = so_far(right, plan, solved, Outcome([], solved.multipliers[None]), {"rank": 8})
    assert not proof.certified
    assert [verdict.passed for verdict in proof.verdicts.values()] == [True, True, False]
    assert Certificate.model_validate_json(proof.to_json()) == proof


def test_what_nobody_measured_is_never_certified_and_says_so(right, plan, solved):
    none = replace(plan, samples=0, solved=plan.asked, hits=(0,))
    measured = Measurement(levels=(), costs=())
    held = Outcome([], solved.multipliers[None], capped=np.array([True]))
    proof = judged(right, none, solved, measured, held)
    assert not proof.certified
    assert [verdict.passed for verdict in proof.verdicts.values()] == [True, True, False]
    assert proof.fitted_model.reasons[0] == UNASKED
    assert "ran away" in proof.fitted_model.reasons[1]  # what the fit itself has seen is said all the same
    assert (proof.fitted_model.cost_ratio, proof.fitted_model.least_cost) == (None, None)
    assert Certificate.model_validate_json(proof.to_json()) == proof


def test_multipliers_that_ran_away_are_objected_to(right, plan, solved, good):
    held = Outcome([], solved.multipliers[None], capped=np.array([True]))
    proof = judged(right, plan, solved, good, held)
    assert not proof.certified
    assert proof.fitted_model.multipliers_capped == ("seven",)
    assert "ran away" in proof.objections[0]


def test_weak_duality_bounds_the_cost_at_the_measured_level(right, plan, solved, good):
    """What a target costs is allowed at its own level, less than that at no level."""
    at = spoiled(good, levels=(level(20, CLASSIFIER),))
    least = least_cost(at.level(), plan.asked, right.ratios)
    weaker = 0.01 + 2 * at.levels[0].estimate.stderr  # the classifier's level and twice its standard error
    best = du.solve(du.Likelihood(weaker), right.ratios)
    assert least == pytest.approx(best.primal - 2 * best.primal_stderr)
    assert 0 < least < du.solve(du.Likelihood(0.01), right.ratios).primal
    # The level that q has costs nothing; one below what any density has bounds nothing.
    assert least_cost(spoiled(good, levels=(level(200, CLASSIFIER),)).level(), plan.asked, right.ratios) <= 0
    assert least_cost(spoiled(good, levels=(level(0, CLASSIFIER),)).level(), plan.asked, right.ratios) is None


@pytest.mark.parametrize("kind", [du.ReverseKL, du.ForwardKL])
def test_kl_levels_are_bounded_from_below(right, kind):
    from diffusion.evaluation.measured import level_found

    plan = plan_for(kind(2.0 if kind is du.ReverseKL else 3.0), right.ratios, 500)
    assert plan.solved.levels[0] > plan.asked.levels[0]
    asked = float(plan.asked.levels[0])
    values = asked + 0.5 + np.linspace(-1, 1, 500)
    shown = level_found(values, asked, "lower", "student_t", 0.95, concept="seven", prompts="anchor", by=CLASSIFIER)
    assert shown.met
    short = level_found(
        values - 0.49, asked, "lower", "student_t", 0.95, concept="seven", prompts="anchor", by=CLASSIFIER
    )
    assert not short.met  # the mean is above the level, its bound is not
    assert "a normal approximation" in str(short)
    measured = Measurement(levels=(shown,), costs=(cost(0.5),))
    least = least_cost(measured.level(), plan.asked, right.ratios)
    assert least is None or least < du.solve(plan.solved, right.ratios).dual + 1


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_certificate_is_read_back_as_it_was_written(right, plan, solved, good):
    proof = judged(right, plan, solved, good)
    text = proof.to_json()
    assert Certificate.model_validate_json(text) == proof
    data = json.loads(text)
    assert data["schema_version"] == 1
    assert data["fitted_model"]["measured"]["levels"][1]["estimate"] == {
        "mean": 0.003,
        "stderr": pytest.approx(0.0012, abs=1e-4),
        "n": N,
    }
    assert set(data) == {"schema_version", "certified", "question", "solution", "ratios", "fitted_model", "provenance"}
    assert set(Certificate.model_json_schema()["properties"]) == set(data)
    for wrong in ({"schema_version": 2}, {"surprise": 1}, {"certified": "perhaps"}):
        with pytest.raises(ValidationError):
            Certificate.model_validate_json(json.dumps(data | wrong))


def test_keys_are_plain_names(right, plan, solved, good):
    def keys(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key
                yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    data = json.loads(judged(right, plan, solved, good).to_json())
    data["provenance"].pop("versions")  # names of packages
    assert all(key.isidentifier() and key == key.lower() for key in keys(data))
