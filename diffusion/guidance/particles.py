r"""Particles that reach the optimal target in the limit, without training: Feynman-Kac correction of any sampler.

A chain x_0 -> ... -> x_K with kernels K_k (the sampler's, from noise to images) and a weight w of its end define the
tilted law of paths, whose end has the target's law. N particles are moved by proposals M_k and weighed by ::

    G_k = psi_{k+1}(x_{k+1}) / psi_k(x_k) · K_k(x_{k+1} | x_k) / M_k(x_{k+1} | x_k),    psi_K = w,   weight psi_0 at 0

with any psi_k > 0: the product over a path is w times the ratio of its laws, whatever psi and M say. psi_k near Doob's
E[w | x_k] keeps the weights even; where the effective sample size falls, particles are drawn anew in proportion to
them. So means over the particles converge to the target's as N grows, the estimate of Z = E[w] is unbiased at any N,
and what psi and M get wrong costs sample size, which is said. Particles of one run are not independent of each other.

Source: Del Moral, Feynman-Kac Formulae (2004); Feynman-Kac correctors, arXiv:2503.02819; systematic resampling:
Kitagawa (1996).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.pipelines import Denoiser, repeat
from diffusion.pipelines.base import device_of, generators, noise_of
from diffusion.pipelines.batch_size import evaluation_limit
from diffusion.pipelines.stepping import scheduler_of
from diffusion.ratios.classifier import Bottleneck, log_snr, pooled
from diffusion.ratios.detected import detect
from diffusion.ratios.noised_detector import NoisedDetector
from diffusion.runtime.memory import in_batches
from diffusion.tasks.config import Sampling
from diffusion.tasks.detectors import CheckedDetector

#: Schedulers whose next state depends on the last one alone, with noise: their kernels are a Markov chain.
STOCHASTIC = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")
THRESHOLD = 0.5  # of the effective sample size over N, below which particles are drawn anew


class Process(Protocol):
    """N paths that are moved together. ``steps``: how many moves there are."""

    steps: int

    def look(self, k: int) -> NDArray[np.float64]:
        """``log psi_k`` (n,) at the states after k moves; at k = ``steps`` it is log w. -inf where w is zero."""
        ...

    def move(self, k: int) -> NDArray[np.float64]:
        """One draw of the proposal for each; ``log K/M`` (n,) there, zeros where the proposal is the kernel."""
        ...

    def take(self, index: NDArray[np.int64]) -> None:
        """The paths ``index`` (n,) in the place of those that there are."""
        ...


@dataclass(frozen=True)
class Run:
    """What came of N particles.

    ``index`` (n,): the paths that a last draw chose, of equal weight; ``log_weights`` (n,) before it, adding up to one.
    ``effective``: effective sample sizes after 0 ... ``steps`` moves; ``log_normaliser``: of the unbiased estimate of
    Z. ``roots``: paths of the start that are still there at the end.
    """

    index: NDArray[np.int64]
    log_weights: NDArray[np.float64]
    effective: tuple[float, ...]
    log_normaliser: float
    roots: int
    resampled: int

    @property
    def distinct(self) -> int:
        """How many different paths the last draw chose."""
        return len(np.unique(self.index))

    def __str__(self) -> str:
        n = len(self.index)
        return (
            f"{n} particles, {self.distinct} of them distinct; effective sample size {self.effective[-1]:.0f} at the "
            f"end, {min(self.effective):.0f} at least; drawn anew {self.resampled} times, from {self.roots} starts; "
            f"Z about {math.exp(self.log_normaliser):.4g}"
        )


def run(process: Process, n: int, chance: np.random.Generator, threshold: float = THRESHOLD) -> Run:
    """Move n particles to the end.

    ``ValueError`` where all weights are zero, ``FloatingPointError`` where one is not a number.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
    log_weights, before, roots = np.zeros(n), np.zeros(n), np.arange(n)
    effective: list[float] = []
    log_z, resampled = 0.0, 0
    for k in range(process.steps + 1):
        value = process.look(k)
        log_weights = log_weights + value - before
        if np.isnan(log_weights).any():
            raise FloatingPointError(f"weights of particles after {k} moves: not a number")
        total = _log_sum(log_weights)
        if total == -math.inf:
            raise ValueError(f"after {k} moves no particle has any weight: nothing of the target was reached")
        effective.append(math.exp(2 * total - _log_sum(2 * log_weights)))
        if k == process.steps:
            break
        if effective[-1] < threshold * n:
            log_z += total - math.log(n)
            index = systematic(log_weights, chance)
            process.take(index)
            value, roots, log_weights = value[index], roots[index], np.zeros(n)
            resampled += 1
        log_weights = log_weights + process.move(k)
        before = value
    index = systematic(log_weights, chance)
    left = len(np.unique(roots[index]))
    return Run(index, log_weights - total, tuple(effective), log_z + total - math.log(n), left, resampled)


def systematic(log_weights: NDArray[np.float64], chance: np.random.Generator) -> NDArray[np.int64]:
    """Numbers (n,) of which j occurs n p_j times in the mean, and never more than one beside that."""
    n = len(log_weights)
    shares = np.exp(log_weights - _log_sum(log_weights))
    edges = np.cumsum(shares)
    edges[-1] = max(edges[-1], 1.0)
    found = np.searchsorted(edges / edges[-1], (chance.random() + np.arange(n)) / n, side="right")
    return np.minimum(found, int(np.flatnonzero(shares)[-1]))


def _log_sum(values: NDArray[np.float64]) -> float:
    most = float(values.max())
    return most if most == -math.inf else most + math.log(float(np.exp(values - most).sum()))


def check_stochastic(denoiser: Denoiser) -> None:
    """``ValueError`` where the pipeline's scheduler adds no noise, or remembers more than its last state."""
    kind = type(denoiser.pipeline.scheduler).__name__
    if kind not in STOCHASTIC:
        raise ValueError(
            f"scheduler: particles are moved by kernels with noise, and {kind} has none, or remembers more than "
            f"its last state: take {' or '.join(STOCHASTIC)}"
        )


class SamplerProcess:
    """The pipeline's own stochastic sampler under one prompt, by its kernels; psi by a noised detector.

    ::

        log w = -lam·l(x_0),      log psi_k = sum_i log(1 - (1 - e^{-lam_i}) eta_i(x_k))

    with detectors l, multipliers lam (m,), and eta of ``noised_detector`` read off the very pass that moves the
    particles: no network evaluation more than sampling takes. Without it psi is 1 before the end. Raises
    ``ValueError`` where the pipeline's scheduler adds no noise, or remembers more than its last state.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        prompt: str,
        sampling: Sampling,
        rule: tuple[Sequence[CheckedDetector], NDArray[np.float64]],
        noised_detector: NoisedDetector | None,
        *,
        n: int,
        seed: int,
    ) -> None:
        check_stochastic(denoiser)
        self.denoiser, self.noised_detector = denoiser, noised_detector
        self.detectors, multipliers = rule
        self.multipliers = torch.from_numpy(np.array(multipliers, dtype=np.float64))  # a copy: solutions are read-only
        self.scheduler = scheduler_of(denoiser, sampling.steps(denoiser))
        self.steps, self.scale = len(self.scheduler.timesteps), sampling.mixed_scale(denoiser)
        self.chances = generators(seed, n)
        start = noise_of(self.chances, denoiser.sample_shape).to(device_of(denoiser))
        self.states = start * self.scheduler.init_noise_sigma
        self.condition, self.empty = (denoiser.condition([text]) for text in (prompt, sampling.negative_prompt))
        self.said: Tensor | None = None
        self.evaluations = 0

    def look(self, k: int) -> NDArray[np.float64]:
        if k == self.steps:
            found = detect(self.denoiser.pipeline, self.states.float().cpu(), self.detectors)
            return np.asarray(-(found @ self.multipliers).numpy())
        timestep = self.scheduler.timesteps[k]
        scaled = self.scheduler.scale_model_input(self.states, timestep)
        limit = evaluation_limit(self.denoiser, 128)

        def some(start: int, stop: int) -> Tensor:
            return self._asked(scaled[start:stop], timestep)

        with torch.no_grad():
            both = torch.cat(in_batches(some, len(scaled), limit))
        self.evaluations += len(scaled) * (2 if self.scale > 1 else 1)
        log_psi, self.said = both[:, 0].double().cpu().numpy(), both[:, 1:].view_as(scaled)
        return np.asarray(log_psi)

    def _asked(self, x: Tensor, timestep: Tensor) -> Tensor:
        """log psi (n, 1) and the network's mixed output (n, ...), flat."""
        at = timestep.expand(len(x)).to(x.device)
        with Bottleneck(self.denoiser) as caught:
            said = self.denoiser.call(x, at, repeat(self.condition, len(x)))
        log_psi = torch.zeros(len(x), 1, device=x.device)
        if self.noised_detector is not None and caught.last is not None:
            device = self.noised_detector.center.device
            feature, snr = pooled(caught.last, said), log_snr(self.denoiser, self.denoiser.level(at))
            eta = self.noised_detector(feature.to(device), snr.to(device))
            lam = self.multipliers.to(eta)
            log_psi = torch.log1p(torch.expm1(-lam) * eta).sum(1, keepdim=True).to(x.device)
        if self.scale > 1:
            free = self.denoiser.call(x, at, repeat(self.empty, len(x)))
            said = free + self.scale * (said - free)
        return torch.cat([log_psi.to(said), said.flatten(1)], 1)

    def move(self, k: int) -> NDArray[np.float64]:
        call: dict[str, Any] = {"generator": self.chances, "return_dict": False}
        self.states = self.scheduler.step(self.said, self.scheduler.timesteps[k], self.states, **call)[0]
        return np.zeros(len(self.states))

    def take(self, index: NDArray[np.int64]) -> None:
        """The places' noise stays theirs, so that copies part at the next move."""
        chosen = torch.from_numpy(index).to(self.states.device)
        self.states = self.states[chosen]
        if self.said is not None:
            self.said = self.said[chosen]


def particle_samples(process: SamplerProcess, seed: int, threshold: float = THRESHOLD) -> tuple[Tensor, Run]:
    """Samples (n, ...) of equal weight, float32 on the CPU, and how they came about."""
    word = int(np.random.SeedSequence([seed, 73]).generate_state(1)[0])
    found = run(process, len(process.chances), np.random.default_rng(word), threshold)
    return process.states.float().cpu()[torch.from_numpy(found.index)], found
