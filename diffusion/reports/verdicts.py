"""Three verdicts on an unlearning run, each with its reasons: the solution, the ratios, the fitted model.

None bounds another: a solution can be exact on ratios that are off, ratios can be right and the network never fitted.
"Certified" is all three. A reason says what was found and what is asked; no reason is no objection.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

import duality as du
from diffusion.evaluation.measured import LevelFound, Measurement
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.reports.checks import checks_of_ratios
from diffusion.reports.standards import Standards
from diffusion.runtime.documents import Document, Plain

WHERE = {"anchor": "under the anchor", "concept": "under the concept's prompts", "prompts": "under the law of prompts"}
UNMEASURED = "the run ended before the fitted network was measured"
UNASKED = "nothing was measured of the fitted network, as was asked: 0 evaluation samples"


class Verdict(Plain):
    """No reason is no objection."""

    passed: bool
    reasons: tuple[str, ...]


class CertificateBase(Document, ABC):
    """Three verdicts; ``certified`` is all of them, at ``confidence``."""

    certified: bool

    @property
    @abstractmethod
    def confidence(self) -> float: ...

    @property
    @abstractmethod
    def verdicts(self) -> Mapping[str, Verdict]:
        """By name, in the order in which they build on each other."""

    @property
    def objections(self) -> list[str]:
        """The reasons of all three verdicts."""
        return [f"{name}: {reason}" for name, verdict in self.verdicts.items() for reason in verdict.reasons]

    def lines(self) -> list[str]:
        """The verdicts, for people."""
        out = [f"certified: {self.certified} (at {100 * self.confidence:g} % confidence)"]
        for name, verdict in self.verdicts.items():
            out.append(f"  {name}: {'passed' if verdict.passed else 'not passed'}")
            out += [f"    {reason}" for reason in verdict.reasons]
        return out


def of_solution(solution: du.Solution, standards: Standards) -> list[str]:
    """Why the answer cannot be called optimal on its ratios."""
    found = []
    if solution.status is du.Status.INEXACT:
        found.append(solution.message)
    if not solution.attained:
        found.append(solution.message + " (see critical_levels)")
    if not (np.isfinite(solution.multipliers).all() and math.isfinite(solution.primal)):
        found.append("multipliers or cost are not finite")
    if solution.attained and not solution.gap <= standards.gap:
        found.append(f"the duality gap is {solution.gap:.1e}, over {standards.gap:.0e}")
    if not solution.kkt_residual <= standards.kkt:
        found.append(f"the KKT residual is {solution.kkt_residual:.1e}, over {standards.kkt:.0e}")
    if not solution.effective_sample_size >= standards.effective:
        found.append(
            f"the target rests on {solution.effective_sample_size:.0f} effective samples, fewer than "
            f"{standards.effective:.0f}"
        )
    return found


def of_ratios(estimate: RatioEstimate, standards: Standards) -> list[str]:
    """Why the log ratios cannot be relied on."""
    return [check.objection for check in checks_of_ratios(estimate, standards) if check.verdict == "WARN"]


def of_fitted_model(
    measured: Measurement,
    solution: du.Solution,
    least: float | None,
    capped: Sequence[str],
    standards: Standards,
    samples: int = 1,
) -> list[str]:
    """Why the network cannot be said to be what was asked for.

    ``least``: see :func:`least_cost`; ``capped``: names of the concepts whose multiplier or gain was held back;
    ``samples``: of the evaluation, 0 where none was asked for.
    """
    held = [
        f"{name!r}: what was asked of the network for it ran away and was held back; it does not follow further"
        for name in capped
    ]
    if not (measured.levels and measured.costs):
        return [UNMEASURED if samples else UNASKED, *held]
    found = [f"level not shown: {level}" for level in measured.levels if not level.met]
    for cost in measured.costs:
        ratio = cost.estimate.mean / solution.primal if solution.primal > 0 else math.inf
        if solution.primal <= 0:
            found.append(
                f"{WHERE[cost.prompts]} the network costs {cost.estimate} nats, and the target nothing: no multiple of "
                "that is allowed"
            )
        elif not ratio <= standards.cost_ratio:
            found.append(
                f"{WHERE[cost.prompts]} the network costs {cost.estimate} nats, {ratio:.1f} times the target's "
                f"{solution.primal:.4g}: more than {standards.cost_ratio:g} times"
            )
    spent = measured.costs[0].estimate
    if least is not None and not spent.mean + 2 * _error(spent.stderr) >= least:
        found.append(
            f"the cost estimate is in error: {spent} nats were measured, and no density at the measured level costs "
            f"less than {least:.4g}"
        )
    for kept in measured.retained:
        loss = standards.retained if kept.prompts == "all" else standards.retained_each
        if not kept.bound.value >= kept.before.mean - loss:
            found.append(
                f"retained prompts ({kept.prompts}), by {kept.by}: prompt accuracy {kept.before} before and "
                f"{kept.after} after, at least {kept.bound.value:.4g} at {100 * kept.bound.confidence:g} % confidence: "
                f"more than {100 * loss:g} points may be lost"
            )
    return found + held


def least_cost(measured: Sequence[LevelFound], problem: du.Problem, ratios: du.LogRatios) -> float | None:
    """What any density at the measured levels costs at least, nats, by weak duality: a check of the cost estimate.

    V at the levels (m,) ``measured`` under the law that the problem is of, each moved by two standard errors to where
    less is asked, less two standard errors of V itself. None where these levels cannot be had on the samples of q,
    which bounds nothing.
    """
    found = [each.estimate for each in measured]
    if not found:
        return None
    levels = np.array([each.mean for each in found])
    weaker = levels - 2 * problem.direction * np.array([_error(each.stderr) for each in found])
    if problem.probability:
        # Where all images show what is kept the error is none by its formula; the bound knows better.
        least = np.array([each.bound.value if each.bound.side == "lower" else np.inf for each in measured])
        weaker = np.minimum(weaker, least)
    weaker = np.where(np.asarray(problem.direction) > 0, np.maximum(weaker, 0.0), weaker)
    if not np.isfinite(weaker).all():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", du.SmallGroupsWarning)
        warnings.simplefilter("ignore", du.FewDrawsWarning)  # its error is reported, and taken off here
        try:
            best = du.solve(replace(problem, levels=weaker), ratios)
        except du.InfeasibleError:
            return None
    return float(best.dual - 2 * _error(best.primal_stderr)) if best.attained else None


def _error(stderr: float) -> float:
    return stderr if math.isfinite(stderr) else 0.0
