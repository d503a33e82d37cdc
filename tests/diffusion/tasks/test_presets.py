"""Presets: what they ask for, what goes over them, and that their counts are what they promise on SD 1.5."""

import pytest

from diffusion.pipelines import denoiser_of
from diffusion.tasks.config import Config, EvaluationConfig, FitConfig
from diffusion.tasks.prompts import Prompts
from diffusion.tasks.sampling import at_law
from diffusion.tasks.task import Concept, ConceptTask
from diffusion.workflows.dry_run import stages, stages_detected
from tests.diffusion import families
from tests.diffusion.families import build
from tests.gpu.models import config_of, empty

TASK = ConceptTask(concepts=[Concept("a tench", detector=lambda images: images[:, 0, 0, 0] > 0)], levels="1%")
LAWS = {
    "its own": TASK.but(retained_prompts=["a goldfish", "a boat"]).law,
    "200 prompts": Prompts([*(f"a photo of a fish in place {k}" for k in range(199)), ""]),
}


@pytest.fixture(scope="module", autouse=True)
def _short():
    """Not here: what is promised is the whole chain's count."""


def sd15():
    """A small network under the scheduler and the call's defaults of SD 1.5: the count does not depend on width."""
    pipeline = build(families.sd)
    pipeline.scheduler = empty(*config_of("sd15")["components"]["scheduler"])
    return denoiser_of(pipeline)


def counted(law, config):
    """Network evaluations of the fit, everything that it needs included, and of all."""
    denoiser, sampling = at_law(sd15(), config.sampling)
    assert (sampling.scheduler, sampling.guidance_scale) == ("PNDMScheduler", 7.5)
    found = {each.name: each.evaluations for each in stages_detected(denoiser, law, TASK.constraints, config)}
    fit = ("samples of the prompts", "noised detector", "training", "corrections of the multipliers")
    return sum(found[name] for name in fit), sum(found.values())


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_a_look_takes_at_most_25000_evaluations_and_a_certificate_50000(law):
    fit, every = counted(law, Config.quick())
    assert fit <= every <= 25_000
    again, certified = counted(law, Config.frugal())
    assert again == fit
    assert certified <= 50_000
    defaults, _ = counted(law, Config())
    assert defaults > 10 * fit  # no count that is small whatever it counts
    longer, _ = counted(law, Config.quick(sampling={"num_inference_steps": 50}))
    assert longer > 25_000


def test_a_look_by_ratios_takes_at_most_25000():
    from diffusion.api import prompts_of

    task = ConceptTask(concepts=["a tench"], levels="1%", retained_prompts=["a goldfish", "a carp", "a boat"])
    denoiser, _ = at_law(sd15(), Config.quick(sampling={"guidance_scale": 1}).sampling)
    found = stages(denoiser, prompts_of(denoiser, task), task.asked, Config.quick())
    assert sum(each.evaluations for each in found) <= 25_000


def test_what_is_given_goes_over_a_preset_and_the_rest_of_it_stays():
    config = Config.quick(fit={"rank": 3, "max_train_steps": 9}, runtime={"seed": 5})
    assert (config.fit.rank, config.fit.max_train_steps, config.fit.train_batch_size) == (3, 9, 16)
    assert (config.fit.seed, config.ratios.seed, config.evaluation.samples) == (5, 5, 0)
    settings = Config.frugal(evaluation=EvaluationConfig(samples=300), fit=FitConfig(fixed_multipliers=False))
    assert (settings.evaluation.samples, settings.evaluation.sequential) == (300, True)
    assert (settings.fit.fixed_multipliers, settings.fit.max_train_steps) == (False, 120)
    with pytest.raises(ValueError, match="ranks is no field"):
        Config.quick(fit={"ranks": 3})
    with pytest.raises(ValueError, match="fits is no field"):
        Config.quick(fits={})
