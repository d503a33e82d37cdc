r"""What a method is: from a pipeline, what is known of its law, and a solution, to a student, a LoRA or all weights.

Every method minimises, by the same trainer on the same adapters, seeds and batches,

    loss = ( n_tilted · method's loss + n_kept · mean |f - T|^2 ) / (n_tilted + n_kept),

f the student's and T the frozen teacher's raw output (n, ...); the second term, over draws of the retained prompts
under their prompts, is what keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import duality as du
from diffusion.pipelines import Denoiser
from diffusion.ratios.ratio_estimate import Survey
from diffusion.tasks.image_set import Images
from diffusion.training.batches import Batches
from diffusion.training.trainer import Fit, Progress


@dataclass(frozen=True)
class Outcome:
    """What a fit leaves besides the adapters on the network.

    ``multipliers``: (k + 1, m), before each of k dual rounds and after the last; (1, m) for methods without rounds, NaN
    for those that have none.
    ``levels``, ``errors``: (k, m) estimates of the constrained functionals in each round and their standard errors;
    the last row is of the weights that were delivered.
    ``asked``: (k + 1, m) levels that the exact answer was solved for, where a method moves these; else empty.
    ``capped``: (m,) whether a multiplier was held back from running away
    (:data:`diffusion.methods.level_shift.REACH`); empty for methods without rounds.
    """

    losses: list[float]
    multipliers: np.ndarray
    levels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    errors: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    asked: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    capped: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))


class Method(Protocol):
    """Fits a concept's solution into adapters named ``diffusion.methods.tilted_loss.ADAPTER``, left active on the
    network."""

    def fit(
        self,
        denoiser: Denoiser,
        known: Survey,
        solution: du.Solution,
        settings: Fit,
        *,
        checkpoint: Path | None = None,
        every: int = 100,
        progress: Progress | None = None,
    ) -> Outcome:
        """Resumes exactly from ``checkpoint`` where it exists. ``FloatingPointError`` when a loss is not finite."""


class ImageMethod(Protocol):
    """Forgets images into the same adapters; ``levels`` (m,), nats above the present surprise at each image."""

    def fit(
        self,
        denoiser: Denoiser,
        images: Images,
        levels: Any,
        settings: Fit,
        *,
        checkpoint: Path | None = None,
        every: int = 100,
        progress: Progress | None = None,
    ) -> Outcome:
        """As :meth:`Method.fit`."""


def batches_of(denoiser: Denoiser, known: Survey, settings: Fit, power: float = 1.0) -> Batches:
    """Draws of the anchor's law and of the retained prompts, as surveyed; ``power`` of noise levels, see Batches."""
    latents, prompts = known.retained
    return Batches(denoiser, known.prompts, known.anchor, latents, prompts, settings, power=power)
