r"""ForwardKL where the q_i are point masses: forgetting images among a finite set, in closed form at any level.

::

    min KL(q‖p)  s.t.  -log p_i ≥ b_i,   q with shares pi_i on the images to be forgotten and 1 - Pi on all else

    p_i = min(e^{-b_i}, pi_i/s),   lam_i = [pi_i - s e^{-b_i}]_+,   s = 1 - sum lam_i

Beyond 30 nats lam_i and pi_i differ by less than a double can tell, so what is left of the share, pi_i - lam_i =
s e^{-b_i}, is kept as its logarithm, and both values are computed from that::

    primal = sum_i pi_i log(pi_i/p_i) + (1 - Pi) log s
    dual   = -H(q) - sum_i (pi_i - lam_i) log((pi_i - lam_i)/s) - (1 - Pi) log((1 - Pi)/s) + sum_i lam_i b_i

Source: theory, "Forgetting images" (water-filling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from duality._arrays import vector


@dataclass(frozen=True, eq=False)
class WaterFilling:
    """The answer for shares pi `(m,)` and levels b `(m,)`, nats of surprise.

    Attributes:
        multipliers: lam `(m,)`, at most pi.
        log_left: log(pi - lam) `(m,)`.
        log_scale: log s, s = 1 - sum lam.
    """

    shares: np.ndarray
    levels: np.ndarray
    multipliers: np.ndarray
    log_left: np.ndarray
    log_scale: float

    @property
    def log_masses(self) -> np.ndarray:
        """log p_i `(m,)` of the optimal density."""
        return self.log_left - self.log_scale

    @property
    def primal(self) -> float:
        """KL(q‖p), nats."""
        rest = 1 - self.shares.sum()
        return float(self.shares @ (np.log(self.shares) - self.log_masses) + rest * self.log_scale)

    @property
    def dual(self) -> float:
        """The dual function at the multipliers, nats."""
        rest = 1 - self.shares.sum()
        entropy = self.shares @ np.log(self.shares) + rest * np.log(rest)
        kept = np.exp(self.log_left) @ self.log_masses + rest * (np.log(rest) - self.log_scale)
        return float(entropy - kept + self.multipliers @ self.levels)

    @property
    def gap(self) -> float:
        """`|primal - dual| / (1 + |dual|)`."""
        return abs(self.primal - self.dual) / (1 + abs(self.dual))

    @property
    def slack(self) -> np.ndarray:
        """-log p_i - b_i `(m,)`, nats, met where ≥ 0."""
        return -self.log_masses - self.levels


def water_filling(shares: Any, levels: Any) -> WaterFilling:
    """Solves for lam and p in the displays above.

    With s = 1 - sum lam, image i is active where s < pi_i e^{b_i}; over active images s (1 - sum e^{-b_i}) = 1 - sum
    pi_i. The left side less the right is convex in s, negative at 0 and not at 1, so one set of active images fits.

    Args:
        shares: `(m,)` positive, their sum below one.
        levels: `(m,)` finite, nats of surprise.

    Raises:
        ValueError: for shares or levels that are none of that.
    """
    shares, levels = vector("shares", shares), vector("levels", levels)
    if shares.shape != levels.shape:
        raise ValueError(f"levels: shape {levels.shape} given for {shares.size} shares")
    if not (shares > 0).all() or not shares.sum() < 1:
        raise ValueError(f"shares: {shares} given, positive ones with a sum below one are needed")
    height = np.log(shares) + levels  # active where log s lies below
    order = np.argsort(-height)  # those that stay active for the largest s first
    for count in range(len(shares) + 1):
        active = order[:count]
        room = 1 - np.exp(-levels[active]).sum()
        log_scale = float(np.log1p(-shares[active].sum()) - np.log(room)) if room > 0 else np.inf
        if count == len(shares) or log_scale >= height[order[count]]:
            break
    log_left = np.log(shares)
    log_left[active] = np.minimum(log_left[active], log_scale - levels[active])
    multipliers = np.zeros_like(shares)
    multipliers[active] = np.clip(shares[active] - np.exp(log_left[active]), 0, shares[active])
    return WaterFilling(shares, levels, multipliers, log_left, log_scale)
