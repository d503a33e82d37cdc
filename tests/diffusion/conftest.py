"""A pipeline of the real classes with random weights: everything but the quality of what it makes."""

import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import duality as du
from diffusion.digits import paraphrases
from diffusion.digits.experiments import components
from diffusion.pipelines import StableDiffusion
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts
from tests.diffusion.methods.conftest import LEVELS, make_survey
from tests.diffusion.short import short_chains


@pytest.fixture(scope="module", autouse=True)
def _short():
    with short_chains():
        yield


def make_pipeline(seed: int = 0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = components.build_tokenizer()
        pipeline = components.assemble(
            components.build_vae(), components.build_text_encoder(tokenizer), tokenizer, components.build_unet()
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def shared_pipeline():
    return make_pipeline()


@pytest.fixture
def denoiser():
    """A fresh one for tests that add adapters."""
    return StableDiffusion(make_pipeline())


@pytest.fixture(scope="session")
def reader(shared_pipeline):
    """One for tests that leave the pipeline as it is."""
    return StableDiffusion(shared_pipeline)


@pytest.fixture(scope="session")
def prompts():
    return TaskPrompts((ConceptLaw(paraphrases(7)[:3], 0.1),), tuple(paraphrases(k)[:2] for k in (1, 3, 8)))


@pytest.fixture(scope="session")
def estimate():
    """A survey of a random pipeline, for what fits read of one."""
    return make_survey()


@pytest.fixture(scope="session")
def solutions(estimate):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        return {name: du.solve(problem, estimate.ratios) for name, problem in LEVELS.items()}


@pytest.fixture(scope="session")
def solution(solutions):
    return solutions["likelihood"]
