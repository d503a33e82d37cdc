"""What one pass over a tilt adds up: masses relative to the heaviest node so far, as sums that merge."""

from __future__ import annotations

import numpy as np

from duality.passes import Moments

#: Masses of a block relative to a node add up to something in between, or a node of its own is looked for.
HELD = (1e-3, 1e12)


def relative(log_q: np.ndarray, tilt: np.ndarray, node: tuple[float, float], out: np.ndarray) -> float:
    """tilt - node's tilt in place, exp(log_q + that - node's log_q) into out `(k,)`, and the sum of these.

    Infinite where the node is too light: overflow is for the caller to expect.
    """
    tilt -= node[0]
    np.add(log_q, tilt, out=out)
    out -= node[1]
    np.exp(out, out=out)
    return float(np.add.reduce(out))


class TiltSums:
    """Sums over nodes of masses exp(log q + t), relative to the heaviest node: t is the log weight of the tilt.

    Large tilts are subtracted from each other before anything small is added to them, or their rounding would enter the
    masses and not the divergence: the heaviest node is kept as its t and its log q, and so are differences between the
    heaviest nodes of blocks.

    Attributes:
        tilt, log_q: t and log q of the heaviest node.
        linear: sum of masses times t - tilt.
        absolute: at least the sum of masses times `|t - tilt|`.
        moments: of the statistics under the masses.
    """

    def __init__(self, m: int, curved: bool) -> None:
        self.tilt = self.log_q = -np.inf
        self.linear = self.absolute = 0.0
        self.moments = Moments(m, curved)

    def add(
        self,
        node: tuple[float, float],
        sums: tuple[float, float, float],
        mean: np.ndarray,
        second: np.ndarray | None,
    ) -> None:
        """Sums of more nodes: (tilt, log_q) of their heaviest, and (total, linear, absolute) relative to it."""
        tilt, log_q = node
        total, linear, absolute = sums
        if self.tilt == -np.inf:
            self.tilt, self.log_q, self.linear, self.absolute = tilt, log_q, linear, absolute
            self.moments.add(total, mean, second)
            return
        apart = tilt - self.tilt
        gap = apart + (log_q - self.log_q)
        if gap > 0:  # what has been so far is relative to a lighter node
            weight = float(np.exp(-gap))
            self.linear = weight * (self.linear - apart * self.moments.total)
            self.absolute = weight * (self.absolute + abs(apart) * self.moments.total)
            self.moments.scale(weight)
            self.tilt, self.log_q, apart, weight = tilt, log_q, 0.0, 1.0
        else:
            weight = float(np.exp(gap))
        if weight == 0.0:
            return
        self.linear += weight * (linear + apart * total)
        self.absolute += weight * (absolute + abs(apart) * total)
        self.moments.add(weight * total, mean, None if second is None else weight * second)

    def merge(self, other: TiltSums) -> None:
        self.add(
            (other.tilt, other.log_q),
            (other.moments.total, other.linear, other.absolute),
            other.moments.mean,
            other.moments.second,
        )

    @property
    def divergence(self) -> float:
        """KL(p‖q), summed over p, not from x·E_p[T] + log Z, which cancels where x is large."""
        total = self.moments.total
        return self.linear / total - (float(np.log(total)) + self.log_q)

    @property
    def terms(self) -> float:
        """The size of the terms that it is summed from; the masses add up to one, and the logarithm is of that."""
        return self.absolute / self.moments.total + 1.0
