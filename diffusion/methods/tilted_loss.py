r"""Into a LoRA: fitting adapters so that the network itself samples the optimal target.

Let T be the frozen network (adapters off) under the anchor, f the student, y the denoising target of a sample x_0 ~ q,
w = exp(log w(rho(x_0)))/max w its weight and wbar(x_t) an estimate of E_q[w | x_t] (from the classifier at level t).
Tilted denoising minimises `E_q[w |y - f|^2]`, whose optimum is the exact score of the noised target. The same gradient,
with T and wbar as control variates, is that of ::

    E_q[ w |f - T|^2 - 2 (w - wbar) <f - T, y - T> ].

The mean of (w - wbar)(y - T) given x_t is wbar G, with G the guidance correction of the same solution: its expectation
under the closure, without the noise of a sample. ``blended`` takes (1 - beta) of the above and `beta |f - T - G|^2`,
which has the same optimum as far as the closure holds (for ReverseKL, a constant strength, to first order). beta = 0 is
tilted denoising, which is exact and slow: its gradient is mostly noise. beta = 1 is guidance distillation.

If T is q's own denoiser, E[y | x_t] = T, the optimum is that of tilted denoising, E[w y]/E[w], whatever wbar is: it
only decides how much noise the gradient has. If T is off but wbar is right, the optimum is E[w y]/E[w] + (T - E[y]):
the student keeps the base model's own error, which is what "change nothing else" asks for. Where a sample and its
neighbourhood do not show the concept, w = wbar and the noise of y drops out, which is most of the space.

Prompts that ask for the concept are fitted to the same tilted anchor; every other prompt is held to T under that
prompt, on samples of that prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from diffusion.guidance.guided import Guided, Strength
from diffusion.pipelines import Denoiser, rows
from diffusion.ratios.classifier import Bottleneck, RatioClassifier, log_snr, pooled
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.config import FitConfig
from diffusion.training.batches import Batches, with_kept
from diffusion.training.lora import base_model
from diffusion.training.trainer import Objective

LogWeight = Callable[[Tensor], Tensor]

# What an image shows is decided at high noise; the optimum at a level does not depend on how often it is visited.
NOISE_POWER = 0.5
BETA = 0.9


@dataclass(frozen=True)
class Material:
    """What a fit learns from: samples of q with their weights in (0, 1], and samples of the prompts to be kept."""

    anchor_latents: Tensor  # (n, ...) samples of the anchor's law
    weights: Tensor  # (n,)
    retained_latents: Tensor  # (r, ...)
    retained_prompts: tuple[str, ...]  # (r,)


def tilted_loss(f: Tensor, t: Tensor, y: Tensor, w: Tensor, wbar: Tensor) -> Tensor:
    """``mean[ w |f - T|^2 - 2 (w - wbar) <f - T, y - T> ]`` over states (n, ...), weights (n,)."""
    shape = (-1, *(1,) * (f.ndim - 1))
    moved = f - t
    return (w.view(shape) * moved.square() - 2 * (w - wbar).view(shape) * moved * (y - t)).mean()


def blended(loss: Tensor, f: Tensor, goal: Tensor, beta: float) -> Tensor:
    """``(1 - beta) loss + beta mean |f - goal|^2`` over states (n, ...); goal is T + G."""
    return (1 - beta) * loss + beta * (f - goal).square().mean()


@dataclass(frozen=True)
class Tilt:
    """What a solution says at the multipliers of the present step.

    ``log_weight``: ``log E_q[w | x_t]`` (n,) at log ratios (n, m), at most 0. ``strength``: the solution's guidance,
    for the share ``beta`` in [0, 1] of the correction that is taken from it; None, or for a pipeline without prompts,
    all of it is taken from the samples. ``weights``: those (n,) of the samples, where they move; those of the material
    decide how often samples are seen.
    """

    log_weight: LogWeight
    strength: Strength | None = None
    beta: float = BETA
    weights: Callable[[], Tensor] | None = None


def tilted_objective(
    denoiser: Denoiser,
    prompts: TaskPrompts,
    classifier: RatioClassifier,
    tilt: Tilt,
    material: Material,
    settings: FitConfig,
) -> Objective:
    """The loss of one step of tilted denoising; the adapters must be on the network."""
    # Importance sampling: w - wbar is large where w is unusual (the concept's samples), so those are looked at as often
    # as all others together, at a weight that leaves the loss's mean as it is.
    unusual = (material.weights - material.weights.mean()).abs().double() + 1e-12
    shares = 0.5 / len(unusual) + 0.5 * unusual / unusual.sum()
    importance = (1 / (len(unusual) * shares)).float()
    batches = Batches(
        denoiser,
        prompts,
        material.anchor_latents,
        material.retained_latents,
        material.retained_prompts,
        settings,
        shares=shares,
        power=NOISE_POWER,
    )

    guided = None
    if (
        tilt.strength is not None
        and tilt.beta > 0
        and denoiser.prompt_inputs
        and all(c.prompts for c in prompts.concepts)
    ):
        guided = Guided(denoiser, prompts, classifier, tilt.strength)

    def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        batch = batches(generator).part(part)
        n = batch.tilted
        with base_model(denoiser):
            goal: Tensor | None = None
            if guided is None:
                with Bottleneck(denoiser) as caught:
                    said = denoiser.predict(batch.x, batch.t, batch.anchored)
                    inner = cast(Tensor, caught.last)[:n]
                rho = classifier(pooled(inner, said[:n]), log_snr(denoiser, batch.t[:n]))
            else:
                with guided:
                    goal = denoiser.predict(batch.x[:n], batch.t[:n], rows(batch.anchored, slice(0, n)))
                guided.trace.steps.clear()  # one entry a call: of use when sampling, a leak when training
                anchored, rho = cast(Tensor, guided.plain).to(goal), cast(Tensor, guided.rho)
                said = anchored
                if len(batch.x) > n:
                    kept = denoiser.predict(batch.x[n:], batch.t[n:], rows(batch.anchored, slice(n, None)))
                    said = torch.cat([anchored, kept])
            wbar = tilt.log_weight(rho).exp().to(said)
        f = denoiser.predict(batch.x, batch.t, batch.asked)
        present = material.weights if tilt.weights is None else tilt.weights()
        w, often = (value[batch.chosen].to(f.device) for value in (present, importance))
        against = f[:n], said[:n], batch.y[:n], often * w, often * wbar
        loss = tilted_loss(*against)
        if goal is not None:
            loss = blended(loss, f[:n], goal, tilt.beta)
        return with_kept(loss, f, said, n)

    return objective
