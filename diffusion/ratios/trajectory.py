r"""The free log ratio: along one stochastic reverse trajectory of q, both chains' transition densities are at hand.

Between noise levels t > u of ``x_t = a_t x_0 + s_t eps`` the reverse step of the chain with denoiser x0hat is Gaussian,

::

    x_u ~ N( A x_t + B x0hat(x_t), s^2 ),    A = alpha s_u^2/s_t^2,    B = a_u v/s_t^2,    s^2 = v s_u^2/s_t^2,
    alpha = a_t/a_u,    v = s_t^2 - alpha^2 s_u^2        (for variance-preserving tables: DDPM, or DDIM with eta = 1),

the same A, B, s for q and q_i. With z the noise of q's step and d = (mean_i - mean_q)/s, the log ratio of the paths is

::

    rho_i  ~  sum over steps of  z . d - |d|^2/2        nats,

an exact likelihood ratio of the two chains, so E_q[e^rho] = 1 whatever the networks are. Given x_0 it scatters around
the ratio of the densities, with a negative bias; both go down like 1/steps (theory: "Free log ratio"). It needs no call
that classifier-free guidance does not make, but samples of its own: those of a sampler without noise carry none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diffusion.pipelines import Condition, Denoiser, repeat, rows
from diffusion.pipelines.base import device_of, generators, noise_of, predicted_x0
from diffusion.pipelines.batch_size import evaluation_limit
from diffusion.ratios.noise_integral import span
from diffusion.runtime.memory import in_batches
from diffusion.runtime.precision import doubled
from diffusion.tasks.concepts import TaskPrompts

BATCH = 128


@dataclass(frozen=True)
class Paths:
    """Where trajectories ended, and what they said: ``latents`` (n, ...), ``values`` (n, m) log ratios in nats."""

    latents: Tensor
    values: Tensor


@dataclass(frozen=True)
class Step:
    """A, B and s of one reverse step, as above."""

    state: float
    clean: float
    spread: float


def step_between(denoiser: Denoiser, t: int, u: int) -> Step:
    """The step from level t to the level u < t of less noise."""
    (a_t, s_t), (a_u, s_u) = ((float(x) for x in denoiser.schedule(torch.tensor([level]))) for level in (t, u))
    alpha = a_t / a_u
    v = s_t**2 - alpha**2 * s_u**2
    return Step(alpha * s_u**2 / s_t**2, a_u * v / s_t**2, (v * s_u**2) ** 0.5 / s_t)


def path_levels(denoiser: Denoiser, steps: int) -> list[int]:
    """``steps + 1`` levels, from most noise to least, even in log SNR over the span of the ELBO's integral.

    Raises ``ValueError`` for less than one step, or more than there are levels to stand on.
    """
    every, low, high = span(denoiser)  # above, x0hat is a small difference of large numbers
    wanted = torch.linspace(low, high, max(steps, 1) + 1)
    found = torch.unique((every[None] - wanted[:, None]).abs().argmin(1)).flip(0).tolist()
    if steps < 1 or len(found) != steps + 1:
        raise ValueError(
            f"steps must lie between 1 and what the schedule's {denoiser.levels} levels allow, got {steps}"
        )
    return [int(level) for level in found]


def path_ratios(
    denoiser: Denoiser,
    prompts: TaskPrompts,
    count: int,
    *,
    steps: int = 40,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> Paths:
    """``count`` trajectories of the anchor's law, with the log ratio of every concept's first paraphrase along each.

    Raises ``ValueError`` where a concept has no prompt, or for a number of steps that cannot be.
    """
    if not denoiser.prompt_inputs or not all(concept.prompts for concept in prompts.concepts):
        raise ValueError("path ratios need a prompt for every concept")
    conditions = denoiser.condition([prompts.anchor, *(concept.name for concept in prompts.concepts)])
    levels, m = path_levels(denoiser, steps), len(prompts.concepts)
    plan = [(t, step_between(denoiser, t, u)) for t, u in pairwise(levels)]
    chances, device, limit = generators(seed, count), device_of(denoiser), evaluation_limit(denoiser, BATCH)

    def along(start: int, stop: int) -> tuple[Tensor, Tensor]:
        mine = [torch.Generator().set_state(chance.get_state()) for chance in chances[start:stop]]  # it may run again
        x, rho = noise_of(mine, denoiser.sample_shape).to(device), torch.zeros(stop - start, m, dtype=torch.float64)
        for t, step in plan:
            z = noise_of(mine, denoiser.sample_shape).to(device)
            of_q = _clean(denoiser, x, t, rows(conditions, slice(0, 1)))
            for index in range(m):
                of_i = _clean(denoiser, x, t, rows(conditions, slice(index + 1, index + 2)))
                d = doubled(step.clean * (of_i - of_q) / step.spread)
                rho[:, index] += (doubled(z) * d - d.square() / 2).flatten(1).sum(1).cpu()
            x = step.state * x + step.clean * of_q + step.spread * z
        ended = _clean(denoiser, x, levels[-1], rows(conditions, slice(0, 1))).cpu()
        if progress is not None:
            progress(stop - start)
        return ended, rho

    ended, said = zip(*in_batches(along, count, limit), strict=True)
    return Paths(torch.cat(ended), torch.cat(said).float())


def _clean(denoiser: Denoiser, x: Tensor, t: int, condition: Condition) -> Tensor:
    """``x0hat(x_t)`` (n, ...)."""
    level = torch.full((len(x),), t, device=x.device)
    with torch.no_grad():
        return predicted_x0(denoiser, denoiser.predict(x, level, repeat(condition, len(x))), x, level)
