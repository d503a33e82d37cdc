"""Which sample of the data meets which image to be forgotten, in the batch of one step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images


@dataclass(frozen=True)
class Pairs:
    """Which sample meets which image: (n,) rows of the data, (n,) images, (n,) shares of all images of its prompt."""

    data: Tensor
    image: Tensor
    share: Tensor


class Pairing:
    """Samples rows of the data, and for each an image of its prompt, with probability pi_i / Pi.

    ``among`` (n,): which rows may meet an image. A share of the batch is for data whose prompt has no image, where
    there are such: they meet none (share 0).
    """

    def __init__(self, images: Images, among: Tensor, settings: FitConfig) -> None:
        self.images = images
        place = {images.forget_prompts[group[0]]: index for index, group in enumerate(images.groups)}
        self._group = torch.tensor([place.get(prompt, -1) for prompt in images.data_prompts])
        self._near = ((self._group >= 0) & among).nonzero()[:, 0]
        self._rest = (self._group < 0).nonzero()[:, 0]
        self._kept = round(settings.train_batch_size * settings.retain_share) if len(self._rest) else 0
        self._near_count = settings.train_batch_size - self._kept

    def __call__(self, generator: torch.Generator) -> Pairs:
        near = self._near[torch.randint(len(self._near), (self._near_count,), generator=generator)]
        chance = torch.rand(self._near_count, generator=generator, dtype=torch.float64)
        image, share = torch.zeros(len(near), dtype=torch.long), torch.zeros(len(near), dtype=torch.float64)
        for index, group in enumerate(self.images.groups):
            here = self._group[near] == index
            cumulative = torch.tensor(self.images.shares[list(group)], dtype=torch.float64).cumsum(0)
            chosen = torch.searchsorted(cumulative, chance[here] * cumulative[-1], right=True)
            image[here] = torch.tensor(group)[chosen.clamp_max(len(group) - 1)]
            share[here] = cumulative[-1]
        if not self._kept:
            return Pairs(near, image, share)
        other = self._rest[torch.randint(len(self._rest), (self._kept,), generator=generator)]
        none = torch.zeros(self._kept)
        return Pairs(torch.cat([near, other]), torch.cat([image, none.long()]), torch.cat([share, none.double()]))
