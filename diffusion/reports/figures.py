"""Sheets of images as PNG files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
COLOURS = ("#9aa5b1", "#0b5cad", "#c8553d", "#3a7d44")


@dataclass(frozen=True)
class Pairs:
    """Images (n, c, h, w) of one prompt, before and after, row j of both from the same noise."""

    title: str
    before: Images
    after: Images
    labels: tuple[str, str] = ("before", "after")


def sheet(images: Images, columns: int, pad: int = 2) -> NDArray[np.uint8]:
    """Images (n, c, h, w), c from 1 to 4, in [-1, 1] on one sheet (H, W, 3), row by row, on white."""
    n, _, h, w = images.shape
    lines = -(-n // columns)
    page = np.full((lines * (h + pad) + pad, columns * (w + pad) + pad, 3), 255, np.uint8)
    for j, image in enumerate(images):
        top, left = pad + (j // columns) * (h + pad), pad + (j % columns) * (w + pad)
        if len(image) in (2, 4):  # the last channel says how much is seen of it, on white here
            seen = (image[-1:] + 1) / 2
            image = seen * image[:-1] + (1 - seen)
        shown = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8)
        page[top : top + h, left : left + w] = shown.transpose(1, 2, 0)
    return page


def save_images(path: Path, panels: Sequence[tuple[str, Images]], columns: int, panel_columns: int = 2) -> None:
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
        axes.set_title(title, fontsize=9, parse_math=False)  # a prompt may hold a dollar sign
        axes.axis("off")
    figure.savefig(path, format="png")


def save_pairs(path: Path, pairs: Sequence[Pairs], panel_columns: int = 2) -> None:
    """A PNG with a strip for each prompt, its title: above what there was before, below what the same noise gives now.

    Raises ``ValueError`` where images before and after are not as many.
    """
    from matplotlib.figure import Figure

    for each in pairs:
        if each.before.shape != each.after.shape or not len(each.before):
            raise ValueError(f"pairs: {each.title!r} has shapes {each.before.shape} and {each.after.shape}")
    strips = [sheet(np.concatenate([each.before, each.after]), len(each.before)) for each in pairs]
    lines = -(-len(strips) // panel_columns)
    height = lines * max(3.6 * strip.shape[0] / strip.shape[1] + 0.4 for strip in strips)
    figure = Figure(figsize=(3.9 * panel_columns, height), layout="constrained", dpi=160)
    for index, (each, strip) in enumerate(zip(pairs, strips, strict=True)):
        axes = figure.add_subplot(lines, panel_columns, index + 1)
        axes.imshow(strip, interpolation="nearest")
        axes.set_title(textwrap.fill(each.title, 60), fontsize=8, parse_math=False)
        axes.set(xticks=[])
        axes.set_yticks([0.25 * strip.shape[0], 0.75 * strip.shape[0]], each.labels, fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.savefig(path, format="png")


def bars(shares: Mapping[str, Sequence[float]], classes: Sequence[str]) -> bytes:
    """Class shares side by side as a PNG; the legend lies above the axes, where no bar is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 3.0), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    width = 0.8 / len(shares)
    for j, ((name, values), colour) in enumerate(zip(shares.items(), COLOURS, strict=False)):
        places = [k + (j - (len(shares) - 1) / 2) * width for k in range(len(classes))]
        axes.bar(places, [100 * value for value in values], width, label=name, color=colour)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_ylabel("share of samples (%)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", frameon=False, ncols=len(shares))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def save_each(folder: Path, images: Images) -> None:
    """Images (n, c, h, w) in [-1, 1] as ``00000.png``, ...: grey, grey with alpha, RGB, RGBA by their channels."""
    from PIL import Image

    for j, image in enumerate(images):
        shown = ((image.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).round().astype(np.uint8)
        Image.fromarray(shown[..., 0] if shown.shape[-1] == 1 else shown).save(folder / f"{j:05d}.png")
