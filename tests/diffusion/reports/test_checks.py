"""Each check says OK where all is right, and WARN with the reason where one thing is not."""

from dataclasses import replace

import numpy as np
import pytest

import duality as du
from diffusion.evaluation.bounds import Estimate
from diffusion.evaluation.ratio_table import RATIO_CLASSIFIER, Agreement, Comparison, Prior, calibration_found
from diffusion.ratios.level_table import level_table
from diffusion.reports.checks import checks_of_estimators, checks_of_levels, checks_of_ratios
from diffusion.reports.ratios import RatiosReport, ratios_report
from diffusion.reports.standards import Standards
from diffusion.tasks.levels import levels
from tests.diffusion.reports.conftest import GOOD, N, survey_of

STANDARDS = Standards()


def compared(auc=0.99, seen=GOOD):
    near = Estimate(mean=1.0, stderr=0.01, n=N)
    rows = [
        Agreement(concept="seven", estimator=name, coverage=near, mass=near, rank=0.9, auc=value)
        for name, value in ((RATIO_CLASSIFIER, 1.0), ("path, at its own samples", auc))
    ]
    found = calibration_found("seven", RATIO_CLASSIFIER, "SVM", N, seen)
    prior = Prior(concept="seven", mean=0.1, stderr=None)
    return Comparison(priors=(prior,), agreement=tuple(rows), calibration=(found,))


def test_everything_right_is_ok(right):
    report = ratios_report(right, compared(), level_table(right, levels(du.Likelihood, ["1%"])))
    assert report.passed
    assert {check.verdict for check in report.checks} == {"OK"}
    assert report.lines()[1] == "checks: 8 OK, 0 WARN"
    assert RatiosReport.model_validate_json(report.to_json()).to_json() == report.to_json()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"validation": (replace(GOOD, auc=0.9),)}, "told apart of 'seven': AUC 0.900 (at least 0.98 is needed)"),
        ({"validation": (replace(GOOD, ece=0.2),)}, "calibration error on held-out samples of 'seven': 0.200"),
        ({"validation": ()}, "held-out samples: the classifier was validated on none"),
        ({"elbo": "reversed"}, "ELBO difference agrees with the classifier of 'seven': AUC 0.0"),
    ],
)
def test_what_is_wrong_with_an_estimate_is_warned_of(right, change, words):
    change = {key: -right.elbo if value == "reversed" else value for key, value in change.items()}
    found = checks_of_ratios(replace(right, **change), STANDARDS)
    (warned,) = [str(check) for check in found if check.verdict == "WARN"]
    assert warned.startswith("WARN")
    assert words in warned


def test_prompts_that_do_not_cover_the_model_are_warned_of():
    found = checks_of_ratios(survey_of(np.where(np.arange(N) % 30 == 0, 0.999, 0.0005)), STANDARDS)
    (warned,) = [check for check in found if check.verdict == "WARN"]
    assert "mean posterior on samples of q over the prior" in str(warned)
    assert "do not cover what the model makes" in str(warned)


def test_what_cannot_be_asked_is_skipped_and_is_no_warning(right):
    found = checks_of_ratios(replace(right, elbo=right.elbo * float("nan")), STANDARDS)
    assert [check.verdict for check in found] == ["OK", "OK", "OK", "SKIPPED"]
    report = ratios_report(replace(right, elbo=right.elbo * float("nan")), compared(), level_table(right))
    assert report.passed
    assert report.lines()[1] == "checks: 5 OK, 0 WARN, 2 could not be asked"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"auc": 0.8}, "path, at its own samples, agrees with the classifier of 'seven': AUC 0.800"),
        ({"seen": replace(GOOD, auc=0.9)}, "classifier against SVM, on samples of q of 'seven': AUC 0.900"),
        ({"seen": replace(GOOD, ece=0.06)}, "calibration error 0.060"),
    ],
)
def test_other_estimators_and_detectors_are_checked(more, words):
    found = checks_of_estimators(compared(**more), STANDARDS)
    (warned,) = [str(check) for check in found if check.verdict == "WARN"]
    assert words in warned
    assert {check.verdict for check in checks_of_estimators(compared(auc=float("nan")), STANDARDS)} == {"OK", "SKIPPED"}


@pytest.mark.parametrize(
    ("problem", "level", "words"),
    [
        (du.Likelihood, "0.0004", "cannot be had on these samples"),  # the least posterior is 0.0005
        (du.ForwardKL, "40", "not attained"),
        (du.ReverseKL, "400", "effective sample size"),
    ],
)
@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
def test_levels_that_cannot_be_had_or_rest_on_few_samples_are_warned_of(problem, level, words):
    posteriors = np.where(np.arange(N) % 10 == 0, 0.999, 0.0005)
    posteriors[:20] = 1e-3 ** np.arange(1, 21)[::-1] if problem is du.ReverseKL else posteriors[:20]
    table = level_table(survey_of(posteriors), levels(problem, [level]))
    warned = [str(check) for check in checks_of_levels(table.data(), STANDARDS) if check.verdict == "WARN"]
    assert any(words in text for text in warned), [str(check) for check in checks_of_levels(table.data(), STANDARDS)]
