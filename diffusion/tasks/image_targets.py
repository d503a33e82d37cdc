"""Images to be forgotten with every level and share known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffusion.tasks.image_set import Images


@dataclass(frozen=True)
class ImageTargets:
    """What is forgotten among what, and what a copy is.

    ``spacing``: see :mod:`diffusion.evaluation.near_duplicates`; ``as_near`` (m,): the part of other data that would
    count as copies, NaN without data.
    ``shares_stderr`` (m,): 0 where a share was given, or counted in the data.
    """

    images: Images
    levels: np.ndarray
    spacing: float
    as_near: np.ndarray
    shares_stderr: np.ndarray
