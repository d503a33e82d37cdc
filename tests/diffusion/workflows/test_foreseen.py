"""A whole run whose fit follows the slope of a detector at predicted images."""

import numpy as np
import pytest
import torch

import diffusion
from diffusion import Concept, ConceptTask, Sampling
from diffusion.pipelines import denoiser_of
from diffusion.ratios.detected import held_out
from diffusion.tasks.config import FitConfig
from diffusion.tasks.detectors import DifferentiableDetector
from diffusion.workflows.dry_run import stages_detected
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.workflows.test_detected import PROMPTS, config, threshold

FIT = FitConfig(method="guidance", max_train_steps=2, train_batch_size=6, rank=1, fixed_multipliers=True)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize("foresee", [True, False])
def test_a_detector_is_asked_for_its_slope_where_that_is_wanted(foresee, tmp_path):
    pipeline, asked = build(families.sd), []

    def log_odds(images):
        asked.append(images.requires_grad)
        return 20 * images.mean((1, 2, 3))

    detector = DifferentiableDetector(threshold(pipeline), log_odds)
    task = ConceptTask(concepts=[Concept("seven", detector=detector)], levels="0.5x", prompts=PROMPTS)
    settings = config(fit=FIT.but(foresee=foresee), runtime={"cache_folder": tmp_path})
    result = diffusion.unlearn(pipeline, task, settings)
    assert np.isfinite(result.losses).all()
    # In both steps with a gradient, and before them, to know how far it is right, without.
    assert sum(asked) == (2 if foresee else 0)
    assert bool(asked) is foresee
    plain = ConceptTask(concepts=[Concept("seven", detector=detector.ask)], levels="0.5x", prompts=PROMPTS)
    other = diffusion.unlearn(build(families.sd), plain, settings.but(fit=FIT))
    if foresee:
        assert other.losses != result.losses
    else:
        assert other.losses == result.losses
    assert torch.is_grad_enabled()


def test_the_plan_counts_what_it_asks_of_the_network():
    pipeline = build(families.sd)
    detector = DifferentiableDetector(threshold(pipeline), lambda images: images.mean((1, 2, 3)))
    task = ConceptTask(concepts=[Concept("seven", detector=detector)], levels="0.5x", prompts=PROMPTS)
    settings = config(fit=FIT)
    with_, without = (
        {
            each.name: each.evaluations
            for each in stages_detected(
                denoiser_of(pipeline), task.law, task.constraints, settings.but(fit=FIT.but(foresee=foresee))
            )
        }
        for foresee in (True, False)
    )
    held = int(held_out(settings.ratios.num_samples).sum())
    assert held
    assert with_.pop("training") - without.pop("training") == held * settings.ratios.noisings
    assert with_ == without


def test_ratios_have_no_detectors():
    task = ConceptTask(concepts=["seven"], levels="20%", retained_prompts=["one"])
    with pytest.raises(ValueError, match="foresee: ratios have no detectors"):
        diffusion.unlearn(
            build(families.sd), task, config(sampling=Sampling(num_inference_steps=2), fit=FIT.but(foresee=True))
        )
