"""A small network on a frozen one's features at any noise level: ratio classifiers and noised detectors are such."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

# A network's features are redundant, and its prompted samples now and then show something else: a classifier that sees
# a fifth of them at a time does not learn those samples by heart. At least about 64 stay in any case.
DROPPED = 0.8


class NoisedNetwork(nn.Module):
    """Members, small networks on (features (n, width), log signal-to-noise ratio (n,)) with ``outputs`` logits each."""

    center: Tensor
    scale: Tensor
    frequencies: Tensor

    def __init__(self, width: int, outputs: int, members: int = 3) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        frequencies = torch.exp(torch.linspace(math.log(0.1), math.log(1.5), 8))
        self.register_buffer("frequencies", frequencies)
        self.dropped = max(0.0, min(DROPPED, 1 - 64 / width))
        self.members = nn.ModuleList(
            nn.ModuleDict(
                {
                    "enter": nn.Linear(width, 96),
                    "time": nn.Linear(2 * len(frequencies), 192),
                    "leave": nn.Sequential(
                        nn.GELU(), nn.Dropout(0.1), nn.Linear(96, 64), nn.GELU(), nn.Linear(64, outputs)
                    ),
                }
            )
            for _ in range(members)
        )

    def standardise(self, feature: Tensor) -> None:
        """Take mean and spread of features (N, width) for those that the members see as zero and one."""
        self.center.copy_(feature.mean(0))
        self.scale.copy_(feature.std(0).clamp_min(1e-6))

    def logits(self, member: nn.ModuleDict, feature: Tensor, log_snr: Tensor) -> Tensor:
        """(n, outputs) of one member."""
        angle = log_snr[:, None] * self.frequencies
        gain, bias = member["time"](torch.cat([angle.sin(), angle.cos()], dim=1)).chunk(2, dim=1)
        standard = ((feature - self.center) / self.scale).clamp(-8, 8)
        standard = nn.functional.dropout(standard, self.dropped, self.training)
        return cast(Tensor, member["leave"](member["enter"](standard) * (1 + gain) + bias))

    def each(self, feature: Tensor, log_snr: Tensor) -> list[Tensor]:
        """The logits (n, outputs) of every member, on its own device, wherever the features are."""
        feature, log_snr = feature.to(self.center.device), log_snr.to(self.center.device)
        return [self.logits(cast(nn.ModuleDict, member), feature, log_snr) for member in self.members]
