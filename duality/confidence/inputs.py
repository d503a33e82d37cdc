"""Arguments that are checked before any work."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from duality._arrays import to_numpy


def probability(name: str, value: Any) -> float:
    """A number strictly inside (0, 1)."""
    try:
        given = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: a number inside (0, 1) is needed, got {value!r}") from None
    if not 0 < given < 1:
        raise ValueError(f"{name}: {given} given, a number strictly inside (0, 1) is needed")
    return given


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`."""
    try:
        given = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: a whole number is needed, got {value!r}") from None
    if given < least:
        raise ValueError(f"{name}: {given} given, at least {least} is needed")
    return given


def counts(name: str, hits: Any, n: int) -> np.ndarray:
    """Whole numbers between 0 and n, of any shape, as float64."""
    given = to_numpy(name, hits)
    good = (given >= 0) & (given <= n) & (given == np.floor(given))
    if not good.all():
        raise ValueError(f"{name}: {given[~good].flat[0]:g} given, whole numbers between 0 and n = {n} are needed")
    return given


def unit_values(name: str, values: Any) -> np.ndarray:
    """A vector `(n,)` of numbers in [0, 1], as float64; a number becomes `(1,)`."""
    given = np.atleast_1d(to_numpy(name, values))
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"{name}: a number or a vector (n,) is needed, got shape {given.shape}")
    good = (given >= 0) & (given <= 1)
    if not good.all():
        where = int(np.argmin(good))
        raise ValueError(f"{name}: {given[where]} at position {where}, numbers in [0, 1] are needed")
    return given
