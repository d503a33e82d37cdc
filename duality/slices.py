"""Tables of many nodes, walked in slices, and nodes without weight, dropped and put back."""

from __future__ import annotations

import numpy as np

SLICE = 1 << 16  # rows per slice: temporaries of 2 MiB at m = 4, inside the cache


def slices(n: int) -> list[slice]:
    """Consecutive ranges of at most `SLICE` rows that cover n."""
    return [slice(k, k + SLICE) for k in range(0, n, SLICE)]


def spread(kept_values: np.ndarray, kept: np.ndarray | None, n: int) -> np.ndarray:
    """Back from the nodes that have weight to all n, with -inf elsewhere."""
    if kept is None:
        return kept_values
    full = np.full(n, -np.inf)
    full[kept] = kept_values
    return full
