r"""Levels of the constraints at a fitted network, each with its standard error; estimates from draws.

    Likelihood   E_p[l_i]                      l_i by the head at draws of the student
    ReverseKL    KL(p‖q_i) = KL(p‖q) - E_p[rho_i]      KL(p‖q) by scores, rho_i by the head, at draws of the student
    ForwardKL    KL(q_i‖p) = E_q[e^{rho_i} (rho_i + log q/p)]      log q/p by ELBOs under common noise, at draws of q

and what it costs: KL(p‖q) by scores at draws of the student, for ForwardKL KL(q‖p) by scores at draws of q. With p = q
levels are the very ones that the solver says q has, so solution and measurement share one scale. The head reads the
teacher's features: a ratio is a property of the picture, not of the student.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.guidance.guided import Guided
from diffusion.methods.likelihood import Plain, divergence, loss
from diffusion.pipelines import Denoiser, repeat
from diffusion.pipelines.sampling import draw
from diffusion.ratios.classifier_ratios import head_ratios
from diffusion.ratios.ratio_estimate import Survey
from diffusion.training.lora import folded, teacher

# Draws of q with e^rho below this are not evaluated: with log q/p a few nats, what they add to a level is less than a
# thousandth of a nat each, divided by their number.
NEGLIGIBLE = 1e-3


@dataclass(frozen=True)
class Measured:
    """``levels``, ``errors``: (m,); ``draws``: (n, ...) of the student, or of q where none were made."""

    levels: np.ndarray
    errors: np.ndarray
    draws: Tensor


@dataclass(frozen=True)
class Meter:
    """``count`` draws of the student a time, ``noise_levels`` for each integral over noise.

    ``guided``: where the student is the teacher under guidance, and not what was trained.
    """

    denoiser: Denoiser
    known: Survey
    problem: du.Problem
    count: int = 256
    noise_levels: int = 20
    seed: int = 0
    guided: Guided | None = None

    def measure(self, round_: int) -> Measured:
        """Levels of the network as it stands. Fresh draws in each round; the noise of integrals is always the same."""
        if isinstance(self.problem, du.ForwardKL):
            return self._forward()
        anchor = self.known.prompts.anchor
        seed = (self.seed + 1) * 100_003 + round_
        steps = self.known.budget.sampler_steps
        with self.guided or folded(self.denoiser):
            latents = draw(self.denoiser.pipeline, [anchor] * self.count, seed=seed, steps=steps)
        with teacher(self.denoiser):
            rho = head_ratios(self.denoiser, self.known.head, latents, seed=seed + 50_000)
        return self.of(latents, rho)

    def of(self, latents: Tensor, rho: Tensor) -> Measured:
        """Levels by draws (n, ...) that the student has made from the anchor, and the head's log ratios (n, m) there.

        ReverseKL integrates over noise at the first ``count`` of them, ForwardKL has no use for any.
        """
        if isinstance(self.problem, du.ForwardKL):
            return self._forward()
        rho = rho.double()
        if isinstance(self.problem, du.ReverseKL):
            few = latents[: self.count]
            return _mean(self._moved(few)[:, None] - rho[: self.count], few)
        assert isinstance(self.problem, du.Likelihood)  # the Lagrangian was made, so it is one of the three
        return _mean(torch.as_tensor(np.asarray(self.problem.likelihoods(rho.numpy()))), latents)

    def cost(self, latents: Tensor) -> tuple[float, float]:
        """What the student costs, nats, and its standard error: by ``count`` draws of its own, for ForwardKL by q's."""
        draws = self.known.anchor if isinstance(self.problem, du.ForwardKL) else latents
        moved = self._moved(draws[: self.count])
        return float(moved.mean()), float(moved.std() / len(moved) ** 0.5)

    @property
    def _sides(self) -> tuple[Any, Plain]:
        """Contexts in which the network is the student, and, inside of it, the teacher."""
        if self.guided is not None:
            return self.guided, self.guided.off
        return nullcontext(), partial(teacher, self.denoiser)

    def _moved(self, latents: Tensor) -> Tensor:
        condition = repeat(self.denoiser.condition([self.known.prompts.anchor]), len(latents))
        student, plain = self._sides
        with student:
            return divergence(self.denoiser, latents, condition, levels=self.noise_levels, seed=self.seed, plain=plain)

    def _forward(self) -> Measured:
        rho, draws = self.known.values.double(), self.known.anchor
        mass = rho.exp()
        near = (mass > NEGLIGIBLE).any(1).nonzero()[:, 0]
        given_up = torch.zeros(len(draws), dtype=torch.float64)
        condition = repeat(self.denoiser.condition([self.known.prompts.anchor]), len(near))
        if len(near):
            student, plain = self._sides
            with student:
                given_up[near] = loss(
                    self.denoiser, draws[near], condition, levels=self.noise_levels, seed=self.seed, plain=plain
                )
        # 0 · (-inf) = 0 where a concept is absent altogether.
        return _mean(mass * (rho.clamp_min(-700.0) + given_up[:, None]), draws)


def _mean(values: Tensor, draws: Tensor) -> Measured:
    return Measured(values.mean(0).numpy(), (values.std(0) / len(values) ** 0.5).numpy(), draws)
