r"""A last dual correction on measured levels, for methods that otherwise go by the solved multipliers.

::

    sample from the network (or integrate over noise)  ->  levels, standard errors  ->  dual step

(:mod:`diffusion.methods.level_shift`), at a few moments of a fit, and as long as a level is missed for guidance without
training. Without it a method is as right as its ratios, its guidance and its fit are; with it the level is measured
where it is wanted, on the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.guidance.guided import LIMIT, Guided, Strength
from diffusion.methods.base import FitContext, Outcome
from diffusion.methods.dual_loop import Rounds, Stopping
from diffusion.methods.dual_steps import within_one_se
from diffusion.methods.gain import Gain
from diffusion.methods.lagrangians import lagrangian_of
from diffusion.methods.level_estimates import Meter
from diffusion.methods.level_shift import Asking
from diffusion.pipelines import Denoiser
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.distributed import broadcast_object
from diffusion.runtime.progress import Bar, progress_bar


@dataclass(frozen=True)
class Correction:
    """When levels are measured, and on how much.

    ``at``: shares of the steps of a fit, increasing, inside (0, 1): late enough that the network has followed, early
    enough that it can follow again. ``extra``: rounds at most after the last step, of an eighth of the steps each at a
    tenth of the rate, as long as a level is missed by more than one standard error. ``rounds``: measurements at most,
    for guidance.
    ``samples``: of the network, for a Likelihood, whose levels are rare events; left out, half as many as there are of
    q. The KL problems integrate over noise instead, at ``integrated`` samples and ``noise_levels`` each.
    """

    at: tuple[float, ...] = (0.3, 0.5, 0.7)
    extra: int = 3
    rounds: int = 4
    samples: int | None = None
    integrated: int = 256
    noise_levels: int = 20

    def __post_init__(self) -> None:
        if not all(one < two for one, two in pairwise([0.0, *self.at, 1.0])):
            raise ValueError(f"at must be increasing shares of the steps between 0 and 1, got {self.at}")
        if self.extra < 0:
            raise ValueError(f"extra must be at least 0, got {self.extra}")
        for name in ("rounds", "samples", "integrated", "noise_levels"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")

    def meter(
        self, denoiser: Denoiser, estimate: RatioEstimate, problem: du.Problem, seed: int, guided: Guided | None = None
    ) -> Meter:
        rare = len(estimate.anchor) // 2 if self.samples is None else self.samples
        count = self.integrated if lagrangian_of(problem).integrated else rare
        return Meter(denoiser, estimate, problem, count, self.noise_levels, seed, guided)

    def of_fit(self, context: FitContext, gain: float | None = None) -> Rounds:
        """The rounds of a fit: ``multipliers`` are for its objective to read, and move between its steps.

        ``gain``: where a gain moves first, from there (:class:`diffusion.methods.gain.Gain`, the ``rule`` then).
        """
        denoiser, estimate, solution, settings = context.denoiser, context.estimate, context.solution, context.config
        problem = solution.problem.bind(estimate.ratios)
        meter = self.meter(denoiser, estimate, problem, settings.seed)

        def measure(round_: int) -> tuple[np.ndarray, np.ndarray]:
            found = meter.measure(round_)
            return found.levels, found.errors

        steps = settings.max_train_steps
        ends = sorted({*(max(1, round(share * steps)) for share in self.at), steps})
        further = [steps + max(1, steps // 8) * (k + 1) for k in range(self.extra)]
        start, ratios = np.array(solution.multipliers), estimate.ratios
        rule = Asking(problem, ratios) if gain is None else Gain(problem, ratios, gain)
        stop = Stopping(enough=len(ends))
        return Rounds(problem, rule, start, lambda lam: lam, measure, [*ends, *further], stop, anew=True)


class MultiplierSource(Protocol):
    """Whoever has multipliers (m,): a solution, rounds."""

    @property
    def multipliers(self) -> np.ndarray: ...


@dataclass
class FixedMultipliers:
    """Multipliers by themselves."""

    multipliers: np.ndarray


class MovingTarget:
    """What a solution says at multipliers (m,) that move: log weights of samples, and strengths of guidance."""

    def __init__(self, estimate: RatioEstimate, problem: du.Problem, holder: MultiplierSource) -> None:
        """``holder``: whose multipliers count; those of a solution stay where they are."""
        self.problem, self.values, self.holder = problem.bind(estimate.ratios), estimate.values.double(), holder
        self._at: tuple[np.ndarray, Tensor] | None = None

    @property
    def natural(self) -> np.ndarray:
        return np.asarray(self.problem.natural(self.holder.multipliers))

    @property
    def log_weights(self) -> Tensor:
        """``log w`` (n,) at the samples of q."""
        natural = self.natural
        if self._at is None or not np.array_equal(self._at[0], natural):
            self._at = natural, self.problem.tilt(self.values, torch.from_numpy(natural.copy()))
        return self._at[1]

    def noised(self, rho: Tensor) -> Tensor:
        """``log E_q[w | x_t]`` (n,) at log ratios (n, m) of noised states."""
        return self.problem.noised_tilt(rho, torch.tensor(self.natural, dtype=rho.dtype, device=rho.device))

    def strength(self, rho: Tensor) -> Tensor:
        """Strengths of guidance (n, m), a :data:`diffusion.guidance.guided.Strength`."""
        return self.problem.strengths(rho, torch.tensor(self.natural, dtype=rho.dtype, device=rho.device))


def corrected_guidance(
    denoiser: Denoiser,
    estimate: RatioEstimate,
    solution: du.Solution,
    correction: Correction | None = None,
    *,
    seed: int = 0,
    bar: Bar = progress_bar,
) -> tuple[Strength, Outcome]:
    """Strengths under which guidance has the levels asked for, as measured, and the rounds that led there.

    Ends with the first round in which every level is met within one standard error (a level without a price may be
    overshot). The last row of the multipliers (k + 1, m) is what the strengths are made from.
    """
    correction = correction or Correction()
    problem = solution.problem.bind(estimate.ratios)
    rule, held = Asking(problem, estimate.ratios), FixedMultipliers(np.array(solution.multipliers))
    path, levels, errors = [held.multipliers], list[np.ndarray](), list[np.ndarray]()

    moving = MovingTarget(estimate, problem, held)
    guided = Guided(denoiser, estimate.prompts, estimate.classifier, moving.strength, LIMIT)
    meter = correction.meter(denoiser, estimate, problem, seed, guided)
    with bar("levels under guidance", correction.rounds) as shown:
        for round_ in range(correction.rounds):
            found = meter.measure(round_)
            level, error = broadcast_object((found.levels, found.errors))
            guided.trace.steps.clear()
            levels.append(level)
            errors.append(error)
            done = within_one_se(problem, level, error, held.multipliers)
            if not done:
                held.multipliers = rule.update(held.multipliers, -problem.slack(level))
            path.append(held.multipliers)
            shown.update(correction.rounds - round_ if done else 1)
            if done:
                break
    return moving.strength, Outcome([], np.array(path), np.array(levels), np.array(errors), capped=rule.capped)
