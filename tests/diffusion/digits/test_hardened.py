"""The bound on a ratio of shares, what is said of it, and what is counted."""

import numpy as np
import pytest
from scipy import stats

from diffusion.digits.experiments.hardened import hits_of, lines, quotient, ratio_bounds, verdict
from duality.confidence import clopper_pearson, clopper_pearson_lower


def test_bounds_on_a_ratio_are_those_of_its_parts():
    low, high = ratio_bounds((40, 200), (8, 200))
    assert high == pytest.approx(clopper_pearson(8, 200, 0.975) / clopper_pearson_lower(40, 200, 0.975))
    assert low == pytest.approx(clopper_pearson_lower(8, 200, 0.975) / clopper_pearson(40, 200, 0.975))
    assert low < 8 / 40 < high
    assert ratio_bounds((0, 200), (3, 200))[1] == float("inf")
    assert quotient(0, 0) == float("inf")


@pytest.mark.parametrize(("before", "after"), [(0.2, 0.05), (0.5, 0.5), (0.9, 0.01)])
def test_bounds_on_a_ratio_hold_as_often_as_they_say(before, after):
    """Exactly, over all pairs of counts of 12 samples each."""
    n, missed = 12, np.zeros(2)
    for k in range(n + 1):
        for j in range(n + 1):
            low, high = ratio_bounds((k, n), (j, n))
            chance = stats.binom.pmf(k, n, before) * stats.binom.pmf(j, n, after)
            missed += chance * np.array([low > after / before, high < after / before])
    assert (missed <= 0.05).all()


def test_a_third_is_shown_refuted_or_neither():
    assert verdict((150, 200), (10, 200), 1 / 3) == "shown"
    assert verdict((30, 200), (28, 200), 1 / 3) == "refuted"
    assert verdict((9, 60), (3, 60), 1 / 3) == "neither shown nor refuted"  # a third, by a count that is too small


def test_an_image_that_one_classifier_alone_calls_the_concept_is_not_counted_for_both():
    said = {
        "SVM": np.array([1.0, 1.0, 0.0]),
        "CNN": np.array([1.0, 0.0, 0.0]),
        "ratio_classifier": np.array([0.4, 0.6, 0.0]),
    }
    assert hits_of(said) == {"SVM": 2, "CNN": 1, "ratio_classifier": 1, "both": 1}


def test_lines_compare_the_last_with_the_first():
    text = lines({"a": {"SVM": 30}, "b": {"SVM": 28}, "c": {"SVM": 1}}, 200, 1 / 3)
    assert text[0] == "a: SVM 30 of 200, at most 19.8 %"
    assert text[-1].startswith("ratio by SVM: 0.03, ")
    assert text[-1].endswith("at most 0.33: shown")
