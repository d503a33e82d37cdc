r"""Which images are to be forgotten, among what, how surely, and how often the model was shown them.

    task (pictures, prompts, levels, shares as far as they are said)  +  draws of the model under the images' prompts
        ->  :class:`diffusion.methods.images.Images`, levels (m,) in nats above the present surprise

What nobody said is found out: data under an image's prompt, where none are given, are draws of the model without the
copies among them; the share of an image is the part of its prompt's data that is its copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .copies import HALF, distances, spacing
from .draws import decode, encode
from .methods.images import Images, alike, as_unseen
from .models import Denoiser
from .pictures import read_pictures

UNSEEN = "unseen"
SAME = 0.01  # pictures nearer than this are one picture, read or decoded twice
Pictures = Tensor | Sequence[Any]


@dataclass(frozen=True)
class Task:
    """Draws (n, ...) as the network sees them, a prompt for each; ``levels`` and ``shares`` (m,), or None: to be found.

    ``held_out``: like the images, never trained on; levels None asks to be as surprising as these, in the mean or at
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


def task_of(
    denoiser: Denoiser,
    images: Pictures,
    *,
    prompts: str | Sequence[str] = "",
    data: Pictures | None = None,
    data_prompts: str | Sequence[str] | None = None,
    held_out: Pictures | None = None,
    held_out_prompts: str | Sequence[str] | None = None,
    levels: str | float | Sequence[float] = UNSEEN,
    shares: float | Sequence[float] | None = None,
) -> Task:
    """Everything read and checked, nothing drawn. ``ValueError`` naming the argument that does not fit."""
    forget = _draws(denoiser, "images", images)
    m = len(forget)
    if not m:
        raise ValueError("images must hold at least one image, got none")
    own = _texts("prompts", prompts, m)
    common = own[0] if len(set(own)) == 1 else None

    def others(name: str, given: Pictures | None, texts: str | Sequence[str] | None) -> tuple[Tensor, tuple[str, ...]]:
        if given is None:
            return forget[:0], ()
        some = _draws(denoiser, name, given)
        if texts is None and common is None:
            raise ValueError(f"{name}_prompts must be given where images have different prompts")
        return some, _texts(f"{name}_prompts", common if texts is None else texts, len(some))  # type: ignore[arg-type]

    rest, rest_prompts = others("data", data, data_prompts)
    unseen, unseen_prompts = others("held_out", held_out, held_out_prompts)
    if not denoiser.worded and any((*own, *rest_prompts, *unseen_prompts)):
        raise ValueError(f"prompts: {type(denoiser.pipeline).__name__} takes none, so none can be given")
    wanted = quantile = None
    if isinstance(levels, str):
        quantile = _quantile(levels)
        if not len(unseen):
            raise ValueError(f"levels {UNSEEN!r} needs held_out: images of the same kind that were never trained on")
    else:
        wanted = _numbers("levels", levels, m)
        if not (np.isfinite(wanted) & (wanted > 0)).all():
            raise ValueError(f"levels must be positive (nats above the present surprise), got {wanted.tolist()}")
    part = None if shares is None else _numbers("shares", shares, m)
    if part is not None and not ((part > 0) & (part < 1)).all():
        raise ValueError(f"shares must lie strictly between 0 and 1, got {part.tolist()}")
    return Task(forget, own, rest, rest_prompts, unseen, unseen_prompts, wanted, quantile, part)


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


def _draws(denoiser: Denoiser, name: str, given: Pictures) -> Tensor:
    if isinstance(given, Tensor):
        if tuple(given.shape[1:]) != denoiser.sample_shape:
            raise ValueError(f"{name} must have shape (n, *{denoiser.sample_shape}), got {tuple(given.shape)}")
        return given.float().cpu()
    if isinstance(given, str | Path) or not len(given):
        raise ValueError(f"{name} must be a list of pictures (paths or Pillow images) or a tensor, got {given!r}")
    try:
        pictures = read_pictures(denoiser.pipeline, given)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return encode(denoiser.pipeline, pictures)


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


@dataclass(frozen=True)
class Settled:
    """What is forgotten among what, and what a copy is.

    ``spacing``: see :mod:`diffusion.copies`; ``as_near`` (m,): the part of other data that would count as copies, NaN
    without data.
    ``shares_stderr`` (m,): 0 where a share was given, or counted in the data.
    """

    images: Images
    levels: np.ndarray
    spacing: float
    as_near: np.ndarray
    shares_stderr: np.ndarray


def settled(denoiser: Denoiser, task: Task, drawn: Tensor, drawn_prompts: Sequence[str]) -> Settled:
    """``drawn`` (n, ...): draws of the model under the images' prompts, for what the task leaves open.

    Raises ``ValueError`` where shares are neither said nor seen, or there is nothing to be forgotten.
    """
    pictures = decode(denoiser.pipeline, task.images)
    shown = decode(denoiser.pipeline, drawn)
    under = np.array([[text == own for own in task.prompts] for text in drawn_prompts])
    reference = decode(denoiser.pipeline, _some(task.data, 1000)) if len(task.data) >= 3 else None
    unit = spacing(shown if reference is None else reference)
    as_near = np.full(len(pictures), np.nan) if reference is None else _as_near(reference, pictures, unit)
    copied = (distances(shown, pictures, unit) <= HALF) & under

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
            "among the data of its prompt or the draws of the model"
        )
    images = Images(task.images, shares, torch.cat(data), task.prompts, tuple(texts))
    levels = task.levels
    if levels is None:
        levels = as_unseen(denoiser, images, task.held_out, task.held_out_prompts, quantile=task.quantile)
        if not (levels > 0).any():
            raise ValueError(
                "levels: every image is already as surprising as held-out ones; nothing is to be forgotten"
            )
    return Settled(images, levels, unit, as_near, errors)


def _as_near(reference: np.ndarray, pictures: np.ndarray, unit: float) -> np.ndarray:
    """Of pictures of the data that are not an image itself, the part that lies as near to it as a copy (m,)."""
    far = distances(reference, pictures, unit)
    other = far > SAME
    return np.asarray(((far <= HALF) & other).sum(0) / np.maximum(other.sum(0), 1))


def _some(draws: Tensor, most: int) -> Tensor:
    return draws[:: -(-len(draws) // most)]
