"""A survey of a random pipeline: random samples and a random classifier, so that every number is there and none means
much."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import duality as du
from diffusion.digits import paraphrases
from diffusion.methods import METHODS, Correction
from diffusion.methods.guided_tilt import guided_objective
from diffusion.methods.tilted import laws_of
from diffusion.pipelines import denoiser_of
from diffusion.ratios.classifier import RatioClassifier
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.tasks.concepts import ConceptLaw, TaskPrompts
from diffusion.tasks.config import FitConfig, RatiosConfig, Sampling
from diffusion.training.lora import ADAPTER, add_student
from diffusion.training.trainer import Trainer
from tests.diffusion import families

SMALL = FitConfig(max_train_steps=4, train_batch_size=6, rank=2, learning_rate=1e-2, seed=3)
LEVELS = {
    "forward": du.ForwardKL([1.2, 0.6]),
    "likelihood": du.Likelihood([0.05, 0.06]),
    "reverse": du.ReverseKL([0.9, 0.8]),
}


# What a fit measures of itself, on samples that are few enough for a test.
BRIEF = Correction(at=(0.4, 0.65), extra=0, rounds=2, samples=6, integrated=4, noise_levels=2)


def made(name):
    """The method of that name, brief where it measures."""
    method = METHODS[name]()
    return replace(method, correction=BRIEF) if hasattr(method, "correction") else method


def make_survey(dtype=torch.float32):
    """Two concepts; samples of q with log ratios that average to one, as exact ones would."""
    prompts = TaskPrompts(
        (ConceptLaw(paraphrases(7)[:2], 0.1), ConceptLaw(paraphrases(4)[:2], 0.15)),
        tuple(paraphrases(k)[:2] for k in (1, 3, 8)),
    )
    wanted, labels = prompts.labelled(6, 9)
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = RatioClassifier(16 * 16 + 4 * 64, [0.3, 0.3, 0.4], prompts.priors, members=1).eval()
    labelled = torch.randn(len(wanted), 4, 8, 8, generator=generator, dtype=dtype)
    anchor = torch.randn(24, 4, 8, 8, generator=generator, dtype=dtype)
    values = torch.randn(24, 2, generator=generator).clamp_max(1.5)
    values = values - values.exp().mean(0).log()
    return RatioEstimate(
        prompts,
        classifier,
        labelled,
        torch.tensor(labels),
        tuple(wanted),
        anchor,
        values,
        values[:5],
        (),
        "none",
        RatiosConfig(concept_samples=10, retained_samples=10, num_samples=10),
        Sampling(num_inference_steps=2),
    )


def make_denoiser(family="sd"):
    return denoiser_of(families.build(families.FAMILIES[family]))


@pytest.fixture
def denoiser():
    """A fresh one, far smaller than the digits pipeline: here it is only the arithmetic that matters."""
    return make_denoiser()


def adapters(denoiser):
    return {name: p.detach().clone() for name, p in denoiser.network.named_parameters() if ADAPTER in name}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def numeric_gradient(f, at, h=1e-6):
    """Central differences of a scalar function of a tensor."""
    result = torch.zeros_like(at)
    for index in np.ndindex(*at.shape):
        step = torch.zeros_like(at)
        step[index] = h
        result[index] = (f(at + step) - f(at - step)) / (2 * h)
    return result


class Stop(Exception):
    pass


def stop_after(steps):
    """A progress callback that fails after so many steps."""
    seen = []

    def progress(count):
        seen.append(count)
        if len(seen) == steps:
            raise Stop

    return progress


@dataclass(frozen=True)
class Material:
    """Samples of q with weights in (0, 1], samples of retained prompts, and log E[w | x_t] by log ratios."""

    anchor: torch.Tensor
    weights: torch.Tensor
    retained: torch.Tensor
    prompts: tuple[str, ...]
    log_weight: Callable[[torch.Tensor], torch.Tensor]


def tilted_objective(denoiser, prompts, classifier, material, settings):
    """The loss of a step of tilted denoising on given samples; the student must be on the network."""
    data = laws_of(
        denoiser, prompts, (material.anchor, material.retained, material.prompts), material.weights, settings
    )
    logs = torch.cat([material.weights.double().log(), torch.zeros(len(data.latents) - len(material.weights))])

    def noised(rho, laws):
        return torch.where(laws.to(rho.device) == 0, material.log_weight(rho), 0.0)

    return guided_objective(data, classifier, lambda: logs, noised, settings)


def fit_tilted(denoiser, prompts, classifier, material, settings, **more):
    """Adapters fitted by tilted denoising on given samples; returns the losses. ``more``: of the trainer."""
    parameters = add_student(denoiser, settings.rank, settings.seed)
    objective = tilted_objective(denoiser, prompts, classifier, material, settings)
    trainer = Trainer(denoiser.network, parameters, objective, settings, **more)
    trainer.run()
    return trainer.finish()
