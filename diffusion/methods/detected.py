"""A network fitted to the optimal target under a law of prompts: guided tilts, multipliers moved by measured levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from diffusion.methods.base import DetectedFitContext, Outcome, fit_adapters
from diffusion.methods.chain import chain_of
from diffusion.methods.closed_form import CAUTION
from diffusion.methods.closed_form_start import begin
from diffusion.methods.correction import FixedMultipliers
from diffusion.methods.detected_batches import batches_of
from diffusion.methods.dual_loop import Rounds, Stopping
from diffusion.methods.gain import Gain, gain_of
from diffusion.methods.guided_tilt import guided_objective
from diffusion.methods.own_chain import Pool, Walkers, own_chain_objective
from diffusion.methods.versions import in_versions
from diffusion.ratios.detected import DetectedSamples, detect, sample_prompts
from diffusion.ratios.foreseen import foresee
from diffusion.tasks.detector_levels import estimates, shares, strengths
from diffusion.tasks.detectors import CheckedDetector
from diffusion.training.lora import merged_adapters

# Samples of a group with a level, at least, as a share of those of the law, when multipliers are moved.
FEW = 0.1


@dataclass(frozen=True)
class DetectedTilt:
    """Tilted denoising of every prompt of a law (:mod:`diffusion.methods.guided_tilt`), begun where prompts already
    take the law of their anchors (:mod:`diffusion.methods.closed_form_start`).

    ``own_chain``: by the gradient of the noised detector along the student's own chain instead
    (:mod:`diffusion.methods.own_chain`). ``at``: shares of the steps of a fit at which levels are measured on
    ``samples`` fresh samples (left out, half as many as the constraint was estimated on), and the multipliers moved;
    ``extra``: rounds at most after the last step, of an eighth of the steps each. Without ``at`` the solved multipliers
    are kept.
    """

    at: tuple[float, ...] = (0.3, 0.5, 0.7)
    extra: int = 3
    samples: int | None = None
    own_chain: bool = False

    def fit(self, context: DetectedFitContext, detectors: Sequence[CheckedDetector]) -> Outcome:
        """Into adapters, left active. ``FloatingPointError`` when a loss is not finite."""
        estimate, solution = context.estimate, context.solution
        rounds = self._rounds(context, detectors) if self.at else None
        holder = FixedMultipliers(np.array(solution.multipliers)) if rounds is None else rounds
        tilt = PromptTilt(estimate)

        def log_weights() -> Tensor:
            return tilt.log_weights(np.array(holder.multipliers, dtype=np.float64))

        def noised(eta: Tensor, asked: Tensor) -> Tensor:
            return tilt.noised(np.array(holder.multipliers, dtype=np.float64), eta, asked)

        # Rows of samples spill noise into prompts that stay; a regression without noise has none to hold back.
        data = batches_of(context.denoiser, estimate, log_weights(), 1.0 if self.own_chain else CAUTION)
        denoiser, law = context.denoiser, estimate.prompts
        data = in_versions(data, law, estimate.sampling.negative_prompt)
        state, gain = None, gain_of(rounds) or (lambda: context.config.gain)
        if self.own_chain:
            state = rounds or Pool()
            sampling, count = estimate.sampling, context.config.train_batch_size
            chain = replace(chain_of(denoiser, sampling.steps(denoiser)), negative=sampling.negative_prompt)
            walkers = Walkers(data, chain, count, state.tensors)
            foreseen = foresee(denoiser, estimate, detectors) if context.config.foresee else None
            objective = own_chain_objective(data, estimate.noised_detector, noised, walkers, gain, foreseen)
        else:
            network = estimate.noised_detector
            objective = guided_objective(data, network, log_weights, noised, context.config, gain)
        start = partial(begin, denoiser, law, context.config.other_layers)
        losses = fit_adapters(context, lambda _parameters: objective, rounds=rounds, state=state, start=start)
        return Outcome(losses, solution.multipliers[None]) if rounds is None else rounds.outcome(losses)

    def _rounds(self, context: DetectedFitContext, detectors: Sequence[CheckedDetector]) -> Rounds:
        estimate, solution, steps = context.estimate, context.solution, context.config.max_train_steps
        constraints = estimate.constraints
        count = len(estimate.latents) // 2 if self.samples is None else self.samples

        def measure(round_: int) -> tuple[np.ndarray, np.ndarray]:
            seed = int(np.random.SeedSequence([context.config.seed, 7, round_]).generate_state(1)[0])
            chosen = drawn_for_all(estimate, count, seed)
            with merged_adapters(context.denoiser):
                latents = sample_prompts(
                    context.denoiser, estimate.prompts, chosen, estimate.sampling, seed=seed, own=True
                )
            said = detect(context.denoiser.pipeline, latents, detectors)
            levels, errors = estimates(estimate.prompts, constraints, chosen, said.numpy(), count)
            # Nothing was seen of a group that is hardly ever asked: nothing is said against its level.
            return np.where(np.isnan(levels), problem.levels, levels), errors

        problem = solution.problem.bind(estimate.ratios)
        ends = sorted({*(max(1, round(share * steps)) for share in self.at), steps})
        further = [steps + max(1, steps // 8) * (k + 1) for k in range(self.extra)]
        stop = Stopping(enough=len(ends))
        start, ratios = np.array(solution.multipliers), estimate.ratios
        rule = Gain(problem, ratios, context.config.gain)
        return Rounds(problem, rule, start, lambda lam: lam, measure, [*ends, *further], stop, anew=True)


class PromptTilt:
    """The target's log weight of samples, and its mean at noised states, at multipliers (m,).

    ::

        log w(x, c) = -sum_k M_ck l_k(x) - s_c,        s_c = max(0, max over the samples of c of the first term),

    with M of :func:`diffusion.tasks.detector_levels.strengths`: it is the solution's own log weight up to s_c, which no
    target minds (every prompt has its normaliser) and which keeps the weights of a loss at most 1. At a noised state
    E[w | x_t, c] is ``1 + sum_k (e^{-M_ck} - 1) eta_k`` where no image shows two of the concepts (that is looked at on
    the samples), and the product of ``1 + (e^{-M_ck} - 1) eta_k`` where one does, which is right if they are shown
    independently. As a mean of w it lies between the least and the greatest weight of c's samples, and is put there
    where the network that predicts eta errs: where no sample of a prompt shows a concept nothing is changed.
    """

    def __init__(self, estimate: DetectedSamples) -> None:
        self.estimate, self.constraints = estimate, estimate.constraints
        self.alpha = shares(estimate.prompts, self.constraints)
        self.exclusive = bool((estimate.detected.sum(1) <= 1 + 1e-12).all())

    def _strengths(self, multipliers: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """M (C, k), log weights (n,) before s is taken off, and s (C,)."""
        estimate, per_prompt = self.estimate, strengths(self.alpha, self.constraints, multipliers)
        raw = -(per_prompt[estimate.rows] * estimate.detected).sum(1)
        top = torch.zeros(len(estimate.prompts), dtype=raw.dtype).scatter_reduce(0, estimate.rows, raw, "amax")
        return per_prompt, raw, top

    def log_weights(self, multipliers: np.ndarray) -> Tensor:
        """(n,) double, at most 0."""
        _, raw, top = self._strengths(multipliers)
        return raw - top[self.estimate.rows]

    def noised(self, multipliers: np.ndarray, eta: Tensor, asked: Tensor) -> Tensor:
        """log E[w | x_t, c] (n,) from eta (n, k) under prompts by number (n,)."""
        per_prompt, raw, top = self._strengths(multipliers)
        rows, of = self.estimate.rows, asked.cpu()
        gains = torch.expm1(-per_prompt[of].to(eta))
        mean = 1 + (gains * eta).sum(1) if self.exclusive else (1 + gains * eta).prod(1)
        # The weights that samples of each prompt have: prompts without any are not asked.
        logs, end = raw - top[rows], torch.full_like(top, torch.inf)
        least, most = end.scatter_reduce(0, rows, logs, "amin")[of], (-end).scatter_reduce(0, rows, logs, "amax")[of]
        return (mean.clamp_min(torch.finfo(eta.dtype).tiny).log() - top[of].to(eta)).clamp(least.to(eta), most.to(eta))


def drawn_for_all(estimate: DetectedSamples, count: int, seed: int) -> np.ndarray:
    """Prompts of the law by number, and further ones of every group with a level of which these hold few."""
    prompts, few = estimate.prompts, max(2, round(FEW * count))
    chosen = [prompts.drawn(count, seed)]
    for j, group in enumerate(dict.fromkeys(each.group for each in estimate.constraints if each.group is not None)):
        missing = few - int((prompts.within(group)[chosen[0]] > 0).sum())
        if missing > 0:
            word = int(np.random.SeedSequence([seed, 11, j]).generate_state(1)[0])
            chosen.append(prompts.drawn(missing, word, group))
    return np.concatenate(chosen)
