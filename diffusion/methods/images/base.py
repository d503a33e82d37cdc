r"""What methods that forget images share: states around data and images, rounds, measured levels.

::

    rounds of optimiser steps on a loss  ->  rise of the negative ELBO at each image, nats  ->  dual step

The loss and the dual rule are the method's own. Half of the noise levels of a batch are spread evenly over log SNR, as
it is measured, half evenly over the schedule, whose middle decides which image a sample becomes: nats are to be
had most cheaply in the last details, and a network that pays there alone still samples the image, a little off. (No
spread moves the minimiser among all functions; it does among a network's.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.methods.base import ImageFitContext, ImageMethod, Outcome, at_least_one, trainer_of
from diffusion.methods.dual_loop import Rounds, Stopping, ends_of
from diffusion.methods.dual_steps import Scaled
from diffusion.methods.images.importance_mixture import Mixed, mixed
from diffusion.methods.images.pairing import Pairing, Pairs
from diffusion.methods.images.unseen import elbo_drop
from diffusion.pipelines import Condition, rows
from diffusion.ratios.noise_integral import spread_log_snr
from diffusion.runtime.distributed import WHOLE, Part
from diffusion.tasks.config import AFTER
from diffusion.training.batches import spread_levels
from diffusion.training.lora import add_student, base_model
from duality import primal_dual as pd


@dataclass(frozen=True)
class ImageFit(ImageMethod):
    """``inner``: optimiser steps in a round. ``warmup``: rounds before the first dual step, ``gain`` and ``damping`` of
    the dual steps (0: plain ascent), which shrink with the optimiser's rate. ``extra``: rounds at most after the last
    step of the settings, at a tenth of the rate, while a level is not met within one standard error, or overshot by
    more under a multiplier (``one_sided``: while one is not met by a standard error). ``mixture``: beta, the part of
    states that is drawn around images. ``noise_levels``, ``repeats``: levels and noises of an estimate. ``patience``:
    see :func:`diffusion.methods.dual_steps.converged`.
    """

    inner: int = 20
    warmup: int = 1
    gain: float = 0.4
    damping: float = 4.0
    extra: int = 20
    mixture: float = 0.25
    noise_levels: int = 20
    repeats: int = 4
    patience: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.mixture < 1 or self.repeats < 2:
            raise ValueError(
                f"mixture must lie strictly between 0 and 1 and repeats be at least 2, got {self.mixture} and "
                f"{self.repeats}"
            )
        if self.damping < 0 or self.extra < 0:
            raise ValueError(f"damping and extra must be at least 0, got {self.damping} and {self.extra}")

    def fit(self, context: ImageFitContext) -> Outcome:
        """``levels``: a number or (m,), nats above the present negative ELBO of each; see ``images.as_unseen``."""
        run = self.run(context)
        parameters = add_student(context.denoiser, context.config.adapter_rank, context.config.seed)
        return run.outcome(run.rounds.run(trainer_of(context, parameters, run.objective, run.rounds)))

    def with_patience(self, rounds: int) -> Self:
        return replace(self, patience=at_least_one(rounds))

    @abstractmethod
    def run(self, context: ImageFitContext) -> ImageRun:
        """Everything checked; nothing done to the network."""

    def ascent(self) -> pd.DualRule:
        return pd.NuPI(self.gain, proportional=self.damping) if self.damping else pd.Ascent(self.gain)


@dataclass(frozen=True)
class Step:
    """What a step, or a part of it, looks at (n, ...): ``said`` the base model's noise prediction, ``f`` the
    student's."""

    pairs: Pairs
    states: Mixed
    t: Tensor
    said: Tensor
    f: Tensor


class ImageRun(ABC):
    """One run; a method adds its ``objective``, and ``rule`` and ``project`` of the multipliers (m,)."""

    least = AFTER  # what a miss counts at least, however low the optimiser's rate
    one_sided = False  # see :class:`diffusion.methods.dual_loop.Rounds`

    def __init__(self, method: ImageFit, context: ImageFitContext) -> None:
        denoiser, images, settings = context.denoiser, context.images, context.config
        images.check(denoiser)
        given = np.asarray(context.levels, float)
        if given.shape not in ((), (len(images.forget),)):
            raise ValueError(f"levels: shape {given.shape} given for {len(images.forget)} images; one, or one for each")
        self.method, self.denoiser, self.images, self.settings = method, denoiser, images, settings
        self.problem = du.ForwardKL(np.broadcast_to(given, (len(images.forget),)).copy())
        ends = ends_of(method.inner, settings.max_train_steps)
        every = [*ends, *(settings.max_train_steps + method.inner * (k + 1) for k in range(method.extra))]
        self.decays = [max(self.least, settings.decayed(end)) for end in every]
        self.rounds = Rounds(
            self.problem,
            self.rule(),
            images.start(self.problem.levels),
            self.project,
            self.measure,
            every,
            Stopping(method.patience, len(ends), self.one_sided),
        )
        self.pairing = Pairing(images, ~images.aside, settings)
        distinct = sorted(set(images.data_prompts))
        self._conditions = denoiser.condition(distinct)
        self._row = torch.tensor([distinct.index(prompt) for prompt in images.data_prompts])
        self._device = next(denoiser.network.parameters()).device

    @abstractmethod
    def objective(self, step: int, generator: torch.Generator, part: Part = WHOLE, /) -> Tensor:
        """The loss of one step, :class:`diffusion.training.trainer.Objective`."""

    @abstractmethod
    def rule(self) -> Scaled:
        """How multipliers answer to misses in nats."""

    @abstractmethod
    def project(self, multipliers: np.ndarray) -> np.ndarray:
        """Multipliers (m,) brought back to where they may lie."""

    def outcome(self, outcome: Outcome) -> Outcome:
        """What a finished run leaves; a method may have more to say."""
        return outcome

    def condition(self, pairs: Pairs) -> Condition:
        return rows(self._conditions, self._row[pairs.data])

    def states(self, pairs: Pairs, generator: torch.Generator) -> tuple[Mixed, Tensor]:
        """States and noise levels (n,)."""
        kept = self.images.data[pairs.data].to(self._device)
        forgotten = self.images.forget[pairs.image].to(kept)
        half = len(kept) // 2
        some = spread_levels(self.denoiser, half, generator)
        t = torch.cat([some, spread_log_snr(self.denoiser, len(kept) - half, generator)]).to(self._device)
        share = torch.where(pairs.share > 0, self.method.mixture, 0.0).to(kept)
        return mixed(self.denoiser, kept, forgotten, t, share, generator), t

    def step(self, generator: torch.Generator, part: Part) -> Step:
        pairs = self.pairing(generator)
        states, t = self.states(pairs, generator)
        mine, states = part.rows(len(t)), states.part(part)
        t, condition = t[mine], rows(self.condition(pairs), mine)
        denoiser, x = self.denoiser, states.x
        # Noise predictions: at levels spread over log SNR their squares are nats, as measured.
        with base_model(denoiser):
            said = denoiser.epsilon(denoiser.predict(x, t, condition), x, t)
        f = denoiser.epsilon(denoiser.predict(x, t, condition), x, t)
        return Step(Pairs(pairs.data[mine], pairs.image[mine], pairs.share[mine]), states, t, said, f)

    def measure(self, _round: int) -> tuple[np.ndarray, np.ndarray]:
        """Nats gained (m,) and their standard errors (m,), under the same noise in every round."""
        return self.estimate(self.settings.seed)

    def estimate(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        method = self.method
        return elbo_drop(self.denoiser, self.images, method.noise_levels, method.repeats, seed)
