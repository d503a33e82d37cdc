"""Two classifiers of different kind that say which object, style and background an image shows.

A convolutional network reads all three off the pixels. A kernel machine names style and background from 2x2 means of
the colours; then, of how far each pixel is from that empty background, it takes gradient orientations and names the
object by a machine of its own for each style. Both were trained on real training renderings alone and
take no part in training, ratios or guidance, so that what they report is independent evidence. The weights are made by
``python -m diffusion.wardrobe.experiments.train_classifiers``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion.wardrobe.features import colour_means, orientations
from diffusion.wardrobe.photographs import OBJECTS
from diffusion.wardrobe.rendering import BACKGROUNDS, IMAGE_SIZE, STYLES

CNN_WEIGHTS = Path(__file__).with_name("classifier_cnn.safetensors")
KERNEL_WEIGHTS = Path(__file__).with_name("classifier_kernel.safetensors")
AXES = ("object", "style", "background")


class Classifier(Protocol):
    """Names object, style and background of images."""

    name: str

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        """Numbers of object, style and background (n, 3) of images (n, 3, 32, 32) in [-1, 1]."""
        ...


class WardrobeNetwork(nn.Module):
    """Five convolutions on 2x2 pixels at a time, one linear head for each axis; ``features`` (n, 128) serve KID."""

    def __init__(self) -> None:
        super().__init__()

        def block(before: int, after: int, stride: int) -> list[nn.Module]:
            convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(after), nn.ReLU()]

        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            *block(12, 48, 1),
            *block(48, 96, 2),
            *block(96, 96, 1),
            *block(96, 128, 2),
            *block(128, 128, 1),
        )
        self.embed = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128 * 4, 128), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(128, len(known)) for known in (OBJECTS, STYLES, BACKGROUNDS))

    def features(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.embed(self.body(images)))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.features(images)
        return [head(features) for head in self.heads]


def _checked(images: NDArray[np.float32]) -> NDArray[np.float32]:
    if images.ndim != 4 or images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"images must have shape (n, 3, {IMAGE_SIZE}, {IMAGE_SIZE}), got {images.shape}")
    return np.ascontiguousarray(images, np.float32)


def _in_batches(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [images[start : start + 500] for start in range(0, len(images), 500)]


class CNNClassifier:
    """The argmax of each head of :class:`WardrobeNetwork`."""

    name = "CNN"

    def __init__(self, weights: Path = CNN_WEIGHTS) -> None:
        from safetensors.torch import load_file

        self.network = WardrobeNetwork()
        self.network.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
        self.network.eval()

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        parts = [np.zeros((0, len(AXES)), np.int64)]
        with torch.no_grad():
            for part in _in_batches(_checked(images)):
                scores = self.network(torch.from_numpy(part))
                parts.append(torch.stack([score.argmax(-1) for score in scores], dim=1).numpy())
        return np.concatenate(parts)

    def features(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Penultimate features (n, 128)."""
        parts = [np.zeros((0, 128), np.float32)]
        with torch.no_grad():
            parts += [self.network.features(torch.from_numpy(part)).numpy() for part in _in_batches(_checked(images))]
        return np.concatenate(parts)


def lifted(
    x: NDArray[np.float32],
    mean: NDArray[np.float32],
    components: NDArray[np.float32],
    frequencies: NDArray[np.float32],
    phases: NDArray[np.float32],
) -> NDArray[np.float32]:
    """``[cos((x - mean) components frequencies + phases), 1]`` (n, D + 1): random Fourier features of x (n, d)."""
    waves = np.cos((x - mean) @ components @ frequencies + phases)
    return np.concatenate([waves, np.ones((len(x), 1), np.float32)], axis=1)


class KernelClassifier:
    r"""Ridge regression onto classes, of random Fourier features of an RBF kernel.

    .. math:: \text{scores} = [\cos((x - \mu) P W + b),\, 1]\, V

    with mu, P a principal component analysis, and W, b random (Rahimi, Recht, 2007). ``canvas.*`` names style and
    background together (18 classes); ``object.scores`` (6, D + 1, 8) is one V for each style.
    """

    name = "kernel machine"

    def __init__(self, weights: Path = KERNEL_WEIGHTS) -> None:
        from safetensors.numpy import load_file

        self.weights = {key: value.astype(np.float32) for key, value in load_file(weights).items()}

    def _lifted(self, what: str, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return lifted(x, *(self.weights[f"{what}.{key}"] for key in ("mean", "components", "frequencies", "phases")))

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        parts = [np.zeros((0, len(AXES)), np.int64)]
        for part in _in_batches(_checked(images)):
            canvas = (self._lifted("canvas", colour_means(part)) @ self.weights["canvas.scores"]).argmax(1)
            styles, backgrounds = np.divmod(canvas, len(BACKGROUNDS))
            waves = self._lifted("object", orientations(part, styles, backgrounds))
            objects = np.empty(len(part), np.int64)
            for style in np.unique(styles):
                rows = styles == style
                objects[rows] = (waves[rows] @ self.weights["object.scores"][style]).argmax(1)
            parts.append(np.stack([objects, styles, backgrounds], axis=1))
        return np.concatenate(parts)


@cache
def classifiers() -> tuple[CNNClassifier, KernelClassifier]:
    """Both, read once."""
    return CNNClassifier(), KernelClassifier()
