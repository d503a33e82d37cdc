r"""What a method is: from a pipeline, what is known of its law, and a solution, to a student, a LoRA or all weights.

Every method minimises, by the same trainer on the same adapters, seeds and batches, ::

    loss = ( n_tilted · method's loss + n_kept · mean |f - T|^2 ) / (n_tilted + n_kept),

f the student's and T the frozen base model's raw output (n, ...); the second term, over samples of the retained prompts
under their prompts, is what keeps them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from torch import nn

import duality as du
from diffusion.pipelines import Denoiser
from diffusion.ratios.detected import DetectedSamples
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images
from diffusion.training.batches import Batches
from diffusion.training.lora import add_student
from diffusion.training.trainer import Objective, Progress, Stateful, Trainer

if TYPE_CHECKING:
    from diffusion.methods.dual_loop import Rounds


@dataclass(frozen=True)
class Outcome:
    """What a fit leaves besides the adapters on the network.

    ``multipliers``: (k + 1, m), before each of k dual rounds and after the last; (1, m) for methods without rounds, NaN
    for those that have none.
    ``levels``, ``errors``: (k, m) estimates of the constrained functionals in each round and their standard errors;
    the last row is of the weights that were delivered.
    ``asked``: (k + 1, m) levels that the exact answer was solved for, where a method moves these; else empty.
    ``capped``: (m,) whether a multiplier was held back from running away
    (:data:`diffusion.methods.level_shift.REACH`) and its level still missed; empty for methods without rounds.
    ``gains``: (k + 1,) the gain of each round and after the last, where one moves; else empty.
    """

    losses: list[float]
    multipliers: np.ndarray
    levels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    errors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    asked: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    capped: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    gains: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class FitContext:
    """All that a method for concepts fits from: the network, what is known of its law, the solution, the settings.

    ``checkpoint``: where the run is kept every ``every`` steps, and resumed from bit for bit where that file exists;
    ``progress`` is called with the number of steps just taken.
    """

    denoiser: Denoiser
    estimate: RatioEstimate
    solution: du.Solution
    config: FitConfig
    checkpoint: Path | None = None
    every: int = 100
    progress: Progress | None = None


@dataclass(frozen=True)
class ImageFitContext:
    """The same for images to be forgotten; ``levels`` (m,) or one number: nats above the present negative ELBO."""

    denoiser: Denoiser
    images: Images
    levels: Any
    config: FitConfig
    checkpoint: Path | None = None
    every: int = 100
    progress: Progress | None = None


@dataclass(frozen=True)
class DetectedFitContext:
    """The same for a law of prompts whose levels are of detectors."""

    denoiser: Denoiser
    estimate: DetectedSamples
    solution: du.Solution
    config: FitConfig
    checkpoint: Path | None = None
    every: int = 100
    progress: Progress | None = None


@dataclass(frozen=True)
class ErasureContext:
    """What a method sees that knows prompts alone: no ratios, no solution, no level (:mod:`diffusion.methods.erasure`).

    ``asking``: prompts that ask for what must go; ``anchors``: as many, what each falls back to; ``retained``: prompts
    to be retained; ``relabelled``: for each asking prompt those that may stand in for it, left out all retained ones.
    ``guidance_scale``, ``num_inference_steps``: of the samples, finished or half finished, that are looked at.
    """

    denoiser: Denoiser
    asking: tuple[str, ...]
    anchors: tuple[str, ...]
    retained: tuple[str, ...]
    config: FitConfig
    relabelled: tuple[tuple[str, ...], ...] = ()
    guidance_scale: float = 3.0
    num_inference_steps: int = 14
    checkpoint: Path | None = None
    every: int = 100
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if not self.asking or not self.retained:
            raise ValueError("asking and retained must hold at least one prompt each")
        for name, given in (("anchors", self.anchors), ("relabelled", self.relabelled)):
            if len(given) != len(self.asking) and not (name == "relabelled" and not given):
                raise ValueError(f"{name} must be one for each of {len(self.asking)} asking prompts, got {len(given)}")


AnyContext = FitContext | ImageFitContext | DetectedFitContext | ErasureContext


class Steerable:
    """What some methods can do beside fitting. A caller asks for it; a method that cannot says so."""

    def with_patience(self, rounds: int) -> Self:
        """The method, to end early after so many dual rounds with all levels met. ``ValueError`` where it has none."""
        raise ValueError(
            f"early_stopping_rounds: {type(self).__name__} has no dual rounds; primal-dual has, for images tilted, too"
        )

    def uncorrected(self) -> Self:
        """The method, going by the solved multipliers. ``ValueError`` where it moves none."""
        raise ValueError(
            f"fixed_multipliers: {type(self).__name__} has no correction to leave out, tilted and guidance do"
        )


def at_least_one(rounds: int) -> int:
    """``patience`` as given. ``ValueError`` below 1."""
    if rounds < 1:
        raise ValueError(f"patience must be at least 1 round, got {rounds}")
    return rounds


class Method(Steerable, ABC):
    """Fits a concept's solution into adapters named ``diffusion.training.lora.ADAPTER``, left active on the network."""

    def needs_prompts(self, kind: type[du.Problem]) -> bool:
        """Whether every concept must have a prompt of its own, for problems of this kind."""
        return False

    @abstractmethod
    def fit(self, context: FitContext) -> Outcome:
        """Resumes exactly from the checkpoint where it exists. ``FloatingPointError`` when a loss is not finite."""


class ImageMethod(Steerable, ABC):
    """Forgets images into the same adapters."""

    @abstractmethod
    def fit(self, context: ImageFitContext) -> Outcome:
        """As :meth:`Method.fit`."""


def batches_of(context: FitContext, power: float = 1.0) -> Batches:
    """Samples of the anchor's law and of the retained prompts, as surveyed; ``power`` of noise levels, see Batches."""
    estimate = context.estimate
    latents, prompts = estimate.retained
    return Batches(context.denoiser, estimate.prompts, estimate.anchor, latents, prompts, context.config, power=power)


def fit_adapters(
    context: AnyContext,
    objective: Callable[[list[nn.Parameter]], Objective],
    *,
    targets: Sequence[str] | None = None,
    rounds: Rounds | None = None,
    state: Stateful | None = None,
    start: Callable[[], Sequence[float] | None] | None = None,
) -> list[float]:
    """A fresh student, the objective made from its parameters, all steps, averages in place; returns the losses.

    ``targets``: see :func:`diffusion.training.lora.add_student`. ``rounds``: what happens between steps, and is kept;
    ``state``: what else is, where there are none. ``start``: puts the fresh student where the fit begins, and returns
    the rates of its parameters (None: all alike); left out, it begins at the base model.
    """
    config = context.config
    parameters = add_student(context.denoiser, config.adapter_rank, config.seed, targets)
    rates = None if start is None else start()
    trainer = trainer_of(context, parameters, objective(parameters), rounds or state)
    if rates is not None:
        trainer.learn_at(rates)
    if rounds is None:
        trainer.run()
    else:
        rounds.train(trainer)
    return trainer.finish()


def trainer_of(
    context: AnyContext,
    parameters: list[nn.Parameter],
    objective: Objective,
    state: Stateful | None = None,
) -> Trainer:
    """The trainer of a fit, resumed where its checkpoint exists."""
    return Trainer(
        context.denoiser.network,
        parameters,
        objective,
        context.config,
        checkpoint=context.checkpoint,
        every=context.every,
        progress=context.progress,
        state=state,
    )
