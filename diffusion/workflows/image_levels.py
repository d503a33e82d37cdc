r"""What a task of forgetting leaves open: how often the model was shown the images, and levels "as unseen".

::

    task (images, prompts, levels, shares as far as they are said)  +  samples of the model under the images' prompts
        ->  :class:`diffusion.tasks.image_set.Images`, levels (m,) in nats above the present negative ELBO

Data under an image's prompt, where none are given, are samples of the model without the copies among them; the share of
an image is the part of its prompt's data that is its copies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.evaluation.near_duplicates import HALF, distances, spacing
from diffusion.methods.images.unseen import as_unseen
from diffusion.pipelines import Denoiser
from diffusion.pipelines.latents import decode
from diffusion.tasks.image_set import Images, alike
from diffusion.tasks.image_targets import ImageTargets
from diffusion.tasks.images import ImageTensors

SAME = 0.01  # images nearer than this are one image, read or decoded twice


def image_targets(denoiser: Denoiser, task: ImageTensors, drawn: Tensor, drawn_prompts: Sequence[str]) -> ImageTargets:
    """``drawn`` (n, ...): samples of the model under the images' prompts, for what the task leaves open.

    Raises ``ValueError`` where shares are neither said nor seen, or there is nothing to be forgotten.
    """
    pixels = decode(denoiser.pipeline, task.images)
    shown = decode(denoiser.pipeline, drawn)
    under = np.array([[text == own for own in task.prompts] for text in drawn_prompts])
    reference = decode(denoiser.pipeline, _some(task.data, 1000)) if len(task.data) >= 3 else None
    unit = spacing(shown if reference is None else reference)
    as_near = np.full(len(pixels), np.nan) if reference is None else _as_near(reference, pixels, unit)
    copied = (distances(shown, pixels, unit) <= HALF) & under

    data, texts = [task.data], list(task.data_prompts)
    shares, errors = np.zeros(len(task.images)), np.zeros(len(task.images))
    for prompt in task.asked:
        group = [i for i, text in enumerate(task.prompts) if text == prompt]
        here = task.data[torch.tensor([text == prompt for text in task.data_prompts], dtype=torch.bool)]
        same = np.array([int(alike(here, task.images[i]).sum()) for i in group])
        if len(here) > same.sum():
            shares[group] = same / len(here)
            continue
        rows = np.flatnonzero(under[:, group[0]])
        counts = copied[rows][:, group].sum(0)
        shares[group] = counts / len(rows)
        errors[group] = np.sqrt(shares[group] * (1 - shares[group]) / len(rows))
        free = rows[~copied[rows].any(1)]
        data.append(drawn[free])
        texts += [prompt] * len(free)
    if task.shares is not None:
        shares, errors = task.shares, np.zeros(len(task.images))
    unknown = np.flatnonzero(shares <= 0)
    if len(unknown):
        raise ValueError(
            f"shares must be given (copies over the size of the data): no copy of image {unknown[0] + 1} was found "
            "among the data of its prompt or the samples of the model"
        )
    images = Images(task.images, shares, torch.cat(data), task.prompts, tuple(texts))
    levels = task.levels
    if levels is None:
        levels = as_unseen(denoiser, images, task.held_out, task.held_out_prompts, quantile=task.quantile)
        if not (levels > 0).any():
            raise ValueError("levels: every image is already as unlikely as held-out ones; nothing is to be forgotten")
    return ImageTargets(images, levels, unit, as_near, errors)


def _as_near(reference: np.ndarray, images: np.ndarray, unit: float) -> np.ndarray:
    """Of images of the data that are not an image itself, the part that lies as near to it as a copy (m,)."""
    far = distances(reference, images, unit)
    other = far > SAME
    return np.asarray(((far <= HALF) & other).sum(0) / np.maximum(other.sum(0), 1))


def _some(samples: Tensor, most: int) -> Tensor:
    return samples[:: -(-len(samples) // most)]
