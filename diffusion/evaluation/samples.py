"""What a pipeline makes, counted: by the classifier that the problem was solved with, and by image classifiers with no
part in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffusion.evaluation.metrics import Frequency, frequency
from diffusion.pipelines.latents import decode
from duality.two_sample import energy_distance, energy_null

SHOWN = 96  # of a set that no image classifier looks at


class ImageClassifier(Protocol):
    """Independent classifiers of images, for models where such exist (``digits`` has two)."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def __call__(self, images: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]: ...

    def view(self, images: NDArray[np.float32]) -> NDArray[np.float32]: ...

    def asked(self, prompt: str) -> int | None: ...


@dataclass(frozen=True)
class SampleSet:
    """Samples of one condition of one pipeline, with everything that was said of them.

    ``images``: of all where an image classifier has counted them, else of the first :data:`SHOWN`. ``noise``: the seed
    of the noise they start from, where it is known: samples from common noise are related.
    """

    name: str
    prompts: tuple[str, ...]
    latents: Tensor
    images: NDArray[np.float32]
    said: dict[str, NDArray[np.int64]]
    noise: int | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def shows(self, wanted: Sequence[int]) -> dict[str, Frequency]:
        """How often each classifier finds one of the wanted classes."""
        return {classifier: frequency(np.isin(labels, wanted)) for classifier, labels in self.said.items()}

    def classes(self, count: int) -> dict[str, list[float]]:
        return {
            classifier: (np.bincount(labels, minlength=count) / len(self)).tolist()
            for classifier, labels in self.said.items()
        }


def take_samples(
    name: str,
    pipeline: Any,
    prompts: Sequence[str],
    latents: Tensor,
    image_classifier: ImageClassifier | None,
    noise: int | None = None,
) -> SampleSet:
    """Decode samples (n, ...) of a pipeline, one per prompt, and ask the image classifier, where there is one, what
    they show."""
    # What nobody counts is decoded as far as it may be shown: thousands of large images would fill any memory.
    images = decode(pipeline, latents if image_classifier else latents[:SHOWN])
    return SampleSet(name, tuple(prompts), latents, images, image_classifier(images) if image_classifier else {}, noise)


def agreement(sample: SampleSet, image_classifier: ImageClassifier) -> dict[str, Frequency]:
    """How often each classifier sees what the prompt asked for, over the prompts that ask for a class."""
    asked = [image_classifier.asked(prompt) for prompt in sample.prompts]
    keep = np.array([value is not None for value in asked])
    truth = np.array([value if value is not None else -1 for value in asked])
    return {classifier: frequency(labels[keep] == truth[keep]) for classifier, labels in sample.said.items()}


@dataclass(frozen=True)
class Retained:
    """How far the samples that do not show the concept have moved."""

    energy: float  # unbiased energy distance to the samples from before, in the image classifier's view
    floor: float  # 95 % quantile of the same between samples split at random
    class_shift: dict[str, float]  # largest change of a class's share among retained samples, per classifier


def retained(
    before: SampleSet, after: SampleSet, wanted: Sequence[int], image_classifier: ImageClassifier, seed: int
) -> Retained:
    """Compare the samples in which the last classifier sees none of the wanted classes.

    Where both start from common noise, sample j of one is related to sample j of the other. The floor is that of
    independent samples, and common noise scatters less.
    """
    classifier = list(after.said)[-1]
    rows = [np.flatnonzero(~np.isin(sample.said[classifier], wanted)) for sample in (before, after)]
    old, new = (image_classifier.view(sample.images[kept]) for sample, kept in zip((before, after), rows, strict=True))
    related = None
    if before.noise is not None and before.noise == after.noise:
        _, *places = np.intersect1d(rows[0], rows[1], assume_unique=True, return_indices=True)
        related = np.column_stack(places)
    floor = float(np.quantile(energy_null(old, new, 200, np.random.default_rng(seed)), 0.95))
    shift = {}
    for name in after.said:
        shares = []
        for sample in (before, after):
            count = np.bincount(sample.said[name], minlength=len(image_classifier.classes)).astype(float)
            count[list(wanted)] = 0
            shares.append(count / count.sum())
        shift[name] = float(np.abs(shares[1] - shares[0]).max())
    return Retained(energy_distance(old, new, related), floor, shift)


def weighted_frequency(sample: SampleSet, log_weights: NDArray[np.float64], wanted: Sequence[int]) -> dict[str, float]:
    """The share of the wanted classes in the *target*: samples of q under the solution's weights."""
    weights = np.exp(log_weights)
    return {classifier: float(weights @ np.isin(labels, wanted)) for classifier, labels in sample.said.items()}


Progress = Callable[[int], object]
