"""The embedded digit classifier as a detector: ``"digits:seven"``."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion.digits.classifiers import CNNClassifier
from diffusion.digits.data import WORDS, shrink
from diffusion.tasks.detectors import DifferentiableDetector, one_against_rest

#: The classifier that is behind every detector here.
CLASSIFIER = CNNClassifier.name


def detector(name: str) -> DifferentiableDetector:
    """Whether images (n, 3, 32, 32) in [-1, 1] show the digit of that name, by the small CNN: zeros and ones (n,).

    Its log odds are had with a gradient. ``ValueError`` for a name that is none of the ten.
    """
    if name not in WORDS:
        raise ValueError(f"detector 'digits:{name}': the digits are {', '.join(WORDS)}")
    classifier, digit = CNNClassifier(), WORDS.index(name)

    network = deepcopy(classifier.network).requires_grad_(False)  # may be moved to a device

    def shows(images: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.asarray(classifier(shrink(images)) == digit)

    def log_odds(images: Tensor) -> Tensor:
        # As `shrink`, but for what it cuts off, and with it the gradient.
        grey = nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 8)[:, 0]
        return one_against_rest(network.to(images.device)((grey + 1) / 2), digit)

    return DifferentiableDetector(shows, log_odds)
