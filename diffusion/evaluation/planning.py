r"""What the solver has to be asked for, so that samples of the fitted network can show the level.

::

    shares   b' = max{ share : Pr(Bin(n, share) ≤ k) ≥ success },   k = max{ hits : upper bound ≤ b }
    kept     c' = 1 - b'(1 - c), but not beyond what q has,          hits are then the images without it
    nats     b' = b ± (z_confidence + z_success) s / sqrt(n),         s the spread of the level's summand in the target

A network that is exactly at the level b would pass the test of its own n samples with probability 1 - confidence only:
one has to aim beyond, the further the fewer the samples. A network that falls short of what the solver says needs more:
``aim``, a part of b, is then given instead of b'. k is that of the widest bound used: betting, for the ratio
classifier's posterior, whose values are near 0 and 1 mostly (a share of the same mean varies more); an exact count
needs no more. For nats s leaves out the noise of the integrals, which can only be seen after the fit.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from scipy import stats

import duality as du
from diffusion.evaluation.bounds import bound
from diffusion.methods.lagrangians import lagrangian_of
from diffusion.tasks.levels import Asked
from duality.confidence import fewest, plan


@dataclass(frozen=True)
class Plan:
    """``asked``: what is to be shown; ``solved``: what the solver is asked for; ``hits`` (m,): at most so many of
    ``samples`` may show the concept (or lack it, where it is kept), where levels are shares. ``short``: constraints
    whose aim could not be had; ``sequential``: samples are looked at as they come; ``counts`` (m,): samples of each
    level, where they are not ``samples`` of all. 0 samples: nothing is to be shown, and what is solved is what is
    asked."""

    asked: du.Problem
    solved: du.Problem
    samples: int
    confidence: float
    success: float
    hits: tuple[int, ...] = ()
    short: bool = False
    sequential: bool = False
    counts: tuple[int, ...] = ()

    @property
    def each(self) -> tuple[int, ...]:
        """(m,) samples of each level."""
        return self.counts or (self.samples,) * self.asked.levels.size

    def of(self, share: float) -> Plan:
        """The same looked at once, on a share of the samples."""
        few, *counts = (max(1, int(share * n)) for n in (self.samples, *self.counts))
        return replace(self, samples=few, counts=tuple(counts), sequential=False)

    @property
    def kept(self) -> np.ndarray:
        """(m,) whether a level is to be reached at least."""
        return np.broadcast_to(np.asarray(self.asked.direction) > 0, self.asked.levels.shape)

    def lines(self) -> list[str]:
        """In words, a sentence for each level that is aimed beyond."""
        if not self.samples:
            return ["0 evaluation samples: nothing is measured, and the solver is asked for the levels themselves"]
        pairs = list(zip(self.asked.levels.tolist(), self.solved.levels.tolist(), strict=True))
        if self.hits:
            said = [
                f"{n} evaluation samples{' at most' if self.sequential else ''} show "
                f"{'at least ' if kept else ''}{100 * b:.3g} % at {100 * self.confidence:g} % confidence with at most "
                f"{hits} {'misses' if kept else 'hits'}: the solver is asked for {100 * aim:.3g} %"
                for (b, aim), hits, kept, n in zip(pairs, self.hits, self.kept, self.each, strict=True)
            ]
        else:
            said = [
                f"{self.samples} evaluation samples show {b:.4g} nats at {100 * self.confidence:g} % confidence: the "
                f"solver is asked for {aim:.4g} nats"
                for b, aim in pairs
            ]
        if self.short:
            said.append("that is as far beyond as can be had on these samples, and less than the samples call for")
        return list(dict.fromkeys(said))


def most_hits(level: float, n: int, confidence: float, sequential: bool = False) -> int:
    """The greatest number of ones among n zeros and ones whose upper bound by betting shows a share of at most
    ``level``; -1 for none. ``sequential``: by the bound that holds at all times.

    >>> most_hits(0.01, 2000, 0.95), most_hits(0.01, 298, 0.95)
    (9, -1)
    """
    low, high = -1, plan(level, n, confidence) + 1  # betting shows no more than an exact count does
    while high - low > 1:
        middle = (low + high) // 2
        values = np.zeros(n)
        values[:middle] = 1.0
        if bound(values, "upper", "anytime" if sequential else "betting", confidence).value <= level:
            low = middle
        else:
            high = middle
    return low


def check_samples(problem: du.Problem | Asked, samples: int, confidence: float) -> None:
    """Raise ``ValueError`` where so few samples cannot show a level, however few of them are hits.

    Levels that are multiples of the present ones are not known before the model is surveyed, and looked at then. 0
    samples are asked to show nothing.
    """
    if isinstance(problem, Asked):
        levels = [each.value for each in problem.levels if not each.relative] if problem.kind is du.Likelihood else []
    else:
        levels = problem.levels.tolist() if problem.probability else []
    check_shares([level for level in levels if 0 < level < 1], samples, confidence)


def check_measured(samples: int, what: str) -> None:
    """Raise ``ValueError`` where nothing is to be measured, and measuring is ``what`` is for."""
    if not samples:
        raise ValueError(f"evaluation samples: {what} is there to measure, and 0 were given; at least 1 is needed")


def check_aim(problem: du.Problem | Asked, aim: float | None) -> None:
    """Raise ``ValueError`` where a part of a share is to be aimed at, and levels are in nats."""
    shares = problem.kind is du.Likelihood if isinstance(problem, Asked) else problem.probability
    if aim is not None and not shares:
        raise ValueError(f"aim: a part of a share is meant, {aim:g} was given, and the levels are in nats")


def check_shares(levels: Sequence[float], samples: int, confidence: float, sequential: bool = False) -> None:
    """The same for shares, each inside (0, 1), that are to be shown to be at most so large."""
    for level in levels if samples else ():
        # Without a hit betting shows what counting does.
        shown = most_hits(level, samples, confidence, True) if sequential else plan(level, samples, confidence)
        if shown < 0:
            needed = fewest(level, confidence)
            while sequential and most_hits(level, needed, confidence, True) < 0:
                needed += max(1, needed // 100)
            raise ValueError(
                f"evaluation samples: {samples} cannot show a level of {level:.4g} at {100 * confidence:g} % "
                f"confidence, even if none shows the concept: at least {needed} are needed"
            )


def plan_for(
    problem: du.Problem,
    ratios: du.LogRatios,
    samples: int,
    confidence: float = 0.95,
    success: float = 0.9,
    sequential: bool = False,
    counts: Sequence[int] = (),
    aim: float | None = None,
) -> Plan:
    """The problem to be solved where ``problem`` is to be shown by ``samples`` of the fitted network.

    ``counts`` (m,): samples of each level where they differ, of shares alone; ``aim``: the part, in (0, 1], of each
    share to be had at most that is asked of the solver, instead of what the samples call for. A constraint that q
    itself meets far enough is left as it is aimed at. With 0 samples it is ``problem`` itself. Raises ``ValueError`` as
    :func:`check_samples`, ``du.InfeasibleError`` where the levels asked for cannot be had at all.
    """
    problem = problem.bind(ratios)
    check_aim(problem, aim)
    if not samples:
        none = (0,) * problem.levels.size if problem.probability else ()
        return Plan(problem, problem, 0, confidence, success, none)
    if problem.probability:
        kept = np.asarray(problem.direction) > 0
        most = np.where(kept, 1 - problem.levels, problem.levels)  # of what is kept: the share of images without it
        each = tuple(counts) or (samples,) * most.size
        for level, n in zip(most.tolist(), each, strict=True):
            check_shares([level], n, confidence, sequential)
        hits = tuple(most_hits(level, n, confidence, sequential) for level, n in zip(most.tolist(), each, strict=True))
        # The share at which so many hits or fewer come with probability `success`: a quantile of a Beta law.
        aims = np.array([stats.beta.ppf(1 - success, k + 1, n - k) for k, n in zip(hits, each, strict=True)])
        # Nobody asks for more of what is kept than there is, for the sake of a test.
        now = problem.levels_of(ratios, ratios.log_weights)
        gone = aims if aim is None else aim * problem.levels
        aims = np.where(kept, np.maximum(problem.levels, np.minimum(1 - aims, now)), gone)
    else:
        hits = ()
        reach = float(stats.norm.ppf(confidence) + stats.norm.ppf(success))
        aims = problem.levels + problem.direction * reach * _spread(problem, ratios) / samples**0.5
        aims = np.where(problem.levels > 0, aims, problem.levels) if problem.direction > 0 else aims
    with warnings.catch_warnings():
        # On how many samples the answer rests is said once, when what is planned here is solved.
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        aims, short = _that_can_be_had(problem, ratios, aims)
    solved = replace(problem, levels=aims)
    return Plan(problem, solved, samples, confidence, success, hits, short, sequential, tuple(counts))


def _spread(problem: du.Problem, ratios: du.LogRatios) -> np.ndarray:
    """Standard deviations (m,) of what the levels are means of, in the target of ``problem``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)
        log_p = du.solve(problem, ratios).log_weights
    log_q, rho = ratios.log_weights, np.asarray(ratios.values)
    lagrangian = lagrangian_of(problem)
    if lagrangian.of_q:
        with np.errstate(invalid="ignore"):
            summand, masses = np.exp(rho) * (rho + (log_q - log_p)[:, None]), np.exp(log_q)
    elif lagrangian.integrated:
        summand, masses = (log_p - log_q)[:, None] - rho, np.exp(log_p)
    else:
        likelihood = cast(du.Likelihood, problem)  # the only one whose levels are read off ratios
        summand, masses = np.asarray(likelihood.likelihoods(likelihood.inputs(ratios))), np.exp(log_p)
    kept = masses > 0
    summand, masses = summand[kept], masses[kept]
    variance = masses @ (summand - masses @ summand) ** 2
    return np.where(np.isfinite(variance), np.sqrt(np.maximum(variance, 0.0)), 0.0)


def _that_can_be_had(problem: du.Problem, ratios: du.LogRatios, aims: np.ndarray) -> tuple[np.ndarray, bool]:
    """The aims where a tilt attains them; else as far towards them as one does, by halves of the way."""
    share = 1.0
    for _ in range(6):
        levels = problem.levels + share * (aims - problem.levels)
        try:
            if du.solve(replace(problem, levels=levels), ratios).attained:
                return levels, share < 1
        except du.InfeasibleError:
            pass
        share /= 2
    return np.array(problem.levels), True
