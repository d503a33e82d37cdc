"""Fixed features of an image, for the kernel classifier: means of colours, and orientations of gradients.

For the second, an image x is first turned into how far each pixel is from the empty background of its style,
`d = mean_c |x_c - empty_c|`, in which an object looks alike on every background. Of grad d come histograms of
orientation over cells of 4x4 pixels, each pixel's length shared between the two next of nine directions (Dalal,
Triggs, 2005), each histogram scaled by the root mean square of its 3x3 neighbourhood; beside them stand 2x2 means of
d itself.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from diffusion.wardrobe.rendering import BACKGROUNDS, IMAGE_SIZE, STYLES, empty_canvas

DIRECTIONS = 9
_CELL = 4

Array = NDArray[np.float32]


def _means(images: Array, size: int) -> Array:
    """(n, c, 32, 32) to means over blocks (n, c, 32 / size, 32 / size)."""
    n, channels = images.shape[:2]
    blocks = IMAGE_SIZE // size
    return cast(Array, images.reshape(n, channels, blocks, size, blocks, size).mean(axis=(3, 5)))


def colour_means(images: Array) -> Array:
    """2x2 means of the colours (n, 768) of images (n, 3, 32, 32)."""
    return _means(images, 2).reshape(len(images), -1)


def orientations(images: Array, styles: NDArray[np.int64], backgrounds: NDArray[np.int64]) -> Array:
    """Features (n, 832) of images (n, 3, 32, 32), each of a known style and background."""
    empty = np.stack([[empty_canvas(s, b) for b in range(len(BACKGROUNDS))] for s in range(len(STYLES))])
    distance = np.abs(images - empty[styles, backgrounds]).mean(axis=1)
    down, across = np.zeros_like(distance), np.zeros_like(distance)
    down[:, 1:-1] = distance[:, 2:] - distance[:, :-2]
    across[:, :, 1:-1] = distance[:, :, 2:] - distance[:, :, :-2]
    length = np.hypot(down, across)
    place = (np.arctan2(down, across) % np.pi) * (DIRECTIONS / np.pi)
    lower = np.floor(place).astype(int)
    above = (place - lower).astype(np.float32)
    shares = np.zeros((len(images), DIRECTIONS, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for direction in range(DIRECTIONS):  # the next direction after the last is the first again
        shares[:, direction] = length * (1 - above) * (lower % DIRECTIONS == direction)
        shares[:, direction] += length * above * ((lower + 1) % DIRECTIONS == direction)
    histograms = _means(shares, _CELL)
    energy = uniform_filter(np.square(histograms).sum(axis=1), size=(0, 3, 3), mode="nearest")
    histograms = histograms / np.sqrt(energy + 1e-3)[:, None]
    return np.concatenate(
        [histograms.reshape(len(images), -1), _means(distance[:, None], 2).reshape(len(images), -1)], 1
    )
