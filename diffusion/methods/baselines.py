r"""NegGrad, SISS and EraseDiff, for comparison, from their formulas; none of them takes a level or solves for a weight.

::

    NegGrad     beta E_r |y - f|^2 - (1 - beta) E_f |y - f|^2
                Kurmanji et al., Towards Unbounded Machine Unlearning (NeurIPS 2023), there NegGrad+; beta = 0 is
                plain gradient ascent (Golatkar et al., CVPR 2020).
    SISS        E_m[ 1/(1-kappa) w_a |y_a - f|^2 - (1 + s) kappa/(1-kappa) w_u |y_u - f|^2 ],   kappa = k/n
                Alberti et al., Data Unlearning in Diffusion Models (ICLR 2025): states from the defensive mixture m of
                a sample a of all data and a sample u of the forget set
                (:mod:`diffusion.methods.images.importance_mixture`), s the superfactor.
    EraseDiff   grad E_r |y - f|^2 + lam grad L_f,    L_f = E_f |f - (output that means eps_f)|^2,  eps_f ~ U[0, 1]^d
                lam = max(0, eta - <grad E_r, grad L_f> / |grad L_f|^2)
                Wu et al., EraseDiff (arXiv:2401.05779): the first-order answer to "retain, among the minimisers of
                L_f". Their inner iterate enters L_f's gap as a constant, so it does not enter the gradient.

f the student's raw output (n, ...) at noised states, y its denoising target; E_r, E_f means over retain and forget set
under their own prompts. Adapters, budget, batches and seeds are those of the other methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from diffusion.methods.base import FitContext, ImageFitContext, ImageMethod, Method, Outcome, fit_adapters
from diffusion.methods.forget_retain_sets import Noised, SetBatches, Sets
from diffusion.methods.images.importance_mixture import Mixed, mixed
from diffusion.methods.images.unseen import elbo_drop
from diffusion.pipelines import Denoiser
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.tasks.config import FitConfig
from diffusion.training.batches import spread_levels
from diffusion.training.trainer import Objective


class Rule(Protocol):
    """A loss on a forget and a retain set."""

    def objective(
        self, denoiser: Denoiser, sets: Sets, settings: FitConfig, parameters: Sequence[nn.Parameter]
    ) -> Objective:
        """The loss of one step on the adapters ``parameters``, which must be on the network."""


def _error(denoiser: Denoiser, some: Noised) -> Tensor:
    return (denoiser.predict(some.x, some.t, some.condition) - some.y).square().mean()


@dataclass(frozen=True)
class NegGrad:
    """Gradient ascent on the forget set, held back by the retain set with weight ``beta``; unbounded below."""

    beta: float = 0.95

    def objective(
        self, denoiser: Denoiser, sets: Sets, settings: FitConfig, parameters: Sequence[nn.Parameter]
    ) -> Objective:
        batches = SetBatches(denoiser, sets, settings)

        def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
            forget, retain = (some.part(part) for some in batches(generator))
            return self.beta * _error(denoiser, retain) - (1 - self.beta) * _error(denoiser, forget)

        return objective


def siss_loss(f: Tensor, states: Mixed, share: float, superfactor: float) -> Tensor:
    """The loss above at states (n, ...); ``share`` is kappa."""
    shape = (-1, *(1,) * (f.ndim - 1))
    kept = states.kept_weight.view(shape) * (states.kept_target - f).square()
    forgotten = states.forgotten_weight.view(shape) * (states.forgotten_target - f).square()
    return (kept - (1 + superfactor) * share * forgotten).mean() / (1 - share)


@dataclass(frozen=True)
class SISS:
    """``superfactor``: s, how much more than its share the forget set is subtracted; ``mixture``: its part in m."""

    superfactor: float = 0.0
    mixture: float = 0.5

    def objective(
        self, denoiser: Denoiser, sets: Sets, settings: FitConfig, parameters: Sequence[nn.Parameter]
    ) -> Objective:
        batches = SetBatches(denoiser, sets, settings)

        def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
            kept, forgotten = sets.pairs(settings.train_batch_size, generator)
            t = spread_levels(denoiser, settings.train_batch_size, generator).to(batches.device)
            a, u = sets.retain[kept].to(batches.device), sets.forget[forgotten].to(batches.device)
            states = mixed(denoiser, a, u, t, torch.full((len(a),), self.mixture).to(a), generator)
            mine, states = part.rows(len(t)), states.part(part)
            f = denoiser.predict(states.x, t[mine], batches.retained_condition(kept[mine]))
            return siss_loss(f, states, sets.share, self.superfactor)

        return objective


@dataclass(frozen=True)
class EraseDiff:
    """Retention, and as much of the forget loss as makes it fall at ``eta`` times its steepest rate."""

    eta: float = 0.1

    def objective(
        self, denoiser: Denoiser, sets: Sets, settings: FitConfig, parameters: Sequence[nn.Parameter]
    ) -> Objective:
        batches = SetBatches(denoiser, sets, settings)

        def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
            if part.count > 1:
                raise ValueError(
                    "EraseDiff weighs its terms by gradients of the whole batch: one process, accumulate=1"
                )
            forget, retain = batches(generator)
            noise = torch.rand(forget.x.shape, generator=generator).to(forget.x)
            goal = forget.y + denoiser.slope(forget.t).to(noise) * (noise - forget.eps)
            erased = (denoiser.predict(forget.x, forget.t, forget.condition) - goal).square().mean()
            kept = _error(denoiser, retain)
            lam = self.multiplier(kept, erased, parameters)
            return kept + lam * erased

        return objective

    def multiplier(self, kept: Tensor, erased: Tensor, parameters: Sequence[nn.Parameter]) -> float:
        """``max(0, eta - <grad kept, grad erased> / |grad erased|^2)``, a number without gradient."""
        one = torch.autograd.grad(kept, parameters, retain_graph=True)
        two = torch.autograd.grad(erased, parameters, retain_graph=True)
        inner = sum(float((a * b).sum()) for a, b in zip(one, two, strict=True))
        square = sum(float(b.square().sum()) for b in two)
        return max(0.0, self.eta - inner / square) if square > 0 else self.eta


@dataclass(frozen=True)
class OnConcepts(Method):
    """A rule as a method for concepts: forget set and retain set are the estimate's samples. The solution plays no
    part."""

    rule: Rule

    def fit(self, context: FitContext) -> Outcome:
        sets = Sets.of_estimate(context.estimate)
        losses = fit_adapters(
            context, lambda parameters: self.rule.objective(context.denoiser, sets, context.config, parameters)
        )
        return Outcome(losses, context.solution.multipliers[None] * float("nan"))


@dataclass(frozen=True)
class OnImages(ImageMethod):
    """A rule as a method for images. ``levels`` play no part; those reached are measured once, at the end."""

    rule: Rule
    noise_levels: int = 20
    repeats: int = 4

    def fit(self, context: ImageFitContext) -> Outcome:
        denoiser, images, config = context.denoiser, context.images, context.config
        images.check(denoiser)
        sets = Sets.of_images(images)
        losses = fit_adapters(context, lambda parameters: self.rule.objective(denoiser, sets, config, parameters))
        found, errors = elbo_drop(denoiser, images, self.noise_levels, self.repeats, config.seed)
        return Outcome(losses, np.full((1, len(images.forget)), np.nan), found[None], errors[None])
