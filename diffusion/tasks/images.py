"""Which images are to be forgotten, among what, and how surely, as far as it is said: read and checked.

What is left open, :mod:`diffusion.workflows.image_levels` finds out with samples of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from diffusion.pipelines import Denoiser
from diffusion.pipelines.images import read_images
from diffusion.pipelines.latents import encode
from diffusion.tasks.image_set import MOST, check_shares
from diffusion.tasks.image_task import UNSEEN, ImageTask

Images = Tensor | Sequence[Any]


@dataclass(frozen=True)
class ImageTensors:
    """Samples (n, ...) as the network sees them, a prompt for each; ``levels`` and ``shares`` (m,), or None: to be
    found.

    ``held_out``: like the images, never trained on; levels None asks to be as unlikely as these, in the mean or at
    ``quantile``.
    """

    images: Tensor
    prompts: tuple[str, ...]
    data: Tensor
    data_prompts: tuple[str, ...]
    held_out: Tensor
    held_out_prompts: tuple[str, ...]
    levels: np.ndarray | None
    quantile: float | None
    shares: np.ndarray | None

    @property
    def asked(self) -> list[str]:
        """The prompts under which images are to be forgotten, each once."""
        return list(dict.fromkeys(self.prompts))


def read_task(denoiser: Denoiser, task: ImageTask) -> ImageTensors:
    """Everything read and checked, nothing sampled. ``ValueError`` naming the field that does not fit."""
    forget = _samples(denoiser, "images", task.images)
    m = len(forget)
    if not 1 <= m <= MOST:
        raise ValueError(f"images must hold 1 to {MOST}, got {m}")
    own = _texts("prompts", task.prompts, m)
    common = own[0] if len(set(own)) == 1 else None

    def others(name: str, given: Images | None, texts: str | Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
        if given is None:
            return forget[:0], ()
        some = _samples(denoiser, name, given)
        if texts is None and common is None:
            raise ValueError(f"{name}_prompts must be given where images have different prompts")
        return some, _texts(f"{name}_prompts", common if texts is None else texts, len(some))  # type: ignore[arg-type]

    rest, rest_prompts = others("data", task.data, task.data_prompts)
    unseen, unseen_prompts = others("held_out", task.held_out, task.held_out_prompts)
    if not denoiser.prompt_inputs and any((*own, *rest_prompts, *unseen_prompts)):
        raise ValueError(f"prompts: {type(denoiser.pipeline).__name__} takes none, so none can be given")
    wanted = quantile = None
    if isinstance(task.levels, str):
        quantile = _quantile(task.levels)
        if not len(unseen):
            raise ValueError(f"levels {UNSEEN!r} needs held_out: images of the same kind that were never trained on")
    else:
        wanted = _numbers("levels", task.levels, m)
        if not (np.isfinite(wanted) & (wanted > 0)).all():
            raise ValueError(
                f"levels must be positive (nats of negative ELBO above the present), got {wanted.tolist()}"
            )
    part = None if task.shares is None else _numbers("shares", task.shares, m)
    if part is not None:
        check_shares(part, own)
    return ImageTensors(forget, own, rest, rest_prompts, unseen, unseen_prompts, wanted, quantile, part)


def _quantile(level: str) -> float | None:
    """None for ``"unseen"``, 0.9 for ``"unseen 90%"``. ``ValueError`` for anything else."""
    word, _, part = level.partition(" ")
    try:
        value = float(part.strip().removesuffix("%")) / 100 if part else None
    except ValueError:
        value = np.nan
    if word != UNSEEN or (value is not None and not 0 < value < 1):
        raise ValueError(f"levels must be nats, {UNSEEN!r}, or a quantile such as '{UNSEEN} 90%', got {level!r}")
    return value


def _samples(denoiser: Denoiser, name: str, given: Images) -> Tensor:
    if isinstance(given, Tensor):
        if tuple(given.shape[1:]) != denoiser.sample_shape:
            raise ValueError(f"{name} must have shape (n, *{denoiser.sample_shape}), got {tuple(given.shape)}")
        return given.float().cpu()
    if isinstance(given, str | Path) or not len(given):
        raise ValueError(f"{name} must be a list of images (paths or Pillow images) or a tensor, got {given!r}")
    try:
        images = read_images(denoiser.pipeline, given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return encode(denoiser.pipeline, images)


def _texts(name: str, given: str | Sequence[str], count: int) -> tuple[str, ...]:
    texts = (given,) * count if isinstance(given, str) else tuple(given)
    if len(texts) != count:
        raise ValueError(f"{name} must be one for all or one for each of {count}, got {len(texts)}")
    return texts


def _numbers(name: str, given: float | Sequence[float], count: int) -> np.ndarray:
    values = np.asarray(given, float)
    if values.shape not in ((), (1,), (count,)):
        raise ValueError(f"{name} must be one for all or one for each of {count} images, got {values.size}")
    return np.array(np.broadcast_to(values, (count,)))
