"""One pass over the nodes of an exponential tilt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from duality.passes import centred, gram, longest, run, weighed
from duality.tilt_sums import HELD, TiltSums, relative

if TYPE_CHECKING:
    from duality.exponential_dual import ExponentialDual


def tilt_pass(dual: ExponentialDual, falls: np.ndarray, curved: bool) -> TiltSums:
    """Sums over the nodes of a tilt by the factors (m,) of what blocks hold; with second moments where curved."""
    m, base, heaviest = dual.m, dual._tilt, dual._mode
    modes: list[tuple[float, int, np.ndarray, float]] = []
    start = None
    if not isinstance(base, np.ndarray) and heaviest is not None:
        start = float(falls @ heaviest[0]), heaviest[1]

    def visit(blocks: list[slice]) -> TiltSums:
        with np.errstate(over="ignore"):  # relative to a node that is too light
            return summed(blocks)

    def summed(blocks: list[slice]) -> TiltSums:
        size, kind = longest(blocks), dual._log_q.dtype
        sums = TiltSums(m, curved)
        tilts, masses, out = np.empty(size, kind), np.empty(size, kind), np.empty((m, size), kind)
        weighted = np.empty_like(out) if curved else out
        known = start
        for part in blocks:
            k = part.stop - part.start
            rows, log_q = dual._block(part, out), dual._log_q[part]
            tilt, p = weighed(falls, rows, tilts[:k]), masses[:k]
            if isinstance(base, np.ndarray):
                tilt += base[part]
            node = (0.0, 0.0) if known is None else known
            total = 0.0 if known is None else relative(log_q, tilt, node, p)
            if not HELD[0] < total < HELD[1]:  # no node yet, or one that is too light or too heavy here
                if known is not None:
                    weighed(falls, rows, tilt)
                mode = int(np.add(log_q, tilt, out=p).argmax())
                node = float(tilt[mode]), float(log_q[mode])
                modes.append((float(p[mode]), -part.start, np.array(rows[:, mode]), node[1]))
                total = relative(log_q, tilt, node, p)
            linear = float(p @ tilt)
            mean = np.asarray(rows @ p, dtype=np.float64) / total
            second = None
            if curved:
                second = centred(gram(rows, np.multiply(rows, p, out=weighted[:, :k])), total, mean)
                if second is None:
                    deviation = np.subtract(rows, mean[:, None], out=out[:, :k])
                    second = gram(deviation, np.multiply(deviation, p, out=weighted[:, :k]))
            absolute = float(p @ np.abs(tilt, out=tilt)) if kind == np.float64 else abs(linear)
            sums.add(node, (total, linear, absolute), mean, second)
            known = None if isinstance(base, np.ndarray) else node
        return sums

    found = run(dual._parts, visit)
    if modes:
        dual._mode = max(modes, key=lambda mode: mode[:2])[2:]
    return found
