r"""What a change of a network costs, measured along its own stochastic chain, nats.

::

    cost = E sum_k |m_f(x_k) - m_T(x_k)|^2 / (2 v_k) = E sum_k 1/2 (SNR_{k+1} - SNR_k) |xhat_f(x_k) - xhat_T(x_k)|^2

The kernels are ancestral ones, `x_{k+1} ~ N(m(x_k), v_k)`, x_0 ~ N(0, I) at the highest noise level, ::

    m(x) = a s'^2/s^2 x + c' (s^2 - a^2 s'^2)/s^2 xhat(x),    v = (s^2 - a^2 s'^2) s'^2/s^2,    a = c/c',

(c, s) signal and noise of the level that is left, (c', s') of the one that is entered, xhat the network's word on x_0.
The sum is KL(path under f ‖ path under T), by the chain rule and with no assumption on f: f may be a network under
guidance, which is the score of nothing, where integrals over noised samples of f measure something else
(:mod:`diffusion.methods.likelihood`). By data processing it is at least KL(f‖T) of what the two chains make; for Doob's
transform of the base chain it is equal. Under the base's own chain (``forward``) it is KL(T‖f) of the paths.

For samplers that add noise in just this way (DDPM with its small variance) the chain is the sampler's own. Any other
sampler, a deterministic one above all, has no step variances: there the chain is the ancestral one of the same network
at levels evenly spread in log SNR, and the cost is approximate: that of a chain beside the sampler. It falls as steps
grow, to KL in the limit for exact scores; with 40 steps it is about a fifth too high between Gaussians.

Source: theory of path measures, Girsanov; Ho et al., Denoising Diffusion Probabilistic Models (NeurIPS 2020) for the
kernels; Kingma et al., Variational Diffusion Models (NeurIPS 2021) for their form in SNR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusion.methods.likelihood import Plain
from diffusion.pipelines import Denoiser, rows
from diffusion.pipelines.base import generators, noise_of, predicted_x0
from diffusion.pipelines.batch_size import evaluation_limit
from diffusion.ratios.classifier import log_snr
from diffusion.ratios.noise_integral import span
from diffusion.runtime.memory import in_batches
from diffusion.runtime.precision import squares
from diffusion.training.lora import base_model

STEPS = 40  # of a chain that is not the sampler's own: log SNR in steps of 0.4

# Where such a chain starts: below it x_0 is told from noise by less than a float32 resolves.
LEAST_LOG_SNR = -12.0


@dataclass(frozen=True)
class Chain:
    """Noise levels ``t`` (k + 1,) from most to least noise, the network being asked at all but the last.

    ``own``: whether these are the kernels of the pipeline's own sampler; ``clip``: x_0 is cut to [-clip, clip].
    ``forward``: the base model runs along it, not the changed one. ``scale``, ``negative``: of classifier-free
    guidance, of both networks alike: their word is ``f_0 + s (f_c - f_0)``, f_0 under the negative prompt.
    """

    t: Tensor
    own: bool
    clip: float | None = None
    forward: bool = False
    scale: float = 1.0
    negative: str = ""

    @property
    def steps(self) -> int:
        return len(self.t) - 1


def chain_of(denoiser: Denoiser, sampler_steps: int, steps: int = STEPS) -> Chain:
    """The chain of the pipeline's sampler at ``sampler_steps`` where it has one, else an ancestral one.

    The sampler's last step adds no noise, so what is compared is its last noisy state.
    """
    scheduler = denoiser.pipeline.scheduler
    config = scheduler.config
    clip = float(config.get("clip_sample_range") or 1.0) if config.get("clip_sample") else None
    small = str(config.get("variance_type", "")).startswith("fixed_small")
    ancestral = type(scheduler).__name__ == "DDPMScheduler" and small and not config.get("thresholding")
    if ancestral and sampler_steps > 1:
        fresh = type(scheduler).from_config(config)
        fresh.set_timesteps(sampler_steps)
        return Chain(torch.as_tensor(fresh.timesteps).long().cpu(), True, clip)
    every, low, high = span(denoiser)
    wanted = torch.linspace(low, high, steps)
    if float(every.min()) < low:
        wanted = torch.cat([torch.tensor([max(float(every.min()), LEAST_LOG_SNR)]), wanted])
    t = (every[None] - wanted[:, None]).abs().argmin(1)
    return Chain(torch.unique(t).flip(0), False, clip)


def halves(denoiser: Denoiser, chain: Chain) -> Tensor:
    """Half of the growth of SNR in every step (k,), double: what a squared change of x_0 costs there, in nats."""
    return 0.5 * log_snr(denoiser, chain.t).double().exp().diff()


def path_cost(
    denoiser: Denoiser,
    prompts: Sequence[str],
    chain: Chain,
    *,
    seed: int,
    based_on: str | Sequence[str] | None = None,
    student: Callable[[], AbstractContextManager[Any]] = nullcontext,
    plain: Plain | None = None,
    batch: int = 128,
) -> Tensor:
    """The sum above (n,), one for each of ``prompts``, double; its mean estimates the cost.

    Args:
        based_on: the prompt that the base model is asked under (its target's law), or one for each; left out, each
            one's own.
        student: context in which the network is the changed one; ``plain``: inside of it, the base model, by default
            adapters off or old weights in.

    Raises:
        FloatingPointError: where the network says what is not finite.
    """
    plain = plain or partial(base_model, denoiser)
    device = next(denoiser.network.parameters()).device
    worth = halves(denoiser, chain)
    signal, noise = (value.flatten() for value in denoiser.schedule(chain.t))
    chances, limit = generators(seed, len(prompts)), evaluation_limit(denoiser, batch)

    def along(start: int, stop: int) -> Tensor:
        asked, part = list(prompts[start:stop]), slice(start, stop)
        with student():  # a guided network takes a prompt that asks for a concept for the anchor
            condition = _conditions(denoiser, asked)
        anchors = [based_on] * len(prompts) if isinstance(based_on, str) else based_on or prompts
        base = _conditions(denoiser, list(anchors[part]))
        empty = _conditions(denoiser, [chain.negative] * len(asked)) if chain.scale > 1 else None
        mine = [torch.Generator().set_state(chance.get_state()) for chance in chances[part]]  # a batch may be run again
        x, found = noise_of(mine, denoiser.sample_shape).to(device), torch.zeros(len(asked), dtype=torch.float64)
        with torch.no_grad(), student():
            for k in range(chain.steps):
                t = chain.t[k].expand(len(x)).to(device)
                f = _clean(denoiser, x, t, (condition, empty), chain)
                with plain():
                    said = _clean(denoiser, x, t, (base, empty), chain)
                found += worth[k] * squares(f - said)
                x = chain_step(
                    x,
                    said if chain.forward else f,
                    noise_of(mine, x.shape[1:]).to(device),
                    (signal[k : k + 2], noise[k : k + 2]),
                )
        return found

    total = torch.cat(in_batches(along, len(prompts), limit))
    if not bool(torch.isfinite(total).all()):
        raise FloatingPointError("cost along the chain: the network's output is not finite")
    return total


def nats(denoiser: Denoiser, t: Tensor) -> Tensor:
    """What a unit of squared change of the network's raw output costs at levels t (n,), nats per unit of log SNR / 2.

    ::

        SNR (d xhat/d output)^2        eps: 1,    v and flows: the signal's square,    x_0: SNR
    """
    one = torch.ones(len(t), *(1,) * len(denoiser.sample_shape), device=t.device)
    moved = predicted_x0(denoiser, one, torch.zeros_like(one), t).flatten()
    return log_snr(denoiser, t).to(moved).exp() * moved.square()


def _conditions(denoiser: Denoiser, prompts: list[str]) -> Any:
    distinct = list(dict.fromkeys(prompts))
    return rows(denoiser.condition(distinct), torch.tensor([distinct.index(prompt) for prompt in prompts]))


def _clean(denoiser: Denoiser, x: Tensor, t: Tensor, conditions: tuple[Any, Any], chain: Chain) -> Tensor:
    """What the network says of x_0, under guidance where there is a condition of the branch without prompt."""
    said, empty = denoiser.predict(x, t, conditions[0]), conditions[1]
    if empty is not None:
        free = denoiser.predict(x, t, empty)
        said = free + chain.scale * (said - free)
    clean = predicted_x0(denoiser, said, x, t)
    return clean if chain.clip is None else clean.clamp(-chain.clip, chain.clip)


def chain_step(x: Tensor, clean: Tensor, fresh: Tensor, schedule: tuple[Tensor, Tensor]) -> Tensor:
    """One sample of the kernel. ``schedule``: signal and noise, (2,) or, of every row of x (n, ...), (2, n)."""
    (c, c_next), (s, s_next) = (value.double() for value in schedule)
    kept = (c / c_next) ** 2 * s_next**2 / s**2  # what of the variance at this level was there at the next
    weights = (c / c_next) * s_next**2 / s**2, c_next * (1 - kept), (1 - kept) ** 0.5 * s_next
    old, new, noise = (value.to(x).view(-1, *(1,) * (x.ndim - 1)) for value in weights)
    return old * x + new * clean + noise * fresh
