r"""Tilted denoising of what a sampler makes under classifier-free guidance, prompt by prompt.

The sampler combines F = f_0 + s (f_c - f_0) of the network's raw outputs without and with the prompt. With T its value
for the frozen network (under the anchor of a prompt that asks for a concept), y the denoising target of a sample x_0
that the sampler made, w = e^{-lam·l(x_0)} its weight and wbar an estimate of E[w | x_t, c], ::

    e = (F - T)/s,        loss = E[ w |e|^2 - (2/s) (w - wbar) <e, y - T> ],

is least where F - T = Cov(w, y | x_t)/E[w | x_t], the change that the weights make to E[y | x_t]: the drift of Doob's
transform, with no assumption on T beyond wbar's being right (T need not be the score of anything, and at s > 1 is not).
Which sample was noised the state does not say: E is taken over all of the prompt's samples that may be behind it
(:mod:`diffusion.methods.behind`), which leaves the expectation of a step as it is and takes noise from it.
Rows are spread over log SNR, most of them where images are decided (:data:`ZONE`), and each counts by what a change of
the network costs there (:func:`diffusion.methods.chain.nats`), as if they were spread evenly, so that a step minimises
the fit's distance from the target in nats of the chain. The change is asked for ``gain`` times over
(:class:`diffusion.tasks.config.FitConfig`): of what a few thousand samples tell a LoRA learns two thirds or less where
images are decided, and a steeper weight does not mend that (``digits.experiments.fit_profile``). From where an image is
decided on (:data:`DECIDED`) there is little left to change, and what samples say of it is noise: there the network is
held. s divides, since the sampler multiplies what the branch with the prompt learns. The branch without it is held, or
where a prompt of the task *is* the empty one moves by its own tilt (there F = f_0), and e takes that into account.

If T is the score of q, the optimum does not depend on wbar, which then only decides how much noise the gradient has;
if wbar is right, the student keeps T's own error, which is what "change nothing else" asks for. Where a sample and its
neighbourhood do not show the concept, w = wbar and the noise of y drops out, which is most of the space.

Source: theory, "Into a LoRA" and "What each branch must learn under classifier-free guidance".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from diffusion.methods.behind import Behind
from diffusion.methods.chain import nats
from diffusion.pipelines import Condition, Denoiser, add_noise, rows
from diffusion.ratios.classifier import Bottleneck, log_snr, pooled
from diffusion.ratios.noise_integral import Zone, row_weights, spread_log_snr
from diffusion.ratios.noised_network import NoisedNetwork
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import base_model
from diffusion.training.trainer import Objective

# Of what a fit does, its gain included: a finished fit by another formula is not taken from the cache.
REVISION = 12

# Between these log SNRs the change that is asked for fades: beyond, on digits, the noised detector is all but sure, and
# what is asked for there is dear along a fit's chain and saves few samples. Images of more pixels are decided earlier.
DECIDED = (-2.0, -0.5)
# So 7 of 10 rows are where images are decided, and count less there: the loss is the same in the mean.
ZONE = Zone(-7.0, 0.0, 0.7)


def guided_loss(e: Tensor, pull: Tensor, w: Tensor, s: Tensor, count: Tensor) -> Tensor:
    """``mean[ count (w |e|^2 - (2/s) <e, pull>) ]``: e, ``pull`` = E[(w - wbar)(y - T)] (n, ...), w = E[w], scales s
    and how much each row counts (n,)."""
    w, s, count = (each.view(-1, *(1,) * (e.ndim - 1)) for each in (w, s, count))
    return (count * (w * e.square() - 2 / s * e * pull)).mean()


def undecided(log_snr: Tensor, between: tuple[float, float] = DECIDED) -> Tensor:
    """1 where an image is not decided yet, 0 where it is, linear in log SNR ``between`` (:data:`DECIDED`)."""
    low, high = between
    return ((high - log_snr) / (high - low)).clamp(0, 1)


@dataclass(frozen=True)
class PromptBatches:
    """What a step looks at: samples (n, ...) of the prompts' laws, the prompt (n,) of each, and how prompts are told.

    ``asked``, ``anchors``: conditions (A,) that the student and the base model are given, prompt c those of row c;
    ``negative`` (1,): that of the branch without prompt; ``scales`` (C,): s, 1 where the prompt is the negative one.
    ``moving``: whether the branch without prompt moves, since a prompt of the task is that very prompt; else it is held
    on a share ``held`` of the rows. ``asking``: which rows of both are given for laws (n,), where several prompts are
    to have one law or a prompt has versions; left out, law and row are the same.
    """

    denoiser: Denoiser
    latents: Tensor
    prompts: Tensor
    asked: Condition
    anchors: Condition
    negative: Condition
    scales: Tensor
    moving: bool
    shares: Tensor  # (n,) how often each sample is chosen
    target: Tensor  # (n,) how often it counts
    held: float = 1 / 6
    asking: Callable[[Tensor, torch.Generator], Tensor] | None = None


def guided_objective(
    data: PromptBatches,
    noised_network: NoisedNetwork,
    log_weights: Callable[[], Tensor],
    noised: Callable[[Tensor, Tensor], Tensor],
    settings: FitConfig,
    gain: Callable[[], float] | None = None,
) -> Objective:
    """The loss of one step; the student must be on the network.

    ``log_weights``: of the samples (n,) at the multipliers of the present step, at most 0; ``noised``: log wbar (n,)
    from what ``noised_network`` says (n, m) of states of the base model under laws by number (n,); ``gain``: of the
    present step, where it moves.
    """
    denoiser = data.denoiser
    often = (data.target / data.shares).double()
    behind = Behind(denoiser, data.latents, data.prompts, data.shares)
    guided = bool((data.scales != 1).any())
    held = 0 if data.moving or not guided else round(settings.train_batch_size * data.held)
    count = settings.train_batch_size - held
    device = next(denoiser.network.parameters()).device

    def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        chosen = torch.multinomial(data.shares, count + held, replacement=True, generator=generator)
        x0 = data.latents[chosen].to(device)
        t = torch.cat([spread_log_snr(denoiser, k, generator, ZONE) for k in (count, held) if k]).to(device)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        laws = data.prompts[chosen[:count]]
        words = laws if data.asking is None else data.asking(laws, generator)
        mine = torch.arange(count)[part.rows(count)], torch.arange(count, count + held)[part.rows(held)]
        some, kept = (chosen[index] for index in mine)
        row = torch.cat(mine)
        x, t = add_noise(denoiser, x0, eps, t)[row], t[row]
        n, c, words = len(some), laws[mine[0]], words[mine[0]]
        s = data.scales[c].to(x)
        empty = {name: value.expand(len(row), *value.shape[1:]) for name, value in data.negative.items()}
        with base_model(denoiser):
            with Bottleneck(denoiser) as caught:
                base = denoiser.predict(x[:n], t[:n], rows(data.anchors, words))
                feature = pooled(cast(Tensor, caught.last), base)
            free = denoiser.predict(x, t, empty) if guided else base
            there = noised_network.center.device
            said = noised_network(feature.to(there), log_snr(denoiser, t[:n]).to(there))
            wbar = noised(said, c).exp().to(x)
        scale = s.view(-1, *(1,) * (x.ndim - 1))
        target = free[:n] + scale * (base - free[:n])
        e = denoiser.predict(x[:n], t[:n], rows(data.asked, words)) - base
        if guided and data.moving:
            with torch.no_grad():
                other = denoiser.predict(x[:n], t[:n], rows(empty, slice(0, n))) - free[:n]
            e = e + (1 - scale) / scale * other
        # Once for each sample that may be behind a state: how often it counts, times w and times w - wbar.
        counted = behind(x[:n], t[:n], c) * often
        weights = log_weights().exp().double()
        factors = counted * (weights - wbar.cpu().double()[:, None])
        drawn = behind.targets(x[:n], t[:n], factors)
        pull = drawn - factors.sum(1).to(x).view(scale.shape) * target
        # What is decided is held: a weight of 1 and nothing that pulls.
        rest = undecided(log_snr(denoiser, t[:n])).to(x)
        paid = (nats(denoiser, t) * row_weights(denoiser, t, ZONE).to(t.device)).to(x)
        w = rest * (counted @ weights).to(x) + (1 - rest) * counted.sum(1).to(x)
        times = settings.gain if gain is None else gain()
        loss = guided_loss(e, times * rest.view(scale.shape) * pull, w, s, paid[:n])
        if len(kept):
            stay = denoiser.predict(x[n:], t[n:], rows(empty, slice(n, None))) - free[n:]
            stay = (paid[n:] * stay.square().flatten(1).mean(1)).mean()
            loss = (loss * n + stay * len(kept)) / (n + len(kept))
        return loss

    return objective
