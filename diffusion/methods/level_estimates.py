r"""Levels of the constraints at a fitted network, each with its standard error; estimates from samples.

::

    Likelihood   E_p[l_i]                      l_i by the classifier at samples of the student
    ReverseKL    KL(p‖q_i) = KL(p‖q) - E_p[rho_i]      KL(p‖q) by scores, rho_i by the classifier, at samples of the
    student ForwardKL    KL(q_i‖p) = E_q[e^{rho_i} (rho_i + log q/p)]      log q/p by ELBOs under common noise, at
    samples of q

What it costs is measured along the network's own stochastic chain (:mod:`diffusion.methods.chain`). With p = q levels
are the very ones that the solver says q has, so solution and measurement share one scale. The classifier reads the base
model's
features: a ratio is a property of the image, not of the student.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.guidance.guided import Guided
from diffusion.methods.chain import Chain, chain_of, path_cost
from diffusion.methods.lagrangians import Lagrangian, lagrangian_of
from diffusion.methods.likelihood import Plain, divergence, loss
from diffusion.pipelines import Condition, Denoiser, rows
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.classifier_ratios import classifier_ratios
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.training.lora import base_model, merged_adapters

# Samples of q with e^rho below this are not evaluated: with log q/p a few nats, what they add to a level is less than a
# thousandth of a nat each, divided by their number.
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Measured:
    """``levels``, ``errors``: (m,), means and standard errors of ``values`` (n, m); ``samples``: (n, ...) of the
    student, or of q where none were made."""

    levels: np.ndarray
    errors: np.ndarray
    samples: Tensor
    values: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


@dataclass(frozen=True)
class Meter:
    """``count`` samples of the student a time, ``noise_levels`` for each integral over noise, twice as many for a
    chain.

    ``guided``: where the student is the base model under guidance, and not what was trained. ``asked``: prompts that
    the student is asked under, in turn, in the place of the anchor; the base model is asked under the anchor in any
    case. ``of_q``: samples of q (n, ...) with their log ratios (n, m) for ForwardKL, in the place of the estimate's.
    """

    denoiser: Denoiser
    estimate: RatioEstimate
    problem: du.Problem
    count: int = 256
    noise_levels: int = 20
    seed: int = 0
    guided: Guided | None = None
    asked: tuple[str, ...] = ()
    of_q: tuple[Tensor, Tensor] | None = None

    @property
    def lagrangian(self) -> Lagrangian:
        """What the problem's levels are means of."""
        return lagrangian_of(self.problem)

    def measure(self, round_: int) -> Measured:
        """Levels of the network as it stands. Fresh samples in each round; the noise of integrals is always the
        same."""
        if self.lagrangian.of_q:
            return self._forward()
        seed = (self.seed + 1) * 100_003 + round_
        steps = self.estimate.sampling.steps(self.denoiser)
        with self.guided or merged_adapters(self.denoiser):
            latents = sample_latents(self.denoiser.pipeline, self._wanted(self.count), seed=seed, steps=steps)
        with base_model(self.denoiser):
            rho = classifier_ratios(self.denoiser, self.estimate.classifier, latents, seed=seed + 50_000)
        return self.of(latents, rho)

    def of(self, latents: Tensor, rho: Tensor) -> Measured:
        """Levels by samples (n, ...) that the student has made from the anchor, and the classifier's log ratios (n, m)
        there.

        ReverseKL integrates over noise at the first ``count`` of them, ForwardKL has no use for any.
        """
        if self.lagrangian.of_q:
            return self._forward()
        rho = rho.double()
        if self.lagrangian.integrated:
            few = latents[: self.count]
            return _mean(self._moved(few)[:, None] - rho[: self.count], few)
        problem = cast(du.Likelihood, self.problem)  # the only one whose levels are read off ratios
        return _mean(torch.as_tensor(np.asarray(problem.likelihoods(rho.numpy()))), latents)

    def cost(self) -> tuple[Tensor, Chain]:
        """What the student costs, nats, by ``count`` runs (n,) of its chain, for ForwardKL of q's; and the chain."""
        chain = chain_of(self.denoiser, self.estimate.sampling.steps(self.denoiser), 2 * self.noise_levels)
        chain = replace(chain, forward=self.lagrangian.of_q)
        student, plain = self._sides
        values = path_cost(
            self.denoiser,
            self._wanted(self.count),
            chain,
            seed=self.seed + 1,
            based_on=self.estimate.prompts.anchor,
            student=lambda: student,
            plain=plain,
        )
        return values, chain

    def _wanted(self, count: int) -> list[str]:
        asked = self.asked or (self.estimate.prompts.anchor,)
        return [asked[j % len(asked)] for j in range(count)]

    def _conditions(self, count: int) -> tuple[Condition, Condition]:
        """What the student is asked (count rows), and the base model (one row)."""
        distinct = list(self.asked or (self.estimate.prompts.anchor,))
        places = torch.arange(count) % len(distinct)
        return rows(self.denoiser.condition(distinct), places), self.denoiser.condition([self.estimate.prompts.anchor])

    @property
    def _sides(self) -> tuple[Any, Plain]:
        """Contexts in which the network is the student, and, inside of it, the base model."""
        if self.guided is not None:
            return self.guided, self.guided.off
        return nullcontext(), partial(base_model, self.denoiser)

    def _moved(self, latents: Tensor) -> Tensor:
        student, plain = self._sides
        with student:  # a guided network takes a prompt that asks for a concept for the anchor
            condition, base = self._conditions(len(latents))
            options: dict[str, Any] = {"levels": self.noise_levels, "seed": self.seed, "plain": plain, "based_on": base}
            return divergence(self.denoiser, latents, condition, **options)

    def _forward(self) -> Measured:
        samples, rho = (self.estimate.anchor, self.estimate.values) if self.of_q is None else self.of_q
        rho = rho.double()
        mass = rho.exp()
        near = (mass > NEGLIGIBLE).any(1).nonzero()[:, 0]
        given_up = torch.zeros(len(samples), dtype=torch.float64)
        if len(near):
            student, plain = self._sides
            with student:
                condition, base = self._conditions(len(near))
                options: dict[str, Any] = {
                    "levels": self.noise_levels,
                    "seed": self.seed,
                    "plain": plain,
                    "based_on": base,
                }
                given_up[near] = loss(self.denoiser, samples[near], condition, **options)
        # 0 · (-inf) = 0 where a concept is absent altogether.
        return _mean(mass * (rho.clamp_min(-700.0) + given_up[:, None]), samples)


def _mean(values: Tensor, samples: Tensor) -> Measured:
    """One value has no standard error: nan."""
    errors = values.std(0) / len(values) ** 0.5 if len(values) > 1 else torch.full_like(values[0], torch.nan)
    return Measured(values.mean(0).numpy(), errors.numpy(), samples, values.numpy())
