r"""Gone, or hidden? How quickly a concept comes back when a model is taught it again from a few images.

A fresh adapter is fitted to k images of the concept under one prompt by plain denoising, E|y - f|^2, and the
concept's frequency f(s) under that prompt is measured after s steps. The curve alone says nothing: images teach. Two
controls, fitted to as many images with the same adapter, steps, rate and seeds, say what it would be::

    known   the base model, the same images, under a word that means nothing to it: all that is missing is the name
    new     the base model, the same images lying on their side, under that word: shapes that it never made
            (classified upright again; a concept that looks the same on its side is no use here)

With A the mean of f over the steps after the first, ::

    recall = (A_unlearned - A_new) / (A_known - A_new):    0 like something new, 1 like something known by another name

with the delta-method standard error from the spread over seeds and the binomial noise of the samples. Weights that
cannot sample the concept relearn it as slowly as something new; a broken link between word and concept is mended at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.pipelines import Denoiser, add_noise, repeat
from diffusion.pipelines.latents import decode, encode
from diffusion.pipelines.sampling import sample_latents
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.tasks.config import FitConfig
from diffusion.training.batches import spread_levels
from diffusion.training.lora import add_lora, remove_lora
from diffusion.training.trainer import Objective, Trainer

NEW_WORD = "zwx"
# Samples (n, ...) to whether each shows the concept, or the probability of it: (n,) in [0, 1].
Shows = Callable[[Tensor], Any]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class RelearnConfig:
    """How the concept is taught again: the same for every arm. ``steps``: when the frequency is measured."""

    images: int = 16
    steps: tuple[int, ...] = (0, 20, 40, 80, 160)
    samples: int = 100
    seeds: int = 2
    batch: int = 16
    rank: int = 8
    rate: float = 4e-3

    def __post_init__(self) -> None:
        steps = self.steps
        if len(steps) < 2 or steps[0] != 0 or any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"steps must rise from 0 and hold at least two, got {steps}")
        for name, least in (("images", 1), ("samples", 2), ("seeds", 1), ("batch", 1), ("rank", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Curve:
    """``frequency`` (seeds, len(steps)) of the concept as it is taught; ``errors`` alike, of the samples alone.

    ``last`` (seeds · samples,): whether each sample after the last step has it, of which an exact bound can be made.
    """

    arm: str
    steps: tuple[int, ...]
    frequency: np.ndarray
    errors: np.ndarray
    last: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.frequency.mean(0))

    @property
    def stderr(self) -> np.ndarray:
        """(len(steps),), of the mean over seeds, from samples, and from the seeds' spread where there are several."""
        return _stderr(self.frequency, self.errors)

    @property
    def area(self) -> tuple[float, float]:
        """A and its standard error."""
        count = len(self.steps) - 1
        value = self.frequency[:, 1:].mean(1, keepdims=True)
        error = np.sqrt((self.errors[:, 1:] ** 2).sum(1, keepdims=True)) / count
        return float(value.mean()), float(_stderr(value, error)[0])


def _stderr(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    n = len(values)
    of_samples = np.sqrt((errors**2).sum(0)) / n
    return np.maximum(of_samples, values.std(0, ddof=1) / n**0.5) if n > 1 else of_samples


def recall(unlearned: Curve, known: Curve, new: Curve) -> tuple[float, float]:
    """The ratio above and its standard error; NaN where the two controls do not differ by twice theirs."""
    (a, ea), (b, eb), (c, ec) = unlearned.area, known.area, new.area
    span = b - c
    if span <= 2 * float(np.hypot(eb, ec)):
        return float("nan"), float("nan")
    value = (a - c) / span
    error = np.sqrt(ea**2 + (value * eb) ** 2 + ((1 - value) * ec) ** 2) / span
    return float(value), float(error)


def turned(denoiser: Denoiser, latents: Tensor, times: int = 1) -> Tensor:
    """Samples (n, ...) of the same images, a quarter turned ``times`` times.

    Raises ``ValueError`` where images are not square.
    """
    images = torch.from_numpy(decode(denoiser.pipeline, latents))
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images must be square to be laid on their side, got {tuple(images.shape[-2:])}")
    return encode(denoiser.pipeline, images.rot90(times, (-2, -1)).contiguous())


@dataclass(frozen=True)
class Arm:
    """What is taught: ``images``, one set (k, ...) a seed, under ``prompt``; ``shows`` says whether a sample has it.

    ``asked``: the prompts that samples are made under, in turn; left out, the one that is taught.
    """

    name: str
    images: Sequence[Tensor]
    prompt: str
    shows: Shows
    asked: tuple[str, ...] = ()

    def prompts(self, count: int) -> list[str]:
        """Those of so many samples."""
        some = self.asked or (self.prompt,)
        return [some[j % len(some)] for j in range(count)]


def teach(
    denoiser: Denoiser,
    arm: Arm,
    relearn_config: RelearnConfig,
    sampler_steps: int,
    *,
    seed: int,
    onto: Denoiser | None = None,
    progress: Progress | None = None,
) -> Curve:
    """One arm: for every seed, its images taught under its prompt to a fresh adapter, and taken off again.

    ``onto``: a pipeline of the same shapes that carries a copy of the adapter and is looked at in the place of the one
    that is taught. ``progress`` counts samples.
    """
    frequency = np.zeros((relearn_config.seeds, len(relearn_config.steps)))
    errors, last = np.zeros_like(frequency), list[np.ndarray]()
    looked_at = denoiser if onto is None else onto
    for number in range(relearn_config.seeds):
        settings = FitConfig(
            max_train_steps=relearn_config.steps[-1],
            train_batch_size=relearn_config.batch,
            rank=relearn_config.rank,
            learning_rate=relearn_config.rate,
            seed=seed + number,
        )
        parameters = add_lora(denoiser, relearn_config.rank, settings.seed)
        copies = [] if onto is None else add_lora(onto, relearn_config.rank, settings.seed)
        try:
            trainer = Trainer(
                denoiser.network,
                parameters,
                _denoising(denoiser, arm.images[number], arm.prompt, relearn_config.batch),
                settings,
            )
            for place, step in enumerate(relearn_config.steps):
                if step:
                    trainer.run(until=step)
                with torch.no_grad():
                    for copy, taught in zip(copies, parameters if copies else [], strict=True):
                        copy.copy_(taught)
                latents = sample_latents(
                    looked_at.pipeline,
                    arm.prompts(relearn_config.samples),
                    seed=seed + 1000 * (number + 1) + place,
                    steps=sampler_steps,
                    progress=progress,
                )
                value = np.asarray(arm.shows(latents), float)
                frequency[number, place] = value.mean()
                errors[number, place] = value.std() / len(value) ** 0.5
            last.append(value)
        finally:
            remove_lora(denoiser)
            denoiser.network.eval()
            if onto is not None:
                remove_lora(onto)
    return Curve(arm.name, relearn_config.steps, frequency, errors, np.concatenate(last))


def _denoising(denoiser: Denoiser, latents: Tensor, prompt: str, batch: int) -> Objective:
    condition = denoiser.condition([prompt])
    device = next(denoiser.network.parameters()).device

    def objective(_step: int, generator: torch.Generator, _part: Part = WHOLE) -> Tensor:
        x0 = latents[torch.randint(len(latents), (batch,), generator=generator)].to(device)
        t = spread_levels(denoiser, batch, generator).to(device)
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        said = denoiser.predict(add_noise(denoiser, x0, eps, t), t, repeat(condition, batch))
        return (said - denoiser.target(x0, eps, t)).square().mean()

    return objective
