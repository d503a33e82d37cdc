"""The embedded digit classifier as a detector: ``"digits:seven"``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion.digits.classifiers import CNNClassifier
from diffusion.digits.data import WORDS, shrink

#: The classifier that is behind every detector here.
CLASSIFIER = CNNClassifier.name


def detector(name: str) -> Callable[[NDArray[np.float32]], NDArray[np.float64]]:
    """Whether images (n, 3, 32, 32) in [-1, 1] show the digit of that name, by the small CNN: zeros and ones (n,).

    ``ValueError`` for a name that is none of the ten.
    """
    if name not in WORDS:
        raise ValueError(f"detector 'digits:{name}': the digits are {', '.join(WORDS)}")
    classifier, digit = CNNClassifier(), WORDS.index(name)

    def shows(images: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.no_grad():
            return np.asarray(classifier(shrink(images)) == digit, dtype=np.float64)

    return shows
