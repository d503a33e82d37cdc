"""Images are forgotten as asked where a lower bound on what they gained says so, and all else holds too."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffusion.evaluation.bounds import Estimate
from diffusion.evaluation.image_likelihood import ImageMeasurement, copies
from diffusion.methods import Outcome
from diffusion.reports.image_certificate import ImageCertificate, certificate, of_solution
from diffusion.reports.standards import Standards
from diffusion.reports.verdicts import UNMEASURED
from diffusion.tasks.image_set import Images, exact
from diffusion.tasks.image_targets import ImageTargets

LEVELS = np.array([10.0, 20.0])
FAR, NEAR = np.full((50, 2), 2.0), np.full((50, 2), 0.1)
UNDER = np.ones((50, 2), bool)


def measured(drops, after=FAR):
    of_any, of_each = copies(NEAR, after, UNDER, 0.95)
    return ImageMeasurement(
        elbo_drop=tuple(Estimate(mean=mean, stderr=error, n=8) for mean, error in drops),
        cost=Estimate(mean=1.0, stderr=0.1, n=20),
        samples=50,
        num_inference_steps=25,
        copies=of_any,
        copies_of_each=of_each,
    )


def judged(drops, stderr=(0.0, 0.0), after=FAR):
    generator = torch.Generator().manual_seed(0)
    images, data = (torch.randn(n, 1, 4, 4, generator=generator) for n in (2, 9))
    targets = ImageTargets(Images(images, [0.1, 0.2], data), LEVELS, 1.0, np.array([np.nan, 0.25]), np.array(stderr))
    return certificate(
        SimpleNamespace(levels=None, quantile=0.9),
        targets,
        exact(targets.images, LEVELS),
        Outcome([], np.array([[0.1, 0.2]])),
        None if drops is None else measured(drops, after),
        fit={"full_weights": False},
        fingerprint="none",
    )


def test_gains_beyond_the_levels_are_certified():
    found = judged([(13.0, 1.0), (23.0, 1.0)])
    assert found.certified
    assert found.objections == []
    assert found.lines()[0] == "certified: True (at 95 % confidence)"
    assert found.question.levels_from == "held_out_quantile"


@pytest.mark.parametrize("second", [(19.0, 1.0), (20.0, 1.0), (21.8, 1.0), (float("nan"), 1.0), (22.0, float("nan"))])
def test_an_estimate_that_does_not_contradict_a_level_does_not_show_it(second):
    """t of 7 degrees of freedom at 95 % is 1.895: a normal quantile, 1.645, would let 21.8 ± 1 pass."""
    found = judged([(13.0, 1.0), second])
    assert not found.certified
    (reason,) = found.objections
    assert reason.startswith("fitted model: level not shown: image 2 gained")
    assert "asked 20" in reason
    assert [level.met for level in found.fitted_model.levels] == [True, False]


def test_a_share_that_is_not_known_is_objected_to():
    found = judged([(13.0, 1.0), (23.0, 1.0)], stderr=(0.0, 0.11))
    assert (found.solution.passed, found.shares.passed, found.fitted_model.passed) == (True, False, True)
    assert not found.certified
    assert "image 2: its share, counted among samples, is 0.2 ± 0.11" in found.objections[0]
    assert judged([(13.0, 1.0), (23.0, 1.0)], stderr=(0.0, 0.1)).certified


@pytest.mark.parametrize(
    ("gap", "slack", "message"), [(1e-3, 0.0, "duality gap"), (0.0, -1e-3, "missed by 1.0e-03"), (np.nan, 0.0, "gap")]
)
def test_an_answer_that_is_not_exact_is_objected_to(gap, slack, message):
    good = SimpleNamespace(gap=0.0, slack=np.zeros(1))
    assert of_solution([good, good], Standards()) == []
    (reason,) = of_solution([good, SimpleNamespace(gap=gap, slack=np.full(1, slack))], Standards())
    assert message in reason


def test_a_run_that_ended_early_certifies_nothing():
    found = judged(None)
    assert not found.certified
    assert found.objections == [f"fitted model: {UNMEASURED}"]
    assert found.fitted_model.measured is None


def test_copies_are_counted_under_the_images_own_prompt_and_bounded():
    under = UNDER.copy()
    under[::2, 0] = under[1::2, 1] = False  # two prompts, 25 samples each
    near = np.where(np.arange(50)[:, None] < 10, 0.2, 2.0) * np.ones((50, 2))
    of_any, (first, second) = copies(near, FAR, under, 0.95)
    assert (of_any.before.hits, of_any.before.n, first.before.hits, first.before.n) == (10, 50, 5, 25)
    assert first.nearest_before == 0.2
    assert second.after.hits == 0
    # No hit among n: Clopper and Pearson's bound is 1 - 0.05^(1/n).
    assert second.after.bound.value == pytest.approx(1 - 0.05 ** (1 / 25), rel=1e-9)
    assert of_any.after.bound.value == pytest.approx(1 - 0.05 ** (1 / 50), rel=1e-9)
    assert of_any.after.bound.side == "upper"


def test_what_is_written_is_what_is_read():
    found = judged([(13.0, 1.0), (float("nan"), 1.0)])
    text = found.to_json()
    assert ImageCertificate.model_validate_json(text).to_json() == text
    data = json.loads(text, parse_constant=pytest.fail)  # strict JSON: no NaN outside a string
    assert data["schema_version"] == 1
    assert data["fitted_model"]["measured"]["elbo_drop"][1]["mean"] == "NaN"
    assert data["shares"]["shares"][0]["data_as_near"] is None
