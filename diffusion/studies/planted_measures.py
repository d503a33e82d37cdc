r"""Copies and quality, in the feature space of a network trained on real digits.

    similarity   s(x, u)  = <h(x) - hbar, h(u) - hbar> / (|h(x) - hbar| |h(u) - hbar|)
    KID          k(h, h') = (<h, h'>/d + 1)^3,    E k(X, X') + E k(Y, Y') - 2 E k(X, Y), unbiased

h (d,) the judge network's penultimate features in units of their root mean square over the real training digits, hbar
their mean over these.

Source: Binkowski et al., Demystifying MMD GANs (ICLR 2018), for KID; Pizzi et al., SSCD (CVPR 2022), whose similarity
plays this part for photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..digits.data import load_digits
from ..digits.judges import CNNJudge, DigitNetwork

Array = NDArray[np.float64]


@cache
def _network() -> tuple[DigitNetwork, float, Array]:
    """The network, the root mean square of its features on real digits, and their mean in units of that."""
    network = CNNJudge().network
    with torch.no_grad():
        seen = network.features(torch.from_numpy(load_digits("train").images)).double().numpy()
    unit = float(np.sqrt(np.mean(seen**2)))
    return network, unit, cast(Array, seen.mean(0) / unit)


def features(pictures: Tensor) -> Array:
    """``h(x)`` (n, 64) of pictures (n, 1, 8, 8) in [-1, 1]."""
    network, unit, _ = _network()
    with torch.no_grad():
        return cast(Array, network.features((pictures[:, 0].float() + 1) / 2).double().numpy() / unit)


def similarity(one: Array, two: Array) -> Array:
    """``s`` (n, k) between features (n, d) and (k, d), in [-1, 1]."""
    centre = _network()[2]
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (one - centre, two - centre))
    return cast(Array, a @ b.T)


@dataclass(frozen=True)
class Distance:
    """An estimate and its standard error."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.stderr:.4f}"


def kid(x: Array, y: Array) -> Distance:
    """KID between features (n, d) and (k, d); the standard error is that of the U-statistic's linear part.

    Raises ``ValueError`` with fewer than two rows in either.
    """
    value, of_x, of_y = _influences(x, y)
    return Distance(value, float(np.sqrt(of_x.var(ddof=1) / len(x) + of_y.var(ddof=1) / len(y))))


def kid_change(before: Array, after: Array, y: Array) -> Distance:
    """``KID(after, y) - KID(before, y)``: rows of before and after (n, d) are paired, and y (k, d) is the same."""
    one, of_before, with_before = _influences(before, y)
    two, of_after, with_after = _influences(after, y)
    spread = (of_after - of_before).var(ddof=1) / len(before) + (with_after - with_before).var(ddof=1) / len(y)
    return Distance(two - one, float(np.sqrt(spread)))


def _influences(x: Array, y: Array) -> tuple[float, Array, Array]:
    """KID, and what each row of x (n,) and of y (k,) contributes to its first-order error."""
    n, k, d = len(x), len(y), x.shape[1]
    if min(n, k) < 2:
        raise ValueError(f"x and y must hold at least two draws each, got {n} and {k}")
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    np.fill_diagonal(xx, 0.0)
    np.fill_diagonal(yy, 0.0)
    within_x, within_y = xx.sum(1) / (n - 1), yy.sum(1) / (k - 1)
    value = float(within_x.mean() + within_y.mean() - 2 * xy.mean())
    return value, 2 * (within_x - xy.mean(1)), 2 * (within_y - xy.mean(0))
