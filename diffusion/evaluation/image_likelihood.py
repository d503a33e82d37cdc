"""What a student that forgot images has gained, cost and done to others, in nats, under noise it was not fitted on; and
how many of its samples are copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from diffusion.evaluation.bounds import Counted, Estimate, Plain, counted
from diffusion.evaluation.near_duplicates import HALF
from diffusion.methods.images.unseen import elbo_drop
from diffusion.methods.likelihood import divergence, loss
from diffusion.pipelines import Denoiser
from diffusion.tasks.image_set import Images

MOST = 256  # rows that the cost and the held-out images' drop are measured at


class ImageLikelihood(Plain):
    """Nats. ``elbo_drop`` (m,): by how much the negative ELBO rose at each image, n the noises at each noise level.

    ``cost``: divergence from the base model over data that are no copies; ``held_out_elbo_drop``: what held-out images
    gained, None where there are none. The errors of these two are of the images.
    """

    elbo_drop: tuple[Estimate, ...]
    cost: Estimate
    held_out_elbo_drop: Estimate | None = None


class Copies(Plain):
    """How many samples are copies of an image (of any, where ``image`` is None): before, and after the fit.

    ``image`` counts from 1. ``bound`` of each: one-sided from above. ``nearest_before``, ``nearest_after``: the
    distance of the nearest sample, a copy where it is at most 0.5 (:mod:`diffusion.evaluation.near_duplicates`).
    """

    image: int | None
    before: Counted
    after: Counted
    nearest_before: float
    nearest_after: float


class ImageMeasurement(ImageLikelihood):
    """All that was measured of a network that forgot images. It holds no image, and no name of one."""

    samples: int
    num_inference_steps: int
    sampling: dict[str, Any] = Field(default_factory=dict)  # the law of the samples, in full
    copies: Copies
    copies_of_each: tuple[Copies, ...]


def in_nats(
    denoiser: Denoiser,
    images: Images,
    held_out: Tensor,
    held_out_prompts: Sequence[str],
    *,
    seed: int,
    noise_levels: int,
    repeats: int,
) -> ImageLikelihood:
    """The student's adapters are on. ``held_out`` (k, ...) may be empty."""
    own, errors = elbo_drop(denoiser, images, noise_levels, repeats, seed)
    rows = (~images.aside).nonzero()[:, 0]
    rows = rows[:: -(-len(rows) // MOST)]
    condition = denoiser.condition([images.data_prompts[int(j)] for j in rows])
    levels = max(1, noise_levels // 2)
    cost = _mean(divergence(denoiser, images.data[rows], condition, levels=levels, seed=seed))
    others = None
    if len(held_out):
        condition = denoiser.condition(list(held_out_prompts[:MOST]))
        others = _mean(loss(denoiser, held_out[:MOST], condition, levels=levels, seed=seed))
    drops = tuple(
        Estimate(mean=mean, stderr=error, n=repeats) for mean, error in zip(own.tolist(), errors.tolist(), strict=True)
    )
    return ImageLikelihood(elbo_drop=drops, cost=cost, held_out_elbo_drop=others)


def copies(
    before: NDArray[np.float64], after: NDArray[np.float64], under: NDArray[np.bool_], confidence: float
) -> tuple[Copies, tuple[Copies, ...]]:
    """Of any image, and of each, from distances (n, m) of samples to images.

    ``under`` (n, m): which samples are of an image's prompt; the others are no copies of it, and do not count for it.
    """
    was, now = (np.where(under, far, np.inf) for far in (before, after))

    def found(image: int | None, old: NDArray[np.float64], new: NDArray[np.float64]) -> Copies:
        shares = (counted(far <= HALF, "upper", confidence) for far in (old, new))
        nearest = (float(far.min()) for far in (old, new))
        return Copies(
            image=image, before=next(shares), after=next(shares), nearest_before=next(nearest),
            nearest_after=next(nearest),
        )  # fmt: skip

    of_any = found(None, was.min(1), now.min(1))
    return of_any, tuple(found(i + 1, was[under[:, i], i], now[under[:, i], i]) for i in range(was.shape[1]))


def _mean(values: Tensor) -> Estimate:
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")
    return Estimate(mean=float(values.mean()), stderr=error, n=len(values))
