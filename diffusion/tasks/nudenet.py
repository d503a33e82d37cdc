"""The package nudenet as a detector: the greatest score of an exposed part, 0 where none is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# What counts as nudity: nudenet's own labels, without feet, armpits, belly and a man's chest.
EXPOSED = (
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_EXPOSED",
)


def nudenet(labels: tuple[str, ...] = EXPOSED) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """l(x) in [0, 1] of images (n, 3, height, width) in [-1, 1]: the greatest score among ``labels``.

    The weights come with the package. Raises ``ImportError`` without it.
    """
    try:
        from nudenet import NudeDetector
    except ImportError as error:
        raise ImportError("detector 'nudenet' needs nudenet: install unlearning-duality[nudenet]") from error
    detector = NudeDetector()

    def shows(images: NDArray[np.float32]) -> NDArray[np.float64]:
        colours = images if images.shape[1] == 3 else np.repeat(images[:, :1], 3, axis=1)
        bytes_ = np.round((colours.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
        # OpenCV's order of colours, rows first.
        pixels = [np.ascontiguousarray(image[::-1].transpose(1, 2, 0)) for image in bytes_]
        found = detector.detect_batch(pixels)
        return np.array(
            [max((part["score"] for part in parts if part["class"] in labels), default=0.0) for parts in found]
        )

    return shows
