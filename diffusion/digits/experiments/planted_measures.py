r"""Copies and quality, in the feature space of a network trained on real digits.

::

    similarity   s(x, u)  = <h(x) - hbar, h(u) - hbar> / (|h(x) - hbar| |h(u) - hbar|)

h (d,) the classifier network's penultimate features in units of their root mean square over the real training digits,
hbar their mean over these. Quality is :mod:`diffusion.evaluation.kid` on the same features.

Source: Pizzi et al., SSCD (CVPR 2022), whose similarity plays this part for photographs.
"""

from __future__ import annotations

from functools import cache
from typing import cast

import numpy as np
import torch
from torch import Tensor

from diffusion.digits.classifiers import CNNClassifier, DigitNetwork
from diffusion.digits.data import load_digits
from diffusion.evaluation.kid import Array


@cache
def _network() -> tuple[DigitNetwork, float, Array]:
    """The network, the root mean square of its features on real digits, and their mean in units of that."""
    network = CNNClassifier().network
    with torch.no_grad():
        seen = network.features(torch.from_numpy(load_digits("train").images)).double().numpy()
    unit = float(np.sqrt(np.mean(seen**2)))
    return network, unit, cast(Array, seen.mean(0) / unit)


def features(images: Tensor) -> Array:
    """``h(x)`` (n, 64) of images (n, 1, 8, 8) in [-1, 1]."""
    network, unit, _ = _network()
    with torch.no_grad():
        return cast(Array, network.features((images[:, 0].float() + 1) / 2).double().numpy() / unit)


def similarity(one: Array, two: Array) -> Array:
    """``s`` (n, k) between features (n, d) and (k, d), in [-1, 1]."""
    centre = _network()[2]
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (one - centre, two - centre))
    return cast(Array, a @ b.T)
