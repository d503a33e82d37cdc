r"""Adversarial embeddings as further prompts of a fitted network: each is to mean what the concept's anchor means.

::

    loss = ( n_a E | f(x_t, e) - f_0(x_t, a) |^2 + n_k E | f(x_t, c) - f_0(x_t, c) |^2 ) / (n_a + n_k)

    e = u e_i + (1 - u) e_j - r g / rms(g),    g = grad over e of | y - f(x_t, e) |^2

f the network that goes on being trained, f_0 the same as it was fitted, a the anchor of the concept; x_t noised samples
of the base model with and without the concept, as many of either, y their denoising targets. e_i are embeddings that
attacks have found or passed. A network that learns these points alone is attacked beside them, so half of the rows lie
on the line to e_j, another one or the anchor's own, u uniform in [0, 1] (u = 1 in the other half), and where the sample
has the concept they are moved, by r uniform in [0, WIDTH], the way an attack would go on; that step is taken as given.

c are prompts as they are asked: what the fit has promised of them is kept by the second term. Under a guidance scale
both branches of f then say what those of f_0 say, the one with e what f_0 says under the anchor.

Source: theory, "Attacks as further laws"; adversarial training of erased models as in Zhang et al., Defensive
Unlearning with Adversarial Training (AdvUnlearn, NeurIPS 2024), whose goal is ESD's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion.pipelines import Condition, Denoiser, add_noise, rows
from diffusion.pipelines.base import device_of
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.training.batches import join, spread_levels
from diffusion.training.trainer import Objective

ATTACKED = 0.5  # share of a step's rows under embeddings
WIDTH = 0.5  # of the widest step off what was found; numbers that a network reads of a prompt are of order one


@dataclass(frozen=True)
class Adversary:
    """Embeddings (k, ...), the anchor that they are to mean, and samples (n, ...) with and without the concept."""

    found: Condition
    anchor: str
    references: Tensor
    others: Tensor


@dataclass(frozen=True)
class KeptLaw:
    """Samples (n, ...) and the prompt (n,) that each is asked under: where the network stays as it was fitted."""

    latents: Tensor
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.latents) != len(self.prompts) or not self.prompts:
            raise ValueError(f"latents and prompts must be one each, got {len(self.latents)}, {len(self.prompts)}")


@contextmanager
def at_values(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> Iterator[None]:
    """Parameters at other values inside; nothing is copied."""
    held = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        yield
    finally:
        for parameter, value in zip(parameters, held, strict=True):
            parameter.data = value


def robust_objective(
    denoiser: Denoiser,
    adversaries: Sequence[Adversary],
    kept: KeptLaw,
    parameters: Sequence[nn.Parameter],
    fitted: Sequence[Tensor],
    batch: int,
) -> Objective:
    """The loss of one step; ``fitted``: values of ``parameters`` in f_0. ``ValueError`` for a batch below 2."""
    if batch < 2:
        raise ValueError(f"batch must be at least 2, got {batch}")
    distinct = list(dict.fromkeys(kept.prompts))
    told = denoiser.condition(distinct)
    row = torch.tensor([distinct.index(prompt) for prompt in kept.prompts])
    anchors = denoiser.condition([each.anchor for each in adversaries])
    sizes = torch.tensor([len(next(iter(each.found.values()))) for each in adversaries])
    found = {name: torch.cat([*(each.found[name] for each in adversaries), anchors[name]]) for name in anchors}
    of = torch.repeat_interleave(torch.arange(len(adversaries)), sizes)
    # Where each row may be mixed with: all that was found of its own concept, and its anchor.
    ends = [torch.cat([(of == k).nonzero()[:, 0], torch.tensor([len(of) + k])]) for k in range(len(adversaries))]
    attacked, device = max(1, round(ATTACKED * batch)), device_of(denoiser)

    def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        chosen = torch.randint(len(of), (attacked,), generator=generator)
        seen = [
            _pick((adversaries[int(of[j])].references, adversaries[int(of[j])].others)[k % 2], generator)
            for k, j in enumerate(chosen)
        ]
        second = torch.stack([_pick(ends[int(of[j])], generator) for j in chosen])
        share, how_far = torch.rand((2, attacked), generator=generator)
        share[::4], share[1::4] = 1.0, 1.0  # with and without the concept
        how_far[1::2] = 0.0  # without it
        other = torch.randint(len(row), (batch - attacked,), generator=generator)
        x0 = torch.cat([torch.stack(seen), kept.latents[other]]).to(device)
        t = torch.cat([spread_levels(denoiser, n, generator) for n in (attacked, len(other))]).to(device)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        x, y = add_noise(denoiser, x0, eps, t), denoiser.target(x0, eps, t)
        goal = join(rows(anchors, of[chosen]), rows(told, row[other]))
        mine, rest = torch.arange(attacked)[part.rows(attacked)], torch.arange(len(other))[part.rows(len(other))]
        at = mixed(rows(found, chosen[mine]), rows(found, second[mine]), share[mine])
        at = further(denoiser, (x[mine], t[mine], y[mine]), at, WIDTH * how_far[mine])
        asked, mine = join(at, rows(told, row[other[rest]])), torch.cat([mine, attacked + rest])
        with torch.no_grad(), at_values(parameters, fitted):
            said = denoiser.predict(x[mine], t[mine], rows(goal, mine))
        return (denoiser.predict(x[mine], t[mine], asked) - said).square().mean()

    return objective


def mixed(one: Condition, two: Condition, share: Tensor) -> Condition:
    """``u one + (1 - u) two``, u of shape (n,)."""
    return {
        name: torch.lerp(two[name], value, share.to(value).reshape(-1, *[1] * (value.ndim - 1)))
        if value.is_floating_point() else value
        for name, value in one.items()
    }  # fmt: skip


def further(denoiser: Denoiser, states: tuple[Tensor, Tensor, Tensor], at: Condition, length: Tensor) -> Condition:
    """Conditions (n, ...) moved by ``length`` (n,), a root mean square, down the slope of the error at states x_t, t
    with targets y; where the length is zero they stay."""
    name, some = denoiser.prompt_inputs[0], length.nonzero()[:, 0]
    if not len(some):
        return at
    x, t, y = (each[some] for each in states)
    with torch.enable_grad():
        moved = at[name][some].detach().requires_grad_()
        error = (y - denoiser.predict(x, t, rows(at, some) | {name: moved})).square().flatten(1).mean(1).sum()
        slope = torch.autograd.grad(error, [moved])[0].float()
    size = slope.flatten(1).square().mean(1).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    step = (length[some].to(size) / size).reshape(-1, *[1] * (slope.ndim - 1)) * slope
    there = at[name].clone()
    there[some] -= step.to(there)
    return at | {name: there}


def _pick(some: Tensor, generator: torch.Generator) -> Tensor:
    return some[int(torch.randint(len(some), (1,), generator=generator))]
