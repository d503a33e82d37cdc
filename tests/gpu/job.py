"""What a run on a GPU is given: how much is done, where, and with which weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.gpu import models


class Skipped(Exception):
    """A part that is not measured, and why."""


@dataclass(frozen=True)
class Sizes:
    """How much is done; the second set is for a CPU."""

    side: int = 8192  # of the matrix products
    repeats: int = 5
    batches: tuple[int, int] = (8, 4)  # of the bare SD 1.5 and SDXL
    samples: tuple[int, int] = (32, 12)  # of a survey, SD 1.5 and SDXL
    sampler_steps: int = 4
    train_steps: int = 10
    train_batch: int = 6
    draws: int = 10_000_000  # that the solver solves on


TINY = Sizes(side=64, repeats=1, batches=(2, 2), samples=(10, 10), sampler_steps=2, train_steps=2, draws=20_000)


@dataclass(frozen=True)
class Job:
    """What every part is given."""

    sizes: Sizes
    device: torch.device
    tiny: bool
    wheels: Path | None

    def pipeline(self, name: str, dtype: torch.dtype) -> Any:
        if not self.tiny:
            return models.build(name, self.device, dtype, self.wheels)
        from tests.diffusion import families

        return families.build({"sd15": families.sd, "sdxl": families.sdxl, "flux": families.flux}[name]).to(
            self.device, dtype
        )
