"""Images are forgotten as asked where a lower bound on what they gained says so."""

from types import SimpleNamespace

import numpy as np
import pytest

from diffusion.evaluation.image_likelihood import ELBO_DROP
from diffusion.reports.images import objections


def judged(elbo_drop, levels=(10.0, 20.0), gap=0.0):
    estimate = SimpleNamespace(levels=np.array(levels))
    return objections(estimate, [SimpleNamespace(gap=gap)], {ELBO_DROP: elbo_drop})


def test_gains_beyond_the_levels_are_certified():
    assert judged([(12.0, 1.0), (22.0, 1.0)]) == []


@pytest.mark.parametrize("second", [(19.0, 1.0), (20.0, 1.0), (21.6, 1.0), (float("nan"), 1.0), (22.0, float("nan"))])
def test_an_estimate_that_does_not_contradict_a_level_does_not_show_it(second):
    (found,) = judged([(12.0, 1.0), second])
    assert found.startswith("image 2 gained")
    assert "20.0 were asked" in found


def test_a_gap_is_objected_to():
    (found,) = judged([(12.0, 1.0), (22.0, 1.0)], gap=1e-3)
    assert "duality gap" in found
