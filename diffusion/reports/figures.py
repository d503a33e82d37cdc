"""Sheets of images as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def sheet(images: NDArray[np.float32], columns: int, pad: int = 2) -> NDArray[np.uint8]:
    """Images (n, 3 or 1, h, w) in [-1, 1] on one sheet (H, W, 3), row by row, on white."""
    n, _, h, w = images.shape
    lines = -(-n // columns)
    page = np.full((lines * (h + pad) + pad, columns * (w + pad) + pad, 3), 255, np.uint8)
    for j, image in enumerate(images):
        top, left = pad + (j // columns) * (h + pad), pad + (j % columns) * (w + pad)
        shown = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)
        page[top : top + h, left : left + w] = shown.transpose(1, 2, 0)
    return page


def save_images(
    path: Path, panels: Sequence[tuple[str, NDArray[np.float32]]], columns: int, panel_columns: int = 2
) -> None:
    """A PNG with one titled sheet per panel."""
    from matplotlib.figure import Figure

    lines = -(-len(panels) // panel_columns)
    first = sheet(panels[0][1], columns)
    width = 3.6 * panel_columns
    height = lines * (3.6 * first.shape[0] / first.shape[1] + 0.35)
    figure = Figure(figsize=(width, height), layout="constrained", dpi=160)
    for index, (title, images) in enumerate(panels):
        axes = figure.add_subplot(lines, panel_columns, index + 1)
        axes.imshow(sheet(images, columns), interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.axis("off")
    figure.savefig(path, format="png")


def save_each(folder: Path, images: NDArray[np.float32]) -> None:
    """Images (n, 3 or 1, h, w) in [-1, 1] as ``00000.png``, ...: RGB, or grey where there is one channel."""
    from PIL import Image

    for j, image in enumerate(images):
        shown = ((image.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).round().astype(np.uint8)
        Image.fromarray(shown[..., 0] if shown.shape[-1] == 1 else shown).save(folder / f"{j:05d}.png")
