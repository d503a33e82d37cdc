"""Images from files, for tasks that are given by images: read as they are, never resized or converted silently."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion.pipelines.latents import image_shape
from diffusion.runtime.files import say

# Pillow's mode for each number of channels.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def read_images(pipeline: Any, images: Sequence[Any]) -> Tensor:
    """Images (n, c, height, width) in [-1, 1], float32, ``2 v / 255 - 1``, of the size that the pipeline makes.

    ``images``: paths, or Pillow images, turned as their EXIF data say. Raises ``ValueError`` naming the first that
    cannot be read or has another size or mode than the pipeline makes, before any is used.
    :func:`diffusion.pipelines.latents.encode` makes samples of them.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(images, str | Path) or not len(images):
        raise ValueError(f"images must be a list of paths or images with at least one, got {images!r}")
    channels, height, width = image_shape(pipeline)
    wanted = MODES.get(channels)
    if wanted is None:
        raise ValueError(f"the pipeline makes {channels} channels, which no image file has")
    rows: list[Tensor] = []
    for image in images:
        name = repr(str(image)) if isinstance(image, str | Path) else f"image {len(rows)}"
        try:
            image = Image.open(image) if isinstance(image, str | Path) else image
            image.load()
            image = ImageOps.exif_transpose(image)  # as a viewer turns it
        except (OSError, UnidentifiedImageError, AttributeError) as error:
            raise ValueError(f"{name} cannot be read as an image: {error}") from error
        if image.mode != wanted or image.size != (width, height):
            raise ValueError(
                f"{name} must have mode {wanted} and {width}x{height} pixels, got mode {image.mode} and "
                f"{image.size[0]}x{image.size[1]}: convert and resize it first"
            )
        values = np.asarray(image, np.float32).reshape(height, width, channels)
        rows.append(torch.from_numpy(2 * values / 255 - 1).permute(2, 0, 1))
    return torch.stack(rows)


# What lies beside images without being one.
TABLES = ("metadata.jsonl", "metadata.csv")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
# Images that Pillow does not read by itself.
UNREAD = (".heic", ".heif", ".jxl", ".svg", ".psd", ".raw", ".cr2", ".nef", ".arw", ".dng")
HIDDEN = "."  # what begins with it is no image of anybody's: ._a.png is macOS's note about a.png


def read_folder(path: Path, name: str) -> tuple[list[Path], list[str] | None]:
    """Paths of a folder's images in the order of their names, and their prompts where the folder says any.

    Files that look like images and cannot be read, and images in folders inside of it, are not left out silently: they
    are named on stderr. Hidden files are none.

    Prompts: column ``text`` of ``metadata.jsonl`` or ``metadata.csv``, rows named by ``file_name``. A file in the place
    of the folder is one image without a prompt. Raises ``ValueError`` naming ``name`` where there is nothing, no
    image, or an image without a row.
    """
    if path.is_file():
        return [path], None
    if not path.is_dir():
        raise ValueError(f"{name} {str(path)!r} is neither a file nor a folder")
    files = sorted(file for file in path.iterdir() if not file.name.startswith(HIDDEN))
    images = [file for file in files if file.suffix.lower() in SUFFIXES]
    below = [
        str(file.relative_to(path))
        for folder in files
        if folder.is_dir()
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(HIDDEN)
    ]
    unread = [file.name for file in files if file.suffix.lower() in UNREAD]
    for what, names in (("in folders inside of it", below), ("that Pillow does not read", unread)):
        if names:
            say(f"{name} folder {str(path)!r}: {len(names)} images {what} are left out, {names[0]!r} first")
    if not images:
        raise ValueError(f"{name} folder {str(path)!r} holds no images ({', '.join(SUFFIXES)})")
    table = next((path / some for some in TABLES if (path / some).is_file()), None)
    if table is None:
        return images, None
    texts = _texts(table)
    missing = [file.name for file in images if file.name not in texts]
    if missing:
        raise ValueError(f"{name}: {table} has no row with file_name and text for {missing[0]!r}")
    return images, [texts[file.name] for file in images]


def _texts(table: Path) -> dict[str, str]:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            rows = (
                list(csv.DictReader(file))
                if table.suffix == ".csv"
                else [json.loads(line) for line in file if line.strip()]
            )
        return {str(row["file_name"]): str(row["text"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{table} must have rows with file_name and text ({error!r})") from error


def gather(paths: Sequence[Path], name: str, prompt: str | None) -> tuple[list[Path], list[str]]:
    """Images of several files and folders with a prompt each: the folder's, or else ``prompt``, or else none.

    Raises ``ValueError`` as :func:`read_folder`, and where ``prompt`` is given for images that have prompts.
    """
    found: list[Path] = []
    texts: list[str] = []
    for path in paths:
        files, own = read_folder(path, name)
        if own is not None and prompt is not None:
            raise ValueError(f"{name}: {str(path)!r} has prompts of its own in a metadata file, and one was given")
        found += files
        texts += own or [prompt or ""] * len(files)
    return found, texts
