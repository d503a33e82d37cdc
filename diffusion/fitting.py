"""A student put onto a network, trained, and left there: what every method does around its objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from .lora import add_student
from .models import Denoiser
from .training import Fit, Objective, Progress, Stateful, Trainer


def fit_adapters(
    denoiser: Denoiser,
    objective: Callable[[list[nn.Parameter]], Objective],
    settings: Fit,
    *,
    targets: Sequence[str] | None = None,
    checkpoint: Path | None = None,
    every: int = 100,
    progress: Progress | None = None,
    state: Stateful | None = None,
    train: Callable[[Trainer], None] = Trainer.run,
) -> list[float]:
    """A fresh student, the objective made from their parameters, all steps, averages in place; returns the losses.

    ``train`` takes the steps, where something is to happen between them; ``state`` is what it keeps.
    """
    parameters = add_student(denoiser, settings.rank, settings.seed, targets)
    trainer = Trainer(
        denoiser.network,
        parameters,
        objective(parameters),
        settings,
        checkpoint=checkpoint,
        every=every,
        progress=progress,
        state=state,
    )
    train(trainer)
    return trainer.finish()
