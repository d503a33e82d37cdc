r"""One setting of a method over its training seeds: means, what a seed does to them, and exact intervals.

::

    share   mean over seeds;   its interval is the exact one of the images of one seed, at that mean
    nats    mean over seeds;   [t_{S-1}(.975) sd/sqrt(S) says how far S seeds leave it open]

All seeds of a task are looked at under the same prompts from the same noise, so their images are no independent ones:
S seeds of n images count as n. One seed has no spread, and says nothing of what another would do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from diffusion.evaluation.bounds import Estimate, mean_estimate
from diffusion.evaluation.sweep.point import Point
from duality.confidence import clopper_pearson, clopper_pearson_lower

EACH_END = 0.975


@dataclass(frozen=True)
class Runs:
    """Points of one setting that ended, one a seed; one at least."""

    points: tuple[Point, ...]

    @property
    def method(self) -> str:
        return self.points[0].setting.method

    def axes(self, by: str) -> NDArray[np.float64]:
        """UA, IRA, CRA of every seed (S, 3)."""
        return np.array([point.axes(by) for point in self.points])

    def nats(self) -> NDArray[np.float64]:
        """Under retained prompts, of every seed (S,)."""
        return np.array([point.of("cost", "retained").mean for point in self.points])

    def ends(self, name: str, prompts: str, by: str) -> tuple[float, float]:
        """The exact two-sided 95 % interval of a share that was counted."""
        found = [point.of(name, prompts, by) for point in self.points]
        n = found[0].n
        hits = round(float(np.mean([each.mean for each in found])) * n)
        return clopper_pearson_lower(hits, n, EACH_END), clopper_pearson(hits, n, EACH_END)

    def chains(self, most: float) -> NDArray[np.float64] | None:
        """What every chain paid, nats, at most ``most`` each, of every seed (S, n); None of files without."""
        found = [point.figure("cost", "retained").values for point in self.points]
        if not found[0] or len({len(values) for values in found}) > 1:
            return None
        return np.minimum(np.array(found), most)


def runs_of(points: Iterable[Point]) -> list[Runs]:
    """Points that ended, by setting, in the order of their first seed."""
    found: dict[str, list[Point]] = {}
    for point in points:
        if point.failed is None:
            found.setdefault(point.setting.but_seed, []).append(point)
    return [Runs(tuple(some)) for some in found.values()]


def dearer(ours: Runs, other: Runs, most: float) -> tuple[float, float]:
    """What the other one pays more under retained prompts, and its standard error, nats.

    Chain by chain where both have the same chains: under the same prompt from the same noise, at most ``most`` each,
    means over seeds. What seeds do to the mean is a part of the error, of every side with two or more.
    """
    first, second = ours.chains(most), other.chains(most)
    if first is None or second is None or first.shape[1] != second.shape[1]:
        mine, theirs = (_cost(each) for each in (ours, other))
        return theirs.mean - mine.mean, (mine.stderr**2 + theirs.stderr**2) ** 0.5
    found = mean_estimate(second.mean(axis=0) - first.mean(axis=0))
    return found.mean, (found.stderr**2 + sum(_of_seeds(each.mean(axis=1)) for each in (first, second))) ** 0.5


def _cost(runs: Runs) -> Estimate:
    found = [point.of("cost", "retained") for point in runs.points]
    error = np.mean([each.stderr**2 for each in found]) + _of_seeds(runs.nats())
    return Estimate(mean=float(runs.nats().mean()), stderr=float(error) ** 0.5, n=found[0].n)


def _of_seeds(means: NDArray[np.float64]) -> float:
    """The variance of a mean over seeds (S,) that these show; nothing is known of one."""
    return float(means.var(ddof=1) / len(means)) if len(means) > 1 else 0.0


def half_width(values: Sequence[float] | NDArray[np.float64]) -> float:
    """t_{S-1}(.975) sd/sqrt(S) of seeds (S,), S at least 2."""
    count = len(values)
    return float(stats.t.ppf(EACH_END, count - 1) * np.std(values, ddof=1) / count**0.5)
