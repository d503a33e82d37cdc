r"""Whether a sample is a copy of an image: its distance to it, in units of how near images of the data are to others.

::

    s       = median over images y of the data of  mean over the k = 50 nearest others y' of |y - y'|
    d(x, u) = |x - u| / s,        a copy where d ≤ 1/2

Euclidean, between images averaged down to at most 32 pixels a side, so that grain does not hide a copy. The median
is over images, so that s is not that of the copies among them, as long as these are fewer than half. The criterion
sees copies of whole images: not parts, mirror images or styles.

Source: the nearest-neighbour ratio of Carlini et al., Extracting Training Data from Diffusion Models (USENIX Security
2023), there with the neighbours of each image.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

SIDE = 32
NEAREST = 50
HALF = 0.5

Array = NDArray[np.float64]


def small(images: ArrayLike) -> Array:
    """Images (n, c, h, w), averaged down to at most 32 pixels a side, as rows (n, d).

    Raises ``ValueError`` for another number of axes or values that are not finite.
    """
    values = np.asarray(images, np.float64)
    if values.ndim != 4 or not np.isfinite(values).all():
        raise ValueError(f"images must be finite and have shape (n, c, h, w), got {values.shape}")
    _, _, height, width = values.shape
    kept = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(values), (min(height, SIDE), min(width, SIDE)))
    return cast(Array, kept.flatten(1).numpy())


def spacing(images: ArrayLike, most: int = 1000) -> float:
    """``s`` of images (n, c, h, w), at least three; of more than ``most`` only every so many are looked at.

    Raises ``ValueError`` where there are fewer, or more than half of them are alike.
    """
    rows = small(images)
    rows = rows[:: -(-len(rows) // most)]
    if len(rows) < 3:
        raise ValueError(f"images must be at least three, to tell how near they are to each other, got {len(rows)}")
    others = np.sort(cdist(rows, rows), axis=1)[:, 1 : NEAREST + 1]
    value = float(np.median(others.mean(1)))
    if not value > 0:
        raise ValueError("images must not be alike for the most part: nothing tells a copy from another sample")
    return value


def distances(drawn: ArrayLike, images: ArrayLike, spacing: float) -> Array:
    """``d`` (n, m) between samples (n, c, h, w) and images (m, c, h, w)."""
    return cast(Array, cdist(small(drawn), small(images)) / spacing)
