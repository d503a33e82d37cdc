"""Pictures from files, for tasks that are given by pictures: read as they are, never resized or converted silently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .draws import picture_shape

# Pillow's mode for each number of channels.
MODES = {1: "L", 3: "RGB"}


def read_pictures(pipeline: Any, pictures: Sequence[Any]) -> Tensor:
    """Pictures (n, c, height, width) in [-1, 1], float32, ``2 v / 255 - 1``, of the size that the pipeline draws.

    ``pictures``: paths, or Pillow images. Raises ``ValueError`` naming the first that cannot be read or has another
    size or mode than the pipeline draws, before any is used. :func:`diffusion.draws.encode` makes draws of them.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(pictures, str | Path) or not len(pictures):
        raise ValueError(f"pictures must be a list of paths or images with at least one, got {pictures!r}")
    channels, height, width = picture_shape(pipeline)
    wanted = MODES.get(channels)
    if wanted is None:
        raise ValueError(f"the pipeline draws {channels} channels, which no picture file has")
    rows: list[Tensor] = []
    for picture in pictures:
        name = repr(str(picture)) if isinstance(picture, str | Path) else f"picture {len(rows)}"
        try:
            image = Image.open(picture) if isinstance(picture, str | Path) else picture
            image.load()
        except (OSError, UnidentifiedImageError, AttributeError) as error:
            raise ValueError(f"{name} cannot be read as a picture: {error}") from error
        if image.mode != wanted or image.size != (width, height):
            raise ValueError(
                f"{name} must have mode {wanted} and {width}x{height} pixels, got mode {image.mode} and "
                f"{image.size[0]}x{image.size[1]}: convert and resize it first"
            )
        values = np.asarray(image, np.float32).reshape(height, width, channels)
        rows.append(torch.from_numpy(2 * values / 255 - 1).permute(2, 0, 1))
    return torch.stack(rows)
