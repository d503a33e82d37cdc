r"""Forgetting images: one constraint and one multiplier each, ForwardKL by the alternating algorithm.

::

    min KL(q‖p)  s.t.  L_i(f) - L_i(T) ≥ level_i,    L_i = 1/2 E int |eps - eps_f(x_t^i)|^2 d log SNR    (nats)

    f    <- steps on  (1 - Pi) E_m[ w_a |f - T|^2 ]
                      + sum_i E_m[ w_i ( (pi_i - lam_i)_+ |f - T|^2 + 2 lam_i <f - T, y_i - T> ) ]
    lam  <- lam + gain · (pi_i/max(level_i, 1)) · (miss + damping · (miss - miss before)), kept in [0, reach · pi_i]

miss = level - estimate, at most the level either way, times what is left of the optimiser's rate; f the student's and
T the frozen base model's noise prediction, y_i the noise towards image i, q = sum_i pi_i q_i + (1 - Pi) r, states from
the defensive mixture m of a sample of the rest r and an image (:mod:`diffusion.methods.images.importance_mixture`), so
that one forward pass serves both terms. It is the Lagrangian KL(q‖p) - lam·KL(q_i‖p) in score form up to a constant,
with T for the noisy y where T is its mean. Image i is known to be a part pi_i of q: what that adds to retention and
what the constraint takes away meet at the same state, and every term is convex in f. (With copies met by chance among
the data, the sum is so in the mean only.)

Among all densities lam_i ≤ pi_i. A network that has to move its neighbours along pays more than that for a nat, and its
multipliers may rise further; what would be concave then, -(lam_i - pi_i)|f - T|^2, is replaced by its tangent at the
base model, zero: an upper bound of the Lagrangian, as in the convex-concave procedure. The start is the closed form
(:mod:`diffusion.tasks.image_set`). Estimates are made under common noise. A network answers to a multiplier some rounds
late, and plain ascent then swings around the levels: multipliers are moved by a proportional-integral controller
(cooper's nuPI), whose ``damping`` looks ahead along the last change. Multipliers live in the saved state.

Source: the paper's experiment on CelebA-HQ (arXiv:2605.30825); theory, "Forgetting images".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffusion.methods.base import ImageFitContext
from diffusion.methods.dual_steps import Scaled
from diffusion.methods.images.base import ImageFit, ImageRun
from diffusion.methods.images.importance_mixture import Mixed
from diffusion.ratios.noise_integral import span
from diffusion.runtime.distributed import WHOLE, Part


def image_terms(f: Tensor, said: Tensor, states: Mixed, share: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Retention and constraint, two scalars with a gradient in f (n, ...).

    ``share`` (n,): Pi, the part of the data of a row's prompt that is images; ``ratio`` (n,): lam_i/pi_i of its image.
    """
    shape = (-1, *(1,) * (f.ndim - 1))
    moved = f - said
    at_image = share * states.forgotten_weight
    everywhere = (1 - share) * states.kept_weight + at_image
    retention = everywhere.view(shape) * moved.square()
    curved, pushed = (at_image * ratio.clamp_max(1.0)).view(shape), (at_image * ratio).view(shape)
    constraint = curved * moved.square() - 2 * pushed * moved * (states.forgotten_target - said)
    return retention.mean(), -constraint.mean()


@dataclass(frozen=True)
class ForgetImages(ImageFit):
    """``reach``: how far above its share a multiplier may rise, at least 1. A ``gain`` of 1 lets a miss as large as the
    level itself move a multiplier through its whole range.
    """

    reach: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.reach >= 1:
            raise ValueError(f"reach must be at least 1, got {self.reach}")

    def run(self, context: ImageFitContext) -> Forgetting:
        return Forgetting(self, context)


class Forgetting(ImageRun):
    """One run: objective and dual rule."""

    method: ForgetImages

    def rule(self) -> Scaled:
        shares = self.images.shares
        scale = shares / np.maximum(self.problem.levels, 1.0)
        # A miss counts as the level itself at most.
        return Scaled(self.method.ascent(), scale, self.method.warmup, limit=shares, decays=self.decays)

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        return np.clip(multipliers, 0.0, self.method.reach * self.images.shares)

    def objective(self, _step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        step = self.step(generator, part)
        f, states = step.f, step.states
        toward = self.denoiser.epsilon(states.forgotten_target, states.x, step.t)
        ratio = torch.tensor(self.rounds.multipliers / self.images.shares)[step.pairs.image]
        retention, constraint = image_terms(
            f, step.said, replace(states, forgotten_target=toward), step.pairs.share.to(f), ratio.to(f)
        )
        _, low, high = span(self.denoiser)
        nats = 0.5 * (high - low) * f[0].numel()
        part.note(retention=nats * retention, constraint=nats * constraint)
        return retention + constraint
