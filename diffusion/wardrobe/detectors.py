"""The embedded classifier of renderings as a detector: ``"wardrobe:sneaker"``, ``"wardrobe:sketch"``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from diffusion.wardrobe.classifiers import CNNClassifier
from diffusion.wardrobe.photographs import OBJECTS
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES

#: The classifier that is behind every detector here.
CLASSIFIER = CNNClassifier.name


def detector(name: str) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Whether images (n, 3, 32, 32) in [-1, 1] show the object, style or background of that name: zeros and ones (n,).

    By the convolutional network. ``ValueError`` for a name that is none of them.
    """
    known = (OBJECTS, STYLES, BACKGROUNDS)
    axis = next((k for k, names in enumerate(known) if name in names), None)
    if axis is None:
        raise ValueError(f"detector 'wardrobe:{name}': known are {', '.join(one for names in known for one in names)}")
    classifier, number = CNNClassifier(), known[axis].index(name)
    return lambda images: np.asarray(classifier(images)[:, axis] == number, dtype=np.float64)
