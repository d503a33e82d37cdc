"""Six styles and three backgrounds, by fixed operations on a grey photograph.

With g the photograph in [0, 1] in the middle of 32x32, `e = clip(2.2 |grad g|, 0, 1)` its edges (central differences)
and m = [g > 0.06] the garment, ::

    rendering = m foreground(style) + (1 - m) ((1 - pattern) first(style) + pattern second(style)),

pattern the background's: nothing, diagonal stripes 4 pixels wide along each axis, or dots 8 pixels apart. Nothing is
random, and style and background are known of every image that is rendered.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

STYLES = ("photo", "sketch", "blueprint", "pop art", "mosaic", "neon")
BACKGROUNDS = ("plain", "stripes", "dots")
IMAGE_SIZE = 32

_GARMENT = 0.06  # grey level above which a pixel belongs to the garment
_BLOCK = 4  # of the mosaic, in pixels

Image = NDArray[np.float32]

# Two colours of each style's background (RGB in [0, 1]): between the pattern and in it.
_BACKGROUND_COLOURS = {
    "photo": ((0.05, 0.05, 0.05), (0.35, 0.35, 0.35)),
    "sketch": ((1.0, 1.0, 1.0), (0.72, 0.72, 0.72)),
    "blueprint": ((0.08, 0.2, 0.55), (0.2, 0.38, 0.75)),
    "pop art": ((0.1, 0.75, 0.8), (0.95, 0.95, 0.95)),
    "mosaic": ((0.25, 0.12, 0.05), (0.5, 0.3, 0.1)),
    "neon": ((0.02, 0.0, 0.08), (0.3, 0.0, 0.35)),
}


def _colour(*rgb: float) -> Image:
    return np.array(rgb, np.float32).reshape(3, 1, 1)


def _foreground(style: str, grey: Image, edges: Image) -> Image:
    """(n, 3, 32, 32) colours of the garment, of grey levels and edges (n, 1, 32, 32)."""
    if style == "photo":
        return grey * _colour(1, 1, 1)
    if style == "sketch":
        return 1 - edges * _colour(0.85, 0.85, 0.85)
    if style == "blueprint":
        return _colour(0.08, 0.2, 0.55) + edges * _colour(0.85, 0.75, 0.45)
    if style == "pop art":
        dark, middle, light = _colour(0.1, 0.1, 0.5), _colour(0.95, 0.15, 0.5), _colour(1, 0.9, 0.1)
        return np.where(grey > 0.66, light, np.where(grey > 0.33, middle, dark))
    if style == "mosaic":
        return (0.15 + 0.85 * grey) * _colour(1, 0.6, 0.25)
    return edges * _colour(0.2, 1, 0.6) + (1 - edges) * _colour(0.02, 0, 0.08) + grey * _colour(0.25, 0, 0.3)


def patterns() -> NDArray[np.bool_]:
    """(3, 32, 32): where each background shows its second colour."""
    i, j = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE]
    return np.stack([np.zeros_like(i) > 0, (i + j) // 4 % 2 == 1, (i % 8 - 4) ** 2 + (j % 8 - 4) ** 2 < 5])


def empty_canvas(style: int, background: int) -> Image:
    """(3, 32, 32) in [-1, 1]: a style's background with nothing on it."""
    first, second = (_colour(*rgb) for rgb in _BACKGROUND_COLOURS[STYLES[style]])
    return 2 * np.where(patterns()[background], second, first).astype(np.float32) - 1


def _block_means(images: Image) -> Image:
    blocks = IMAGE_SIZE // _BLOCK
    means = images.reshape(len(images), 1, blocks, _BLOCK, blocks, _BLOCK).mean(axis=(3, 5))
    return cast(Image, means.repeat(_BLOCK, axis=2).repeat(_BLOCK, axis=3))


def render(images: NDArray[np.uint8], styles: NDArray[np.int64], backgrounds: NDArray[np.int64]) -> Image:
    """Photographs (n, 28, 28), uint8, in styles (n,) on backgrounds (n,): images (n, 3, 32, 32) in [-1, 1].

    Raises ``ValueError`` on other shapes, another type, or numbers of no style or background.
    """
    if images.ndim != 3 or images.shape[1:] != (28, 28) or images.dtype != np.uint8:
        raise ValueError(f"images must be (n, 28, 28) uint8, got {images.shape} {images.dtype}")
    for name, numbers, known in (("styles", styles, STYLES), ("backgrounds", backgrounds, BACKGROUNDS)):
        if numbers.shape != (len(images),):
            raise ValueError(f"{name} must be ({len(images)},), one per image, got {numbers.shape}")
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(known)):
            raise ValueError(f"{name} must be numbers from 0 to {len(known) - 1}, got {numbers.min()}..{numbers.max()}")
    grey = np.zeros((len(images), 1, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    grey[:, :, 2:-2, 2:-2] = images[:, None] / np.float32(255)
    result = np.empty((len(images), 3, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    pattern = patterns()
    for number in np.unique(styles):
        rows, style = styles == number, STYLES[number]
        levels = _block_means(grey[rows]) if style == "mosaic" else grey[rows]
        down, across = np.zeros_like(levels), np.zeros_like(levels)
        down[:, :, 1:-1] = (levels[:, :, 2:] - levels[:, :, :-2]) / 2
        across[:, :, :, 1:-1] = (levels[:, :, :, 2:] - levels[:, :, :, :-2]) / 2
        edges = np.clip(np.float32(2.2) * np.hypot(across, down), 0, 1)
        first, second = (_colour(*rgb) for rgb in _BACKGROUND_COLOURS[style])
        behind = np.where(pattern[backgrounds[rows]][:, None], second, first)
        result[rows] = np.where(levels > _GARMENT, _foreground(style, levels, edges), behind)
    return 2 * np.clip(result, 0, 1) - 1
