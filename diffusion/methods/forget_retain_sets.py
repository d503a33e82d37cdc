"""A forget set and a retain set, as the data-unlearning methods that are compared against see their task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.methods.images.pairing import Pairing
from diffusion.pipelines import Condition, Denoiser, add_noise, rows
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.distributed import Part
from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images
from diffusion.training.batches import spread_levels

# A number of pairs and a generator to rows of the retain set and rows of the forget set, alike in prompt.
Pairs = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sets:
    """Samples (., ...) with a prompt each; ``share`` is k/n, the part of all data that is to be forgotten.

    ``kept`` (n,): which rows of ``retain`` are to be retained; the others serve in ``pairs`` only. Left out, all.
    """

    forget: Tensor
    forget_prompts: tuple[str, ...]
    retain: Tensor
    retain_prompts: tuple[str, ...]
    share: float
    pairs: Pairs
    kept: Tensor | None = None

    @classmethod
    def of_estimate(cls, estimate: RatioEstimate) -> Sets:
        """Forget: samples of the concepts' paraphrases. Retain: samples of the anchor, then of the retained prompts.

        Pairs are samples of the anchor with samples of a concept, chosen by the priors, both under the anchor: there
        the concepts are a part of the data, of size ``sum pi_i``.
        """
        asks = (estimate.labels < len(estimate.prompts.concepts)).nonzero()[:, 0]
        latents, prompts = estimate.retained
        retain = torch.cat([estimate.anchor, latents])
        weights = torch.tensor(estimate.prompts.priors)[estimate.labels[asks]].double()
        counts = torch.bincount(estimate.labels[asks]).double()[estimate.labels[asks]]

        def pairs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            kept = torch.randint(len(estimate.anchor), (count,), generator=generator)
            return kept, torch.multinomial(weights / counts, count, replacement=True, generator=generator)

        return cls(
            estimate.labelled[asks],
            tuple(estimate.labelled_prompts[int(j)] for j in asks),
            retain,
            (estimate.prompts.anchor,) * len(estimate.anchor) + prompts,
            float(sum(estimate.prompts.priors)),
            pairs,
        )

    @classmethod
    def of_images(cls, images: Images) -> Sets:
        """Forget: the images. Retain: the data without them. Pairs: any of the data, copies of images among them, with
        an image of the same prompt, by the shares."""
        any_row = torch.ones(len(images.data), dtype=torch.bool)

        def pairs(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            chosen = Pairing(images, any_row, FitConfig(train_batch_size=count, retain_share=0.0))(generator)
            return chosen.data, chosen.image

        share = float(images.shares.sum()) / len(images.groups)
        return cls(images.forget, images.forget_prompts, images.data, images.data_prompts, share, pairs, ~images.aside)


@dataclass(frozen=True)
class Noised:
    """States x (n, ...), levels t (n,), noises and denoising targets (n, ...), and conditions of n rows."""

    x: Tensor
    t: Tensor
    eps: Tensor
    y: Tensor
    condition: Condition

    def part(self, part: Part) -> Noised:
        mine = part.rows(len(self.x))
        return Noised(self.x[mine], self.t[mine], self.eps[mine], self.y[mine], rows(self.condition, mine))


class SetBatches:
    """Noised halves of a batch, one of each set."""

    def __init__(self, denoiser: Denoiser, sets: Sets, settings: FitConfig) -> None:
        self.denoiser, self.sets = denoiser, sets
        self.count = max(1, settings.train_batch_size // 2)
        self.device = next(denoiser.network.parameters()).device
        distinct = sorted({*sets.forget_prompts, *sets.retain_prompts})
        self._conditions = denoiser.condition(distinct)
        place = {name: index for index, name in enumerate(distinct)}
        self._forget = torch.tensor([place[name] for name in sets.forget_prompts])
        self._retain = torch.tensor([place[name] for name in sets.retain_prompts])
        self._forgotten = torch.arange(len(sets.forget))
        self._kept = torch.arange(len(sets.retain)) if sets.kept is None else sets.kept.nonzero()[:, 0]

    def retained_condition(self, chosen: Tensor) -> Condition:
        return rows(self._conditions, self._retain[chosen])

    def __call__(self, generator: torch.Generator) -> tuple[Noised, Noised]:
        """(forget, retain)."""
        return (
            self._noised(self.sets.forget, self._forget, self._forgotten, generator),
            self._noised(self.sets.retain, self._retain, self._kept, generator),
        )

    def _noised(self, samples: Tensor, row: Tensor, among: Tensor, generator: torch.Generator) -> Noised:
        chosen = among[torch.randint(len(among), (self.count,), generator=generator)]
        x0 = samples[chosen].to(self.device)
        t = spread_levels(self.denoiser, len(x0), generator).to(self.device)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        x, y = add_noise(self.denoiser, x0, eps, t), self.denoiser.target(x0, eps, t)
        return Noised(x, t, eps, y, rows(self._conditions, row[chosen]))
