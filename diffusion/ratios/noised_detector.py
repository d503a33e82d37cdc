r"""A detector's word on noised states: what it will say of the image, in the mean.

::

    eta_i(x_t, c) = E[ l_i(x_0) | x_t, c ]        for detectors l_i in [0, 1], under prompt c,

the minimiser of the cross-entropy with soft labels, -E[ l log eta + (1 - l) log(1 - eta) ], over functions of the
frozen network's own features under that prompt (n, D). Needs no priors and no contrast: the prompt is known. Along the
sampler eta is a martingale. With two-valued detectors Doob's function is ::

    h(x_t, c) = E[ e^{-lam·l} | x_t, c ] = prod_i (1 - (1 - e^{-lam_i}) eta_i)        (one detector; several: if apart)

Source: theory, "Detectors"; h-transform: Doob, Classical Potential Theory (1984).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from diffusion.ratios.noised_network import NoisedNetwork
from diffusion.runtime.seeds import seeded_weights


class NoisedDetector(NoisedNetwork):
    """``forward`` gives eta (n, m), the members' mean."""

    def forward(self, feature: Tensor, log_snr: Tensor) -> Tensor:
        return torch.stack([logits.sigmoid() for logits in self.each(feature, log_snr)]).mean(0)


def train_noised_detector(
    feature: Tensor,
    snr: Tensor,
    detected: Tensor,
    *,
    steps: int = 400,
    batch: int = 512,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> NoisedDetector:
    """Minimise the cross-entropy above over features (N, D), log SNR (N,), what detectors say of each x_0 (N, m)."""
    with seeded_weights(seed):  # initial weights and dropout take no generator
        noised_detector = NoisedDetector(feature.shape[1], detected.shape[1])
        noised_detector.standardise(feature)
        optimizer = torch.optim.AdamW(noised_detector.parameters(), lr=1e-3, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            optimizer.zero_grad()
            for member in noised_detector.members:  # each sees its own batches: their errors differ, the mean has less
                chosen = torch.randint(len(detected), (batch,), generator=generator)
                logits = noised_detector.logits(cast(nn.ModuleDict, member), feature[chosen], snr[chosen])
                nn.functional.binary_cross_entropy_with_logits(logits, detected[chosen]).backward()
            optimizer.step()
            schedule.step()
            if progress is not None:
                progress(1)
    return noised_detector.eval()
