"""The embedded classifier of renderings as a detector: ``"wardrobe:sneaker"``, ``"wardrobe:sketch"``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from diffusion.tasks.detectors import DifferentiableDetector, LogOdds, one_against_rest
from diffusion.wardrobe.classifiers import CNNClassifier
from diffusion.wardrobe.photographs import OBJECTS
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES

#: The classifier that is behind every detector here.
CLASSIFIER = CNNClassifier.name


def detector(name: str) -> DifferentiableDetector:
    """Whether images (n, 3, 32, 32) in [-1, 1] show the object, style or background of that name: zeros and ones (n,).

    By the convolutional network, whose log odds of it are had with a gradient. ``ValueError`` for a name that is none
    of them.
    """
    known = (OBJECTS, STYLES, BACKGROUNDS)
    axis = next((k for k, names in enumerate(known) if name in names), None)
    if axis is None:
        raise ValueError(f"detector 'wardrobe:{name}': known are {', '.join(one for names in known for one in names)}")
    classifier, number = CNNClassifier(), known[axis].index(name)
    return DifferentiableDetector(lambda images: classifier(images)[:, axis] == number, log_odds_of({axis: number}))


def log_odds_of(numbers: Mapping[int, int]) -> LogOdds:
    """By the convolutional network, of a class by number on each of the axes (object, style, background) given.

    ``log p - log(1 - p)``, p the product of the axes' probabilities.
    """
    network = CNNClassifier().network.requires_grad_(False)  # one of its own, which may be moved to a device

    def log_odds(images: Tensor) -> Tensor:
        scores = network.to(images.device)(images)
        each = [one_against_rest(scores[axis], number) for axis, number in numbers.items()]
        if len(each) == 1:
            return each[0]
        # Where rounding would say certainty it is cut.
        both = torch.stack([nn.functional.logsigmoid(one) for one in each]).sum(0).clamp_max(-1e-6)
        return both - torch.log(-torch.expm1(both))

    return log_odds
