r"""Distillation of Doob's transform along the student's own chain, prompt by prompt.

The sampler combines F = f_0 + s (f_c - f_0) of the student's raw outputs, T that of the frozen network under the
anchor. With h(x_t, c) = E[e^{-lam·l(x_0)} | x_t, c], as the noised detector reads it, the target's word on x_0 is T's
plus ``noise^2/signal · grad log h`` (Tweedie), and ::

    loss = E 1/2 Delta SNR | xhat(F) - xhat(T) - g noise^2/signal grad log h |^2
         = KL(path of the student ‖ path of the target),        states x_t from the student's own chain, held.

The regression has no noise: what a tilt (:mod:`diffusion.methods.guided_tilt`) reads off single samples is read off the
detector's gradient here, and the states are those that the sampler passes, also where the target hardly ever is. What
it trusts is the noised detector, with ``foreseen`` the detectors themselves at predicted images as well
(:mod:`diffusion.ratios.foreseen`); the level that comes out is measured. g, the gain, moves by that level as a tilt's
does (:mod:`diffusion.methods.gain`). It is 0 where there is nothing to read: at the highest noise (:data:`SEEN`), where
the gradient of what should be constant is all error, and where images are decided
(:data:`diffusion.methods.guided_tilt.DECIDED`, or :data:`FORESEEN`), from where on the student is held to T.

No step of a target costs more than what is left to be had: with h at most 1 and p_k, q_k the kernels of a step, ::

    KL(p_k ‖ q_k) = E_p[log h_{k+1}] - log h_k <= -log h_k,

and where the slope that was read asks for more it is shortened to that (:func:`affordable`), with h as it was read.
The gain multiplies what is left: a student is asked for more than the target is as far as it follows less.

Chains are begun under prompts as often as a tilt's batches choose these, each row counting by the law; prompts that
keep their law are looked at in versions, and count once: what a tilt spills there is noise, of which there is none.

A batch is one step of as many chains, spread over all noise levels: each optimiser step asks the student at their
states and moves every chain on by what it said, so that sampling asks the network nothing that training does not.
A chain that has ended begins anew from noise, under a prompt of the law.

Source: theory, "Along the student's own chain"; states from the learner's own law: Ross et al., A Reduction of
Imitation Learning to No-Regret Online Learning (AISTATS 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from diffusion.methods.chain import Chain, chain_step, halves, nats
from diffusion.methods.guided_tilt import DECIDED, PromptBatches, undecided
from diffusion.pipelines import Condition, Denoiser, add_noise, rows
from diffusion.pipelines.base import predicted_x0
from diffusion.ratios.classifier import Bottleneck, log_snr, pooled
from diffusion.ratios.foreseen import Foreseen
from diffusion.ratios.noised_detector import NoisedDetector
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.training.lora import base_model
from diffusion.training.trainer import Objective

# Between these log SNRs the noised detector begins to be believed.
SEEN = (-6.0, -5.0)

# And between these it has nothing left to say, where detectors say themselves what they see.
FORESEEN = (1.0, 3.0)

# log h (n,) from eta (n, m) under prompts by number (n,).
LogH = Callable[[Tensor, Tensor], Tensor]


class Walkers:
    """States (n, ...) of n chains under prompts by number (n,), each at its own step (n,): a trainer's further state.

    ``kept``: where they are kept, which another state of the trainer may own; replaced when a run is resumed.
    """

    def __init__(self, data: PromptBatches, chain: Chain, count: int, kept: Callable[[], dict[str, Tensor]]) -> None:
        self.data, self.chain, self.count, self._kept = data, chain, count, kept

    @property
    def now(self) -> tuple[Tensor, Tensor, Tensor]:
        """States, prompts and steps."""
        kept = self._kept()
        return kept["states"], kept["prompts"], kept["steps"]

    def begin(self, generator: torch.Generator) -> None:
        """Where there are none yet: noised samples of the prompts' laws, spread over all steps."""
        if "states" in self._kept():
            return
        data, denoiser = self.data, self.data.denoiser
        chosen = torch.multinomial(data.shares, self.count, replacement=True, generator=generator)
        steps = torch.arange(self.count) * self.chain.steps // self.count
        x0 = data.latents[chosen].cpu()
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        states = add_noise(denoiser, x0, eps, self.chain.t[steps])
        self._kept().update(states=states, prompts=data.prompts[chosen].clone(), steps=steps)

    def move(self, mine: Tensor, clean: Tensor, generator: torch.Generator) -> None:
        """Chains ``mine`` (k,) by what the student said of x_0 there; those that end begin anew."""
        x, prompts, steps = self.now
        fresh = torch.randn(x.shape, generator=generator).to(x)
        anew = torch.multinomial(self.data.shares, self.count, replacement=True, generator=generator)
        signal, noise = (value.flatten() for value in self.data.denoiser.schedule(self.chain.t))
        k = steps[mine]
        moved = chain_step(
            x[mine],
            clean.to(x),
            fresh[mine],
            (torch.stack([signal[k], signal[k + 1]]), torch.stack([noise[k], noise[k + 1]])),
        )
        ended = k + 1 >= self.chain.steps
        x[mine] = torch.where(ended.view(-1, *(1,) * (x.ndim - 1)), fresh[mine], moved)
        prompts[mine] = torch.where(ended, self.data.prompts[anew[mine]], prompts[mine])
        steps[mine] = torch.where(ended, 0, k + 1)


class Pool:
    """A trainer's state that is nothing but tensors."""

    def __init__(self) -> None:
        self.pool: dict[str, Tensor] = {}

    def tensors(self) -> dict[str, Tensor]:
        return self.pool

    def data(self) -> Any:
        return {}

    def load(self, tensors: dict[str, Tensor], data: Any) -> None:
        self.pool = tensors


def doob(
    denoiser: Denoiser,
    noised_detector: NoisedDetector,
    log_h: LogH,
    x: Tensor,
    t: Tensor,
    anchors: Condition,
    c: Tensor,
    foreseen: Foreseen | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The frozen network's raw output (n, ...) under the anchors, the change of x_0 (n, ...) that is asked for, and
    log h (n,)."""
    with base_model(denoiser), torch.enable_grad():
        state = x.detach().requires_grad_(True)
        with Bottleneck(denoiser) as caught:
            base = denoiser.predict(state, t, anchors)
            feature = pooled(cast(Tensor, caught.last), base)
        device, level = noised_detector.center.device, log_snr(denoiser, t)
        eta = noised_detector(feature.to(device), level.to(device))
        if foreseen is not None:
            eta = foreseen(denoiser, predicted_x0(denoiser, base, state, t), eta, level)
        value = log_h(eta, c)
        (slope,) = torch.autograd.grad(value.sum(), state)
    signal, noise = denoiser.schedule(t)
    low, high = SEEN
    rest = undecided(level, FORESEEN if foreseen is not None and foreseen.complete else DECIDED)
    share = rest * ((level - low) / (high - low)).clamp(0, 1)
    change = share.to(slope).view(-1, *(1,) * (x.ndim - 1)) * noise**2 / signal * slope
    return base.detach(), change, value.detach()


def affordable(change: Tensor, value: Tensor, half: Tensor) -> Tensor:
    """A change of x_0 (n, ...), shortened to ``1/2 Delta SNR |change|^2 <= -log h``: ``value`` is log h (n,), ``half``
    (n,) half of the Delta SNR of a step."""
    asked = half.to(value) * change.to(value).square().flatten(1).sum(1)
    part = (-value.clamp_max(0) / asked.clamp_min(torch.finfo(value.dtype).tiny)).clamp_max(1).sqrt()
    return change * part.to(change).view(-1, *(1,) * (change.ndim - 1))


def own_chain_objective(
    data: PromptBatches,
    noised_detector: NoisedDetector,
    log_h: LogH,
    walkers: Walkers,
    gain: Callable[[], float] | None = None,
    foreseen: Foreseen | None = None,
) -> Objective:
    """The loss of one step, mean over pixels; the student must be on the network. It moves the walkers.

    ``gain``: g of the present step, 1 where left out.
    """
    denoiser, chain = data.denoiser, walkers.chain
    # Chains are begun under prompts as often as batches choose these; how much one counts is the law's to say.
    chosen, counted = (torch.bincount(data.prompts, weights=each.double()) for each in (data.shares, data.target))
    often = (counted / counted.sum() / (chosen / chosen.sum()).clamp_min(1e-300)).float()
    guided = bool((data.scales != 1).any())
    device = next(denoiser.network.parameters()).device
    worth = halves(denoiser, chain).float()

    def objective(_step: int, generator: torch.Generator, part: Part = WHOLE) -> Tensor:
        walkers.begin(generator)
        states, prompts, steps = walkers.now
        mine = torch.arange(walkers.count)[part.rows(walkers.count)]
        c, x, t = prompts[mine], states[mine].to(device), chain.t[steps[mine]].to(device)
        s = data.scales[c].to(x).view(-1, *(1,) * (x.ndim - 1))
        # Drawn for all chains, so that every process is left with the same generator.
        words = (prompts if data.asking is None else data.asking(prompts, generator))[mine]
        base, change, value = doob(denoiser, noised_detector, log_h, x, t, rows(data.anchors, words), c, foreseen)
        change = affordable(change, value, worth[steps[mine]].to(device))
        empty = {name: value.expand(len(mine), *value.shape[1:]) for name, value in data.negative.items()}
        said = denoiser.predict(x, t, rows(data.asked, words))
        wanted = (said - base) * s
        free, stay = base, torch.zeros((), device=device)
        if guided:
            with base_model(denoiser):
                free = denoiser.predict(x, t, empty)
            with torch.set_grad_enabled(not data.moving):
                other = denoiser.predict(x, t, empty)
            # Where the branch without prompt is nobody's prompt it is held, and takes no part in what is asked.
            stay, wanted = (other - free).square(), wanted + (1 - s) * (other - free).detach()
        paid = nats(denoiser, t).to(x).view(s.shape)
        unit = predicted_x0(denoiser, torch.ones_like(x), torch.zeros_like(x), t)
        count, times = often[c].to(x).view(s.shape), 1.0 if gain is None else gain()
        loss = (count * paid * (wanted - times * change / unit).square()).mean()
        if guided and not data.moving:
            loss = loss + (paid * stay).mean()
        with torch.no_grad():
            mixed = free + s * (base - free) + wanted.detach()
            clean = predicted_x0(denoiser, mixed, x, t)
            clean = clean if chain.clip is None else clean.clamp(-chain.clip, chain.clip)
            walkers.move(mine, clean.cpu(), generator)
        return loss

    return objective
