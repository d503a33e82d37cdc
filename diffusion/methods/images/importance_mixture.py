r"""One forward pass for two expectations: noised states from a defensive mixture, with importance weights.

::

    x_t ~ m = (1 - beta) N(s a, n² I) + beta N(s u, n² I),    w_a = N(x_t; s a, n² I)/m,    w_u = N(x_t; s u, n² I)/m,

for a pair of samples (a, u) at a noise level with signal s and noise n. Then E_m[w_a g(x_t)] is the expectation of g
under the noising of a, E_m[w_u g] under that of u, and both weights are bounded: w_a ≤ 1/(1-beta), w_u ≤ 1/beta.
Where the two noisings do not overlap the weights are 0 and their bounds: stratified sampling. Where they do, every
state speaks for both.

Source: Owen & Zhou, Safe and effective importance sampling (JASA 2000), for defensive mixtures; Alberti et al., Data
Unlearning in Diffusion Models (ICLR 2025), for their use here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.pipelines import Denoiser
from diffusion.runtime.distributed import Part

# Log ratios beyond this are certain; e^80 still fits into single precision.
CERTAIN = 80.0


@dataclass(frozen=True)
class Mixed:
    """States x (n, ...), denoising targets towards either sample (n, ...), weights (n,)."""

    x: Tensor
    kept_target: Tensor
    forgotten_target: Tensor
    kept_weight: Tensor
    forgotten_weight: Tensor

    def part(self, part: Part) -> Mixed:
        mine = part.rows(len(self.x))
        return Mixed(
            self.x[mine],
            self.kept_target[mine],
            self.forgotten_target[mine],
            self.kept_weight[mine],
            self.forgotten_weight[mine],
        )


def mixed(
    denoiser: Denoiser, kept: Tensor, forgotten: Tensor, t: Tensor, share: Tensor, generator: torch.Generator
) -> Mixed:
    """States of pairs (n, ...) at levels t (n,); ``share`` (n,) is beta, 0 where nothing is to be forgotten."""
    from_forgotten = torch.rand(len(kept), generator=generator).to(share) < share
    eps = torch.randn(kept.shape, generator=generator).to(kept)
    signal, noise = denoiser.schedule(t)
    signal, noise = signal.to(kept), noise.to(kept)
    shape = (-1, *(1,) * (kept.ndim - 1))
    x = signal * torch.where(from_forgotten.view(shape), forgotten, kept) + noise * eps
    kept_eps, forgotten_eps = (x - signal * kept) / noise, (x - signal * forgotten) / noise
    # log N(x; s u, n²) - log N(x; s a, n²)
    ratio = 0.5 * (_square(kept_eps) - _square(forgotten_eps)).clamp(-2 * CERTAIN, 2 * CERTAIN)
    share = share.to(ratio)
    kept_weight = 1 / ((1 - share) + share * ratio.exp())
    forgotten_weight = torch.where(share > 0, 1 / ((1 - share) * (-ratio).exp() + share), torch.zeros_like(share))
    return Mixed(
        x,
        denoiser.target(kept, kept_eps, t),
        denoiser.target(forgotten, forgotten_eps, t),
        kept_weight,
        forgotten_weight,
    )


def _square(value: Tensor) -> Tensor:
    return value.square().flatten(1).sum(1)
