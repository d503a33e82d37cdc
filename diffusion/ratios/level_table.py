r"""What levels mean for a model before anything is decided: where q stands, what can be had, and at what price.

For each problem and concept: the level that q has (free up to there), the range that can be asked for, ::

    likelihood   from the least posterior among the samples to the present one      (below: infeasible)
    forward-kl   from the present level to the critical one of theory             (beyond: no density attains it)
    reverse-kl   from the present level on

and along levels the multiplier lam (price of the last nat or share), the cost V in nats, and how many samples of equal
weight the target amounts to, of which how many show the concept: a level is known no better than those allow.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

import duality as du
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.documents import Estimate, Plain
from diffusion.tasks.levels import KINDS, Asked, present

FACTORS = {"likelihood": (0.5, 0.2, 0.1, 0.05), "reverse-kl": (1.25, 1.5, 2.0), "forward-kl": (1.25, 1.5, 2.0)}


class Range(Plain):
    """The level that q has of one concept, and the range of levels worth asking for; nats or a probability."""

    problem: str
    concept: str
    now: Estimate
    least: float
    most: float

    def __str__(self) -> str:
        now = str(self.now)
        if self.problem == "likelihood":
            return f"{self.problem:<12}{self.concept!r}: now {now}; from there down to {self.least:.2g}"
        beyond = "upwards" if np.isinf(self.most) else f"to {self.most:.4g}, beyond which nothing attains it"
        return f"{self.problem:<12}{self.concept!r}: now {now} nats; from {self.now.mean:.4g} {beyond}"


class LevelRow(Plain):
    """A solution at these levels, of all concepts at once. All but the first three are None where levels cannot be had.

    ``samples_showing``: how many samples of equal weight show each concept in the target.
    """

    problem: str
    levels: tuple[float, ...]
    status: str
    multipliers: tuple[Estimate, ...] | None = None
    cost: Estimate | None = None
    effective_sample_size: float | None = None
    samples_showing: tuple[float, ...] | None = None


class LevelsFound(Plain):
    """Ranges and rows; ``asked``: the row of the levels that were asked for, None where none were."""

    ranges: tuple[Range, ...]
    rows: tuple[LevelRow, ...]
    asked: int | None


@dataclass(frozen=True)
class LevelTable:
    """Ranges, and solutions along levels (None where a level cannot be had)."""

    concepts: tuple[str, ...]
    ranges: tuple[Range, ...]
    rows: tuple[tuple[str, np.ndarray, du.Solution | None], ...]  # problem, levels (m,), solution
    shares: np.ndarray  # (n, m) posteriors at the samples
    asked: int | None = None  # which row holds the levels that were asked for

    def showing(self, solution: du.Solution) -> np.ndarray:
        """(m,): effective number of samples in the target that show each concept."""
        return np.asarray(solution.effective_sample_size * (np.exp(solution.log_weights) @ self.shares))

    def lines(self) -> list[str]:
        out = ["where each constraint stands, and what can be had", *map(str, self.ranges), ""]
        out.append("what levels cost (one row a concept)")
        out.append(
            f"{'problem':<12}{'level':>10}{'multiplier':>20}{'cost (nats)':>20}"
            f"{'effective samples':>20}{'showing it':>12}"
        )
        for name, levels, s in self.rows:
            for index in range(len(levels)):
                if s is None:
                    out.append(f"{name:<12}{levels[index]:>10.4g}  cannot be had on these samples")
                    continue
                lam = f"{s.multipliers[index]:.4g} ± {s.multipliers_stderr[index]:.2g}"
                cost, rest = (
                    f"{s.dual:.4g} ± {s.primal_stderr:.2g}",
                    f"{s.effective_sample_size:.0f} of {len(self.shares)}",
                )
                shown = "" if s.attained else "  not attained"
                out.append(
                    f"{name:<12}{levels[index]:>10.4g}{lam:>20}{cost if index == 0 else '':>20}"
                    f"{rest if index == 0 else '':>20}{self.showing(s)[index]:>12.1f}{shown}"
                )
        return out

    def data(self) -> LevelsFound:
        return LevelsFound(ranges=self.ranges, rows=tuple(map(self._row, self.rows)), asked=self.asked)

    def _row(self, row: tuple[str, np.ndarray, du.Solution | None]) -> LevelRow:
        name, levels, solution = row
        asked, n = tuple(levels.tolist()), len(self.shares)
        if solution is None:
            return LevelRow(problem=name, levels=asked, status="INFEASIBLE")
        pairs = zip(solution.multipliers.tolist(), solution.multipliers_stderr.tolist(), strict=True)
        return LevelRow(
            problem=name,
            levels=asked,
            status=solution.status.name,
            multipliers=tuple(Estimate(mean=value, stderr=error, n=n) for value, error in pairs),
            cost=Estimate(mean=solution.dual, stderr=solution.primal_stderr, n=n),
            effective_sample_size=solution.effective_sample_size,
            samples_showing=tuple(self.showing(solution).tolist()),
        )


def level_table(estimate: RatioEstimate, asked: Asked | None = None) -> LevelTable:
    """Ranges of every problem and a few levels along each, and those of ``asked`` (milliseconds a solve)."""
    ratios, concepts = estimate.ratios, tuple(concept.name for concept in estimate.prompts.concepts)
    shares = estimate.posterior.numpy()
    ranges: list[Range] = []
    rows: list[tuple[str, np.ndarray, du.Solution | None]] = []
    n, place = len(shares), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.FewDrawsWarning)  # the table's last columns say the same
        for name, kind in KINDS.items():
            now, errors = present(kind, ratios), _stderr(kind, ratios)
            least, most = _range(kind, ratios, now, shares)
            ranges += [
                Range(problem=name, concept=concept, now=Estimate(mean=mean, stderr=error, n=n), least=low, most=high)
                for concept, mean, error, low, high in zip(
                    concepts, *(x.tolist() for x in (now, errors, least, most)), strict=True
                )
            ]
            # Ratios of a poor classifier may give q a divergence below zero; then any small level will do to go on
            # from.
            start = now if kind is du.Likelihood else np.maximum(now, 0.1)
            levels = [factor * start for factor in FACTORS[name]]
            if asked is not None and asked.kind is kind:
                levels.append(asked.problem(ratios).levels)
                place = len(rows) + len(levels) - 1
            for each in levels:
                try:
                    rows.append((name, each, du.solve(kind(each), ratios)))
                except du.InfeasibleError:
                    rows.append((name, each, None))
    return LevelTable(concepts, tuple(ranges), tuple(rows), shares, place)


def _range(
    kind: type[du.Problem], ratios: du.LogRatios, now: np.ndarray, shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Levels (m,) between which it makes sense to ask, each concept by itself."""
    if kind is du.Likelihood:
        return shares.min(0), now
    if kind is du.ReverseKL:
        return now, np.full_like(now, np.inf)
    most = []
    for index in range(ratios.m):
        one = du.LogRatios(ratios.values[:, index : index + 1])
        end = du.solve(du.ForwardKL(float(now[index]) + 200.0), one)
        most.append(float("inf") if end.critical_levels is None else float(end.critical_levels[0]))
    return now, np.array(most)


def _stderr(kind: type[du.Problem], ratios: du.LogRatios) -> np.ndarray:
    """Standard errors (m,) of the levels that q has, from its samples."""
    values = ratios.values
    if kind is du.Likelihood:
        terms = np.asarray(du.Likelihood(0.5).bind(ratios).likelihoods(values))  # any level will do
    elif kind is du.ReverseKL:
        terms = -values  # KL(q||q_i) = -E_q[rho_i]
    else:
        terms = np.exp(values) * values  # KL(q_i||q) = E_q[e^rho rho]
    return np.asarray(terms.std(0, ddof=1) / len(values) ** 0.5)
