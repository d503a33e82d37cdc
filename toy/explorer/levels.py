"""From "little" to "much": the range of levels worth asking for, and where a level lies in it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

import duality as du
from toy.mixtures import Array

SUBSCRIPTS = "₁₂₃₄"  # of the concepts, where there is no markup

_FLOOR = 1e-15  # a slack 1 - lam e^rho below this is rounding


@dataclass(frozen=True)
class Range:
    """Levels from ``little`` (about what q has) to ``much``; in equal ratios where ``log``, else equal steps."""

    little: float
    much: float
    log: bool

    def level(self, position: float) -> float:
        """The level at a position in [0, 1], to four digits so that a slider gives numbers one can read."""
        if self.log:
            value = math.exp((1 - position) * math.log(self.little) + position * math.log(self.much))
        else:
            value = (1 - position) * self.little + position * self.much
        return float(f"{value:.4g}")

    def position(self, level: float) -> float:
        """Where a level lies, in [0, 1]; levels outside the range are at its ends."""
        if self.log:
            if level <= 0:
                return 1.0
            share = math.log(level / self.little) / math.log(self.much / self.little)
        else:
            share = (level - self.little) / (self.much - self.little)
        return min(max(share, 0.0), 1.0)


def ranges(key: str, ratios: du.LogRatios) -> tuple[Range, ...]:
    """A range for every concept. key : one of ``LEVEL_KEYS``; ratios : on nodes of q."""
    q = np.exp(ratios.log_weights)
    return tuple(_range(key, ratios, q, i) for i in range(ratios.m))


def suggested(given: tuple[Range, ...]) -> tuple[float, ...]:
    """Levels to begin with: a third of the way."""
    return tuple(one.level(0.35) for one in given)


def relation(key: str) -> str:
    """≤ for likelihoods, ≥ for divergences."""
    return "≤" if key.startswith("LU") else "≥"


def functional(key: str, i: int, one: str, mean: str) -> str:
    """What the level of concept i (from 0) bounds; ``one`` and ``mean`` say how q_i and E_p are written."""
    return {
        "RU": f"KL(p‖{one})",
        "FU": f"KL({one}‖p)",
        "LU posterior": f"{mean} Pr({i + 1}|x)",
        "LU density": f"{mean} {one}(x)",
        "LU log-ratio": f"{mean} log {one}/q",
    }[key]


def unit(key: str) -> str:
    """The unit of the levels, in a word."""
    return {"LU posterior": "probability", "LU density": "density"}.get(key, "nats")


def critical_level(ratios: du.LogRatios, i: int) -> float:
    """KL(q_i‖p) at lam_i = ess inf q/q_i, the others 0: the level that FU reaches with it alone.

    About: where the slack 1 - lam q_i/q is below a rounding its logarithm is not known.
    """
    rho = ratios.values[:, i]
    under = np.exp(ratios.log_weights + rho)
    least = math.exp(-float(rho.max()))
    slack = np.maximum(1 - np.exp(rho - rho.max()), _FLOOR)
    return float(under @ (rho - np.log(slack))) + (math.log1p(-least) if least < 1 else -math.inf)


def _range(key: str, ratios: du.LogRatios, q: Array, i: int) -> Range:
    rho = ratios.values[:, i]
    if key in ("RU", "LU log-ratio"):
        reverse = float(-(q @ rho))  # KL(q‖q_i)
        little, much = 0.9 * reverse, reverse + max(20.0, 1.5 * reverse)
        return Range(little, much, False) if key == "RU" else Range(-little, -much, False)
    if key == "FU":
        forward = float(np.exp(ratios.log_weights + rho) @ rho)  # KL(q_i‖q)
        much = min(max(1.15 * critical_level(ratios, i), forward + 3.0), forward + 40.0)
        return Range(0.5 * forward, much, False)
    if key == "LU posterior":
        if ratios.detectors is not None:  # under several prompts
            mean = max(float(q @ ratios.detectors[:, i]), 1e-12)  # 0 is for `check_concepts` to refuse
        else:
            mean = float(ratios.priors[i]) if ratios.priors is not None else 0.5
    else:
        assert ratios.log_densities is not None  # the explorer's ratios always carry them
        mean = float(q @ np.exp(ratios.log_densities[:, i]))
    return Range(1.25 * mean, 1e-4 * mean, True)
