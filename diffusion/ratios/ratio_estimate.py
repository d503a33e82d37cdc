"""What is known of a pipeline's law before anything is changed: the budget it was found with, draws, ratios, head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import duality as du
from diffusion.pipelines.sampling import STEPS
from diffusion.ratios.calibration import Calibration
from diffusion.ratios.classifier import RatioClassifier
from diffusion.ratios.classifier_ratios import posterior
from diffusion.tasks.concepts import Prompts


@dataclass(frozen=True)
class Budget:
    """How much a survey may cost. One unit is one network call on one draw."""

    concept_draws: int = 600
    contrast_draws: int = 1000
    anchor_draws: int = 2000
    sampler_steps: int = STEPS
    noises: int = 12  # noised copies of each labelled draw that the head learns from
    head_steps: int = 400
    elbo_draws: int = 200
    elbo_levels: int = 20
    seed: int = 0

    @property
    def anchor_seed(self) -> int:
        """Of the starting noise of q's draws. Draws after a change start from it too: what differs is the change."""
        return 10 * self.seed + 2

    def __post_init__(self) -> None:
        for name, least in (("concept_draws", 10), ("contrast_draws", 10), ("anchor_draws", 10), ("sampler_steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class RatioEstimate:
    """What is known of a pipeline's law, seen from q."""

    prompts: Prompts
    classifier: RatioClassifier
    labelled: Tensor  # (N, ...) draws of concept and contrast prompts
    labels: Tensor  # (N,) concept i, m for the rest, or m + 1 for draws of q that nobody labelled
    labelled_prompts: tuple[str, ...]
    anchor: Tensor  # (n, ...) draws of q
    values: Tensor  # (n, m) log ratios at them, by the head
    elbo: Tensor  # (k, m) ELBO differences at the first k of them, the independent check; NaN without prompts
    examination: tuple[Calibration, ...]  # per concept, on labelled draws that the head never saw
    fingerprint: str
    budget: Budget
    priors_stderr: tuple[float, ...] = ()  # (m,) where the priors were estimated from draws, else empty

    @property
    def ratios(self) -> du.LogRatios:
        return du.LogRatios(self.values.double().numpy(), priors=list(self.prompts.priors))

    @property
    def training(self) -> Tensor:
        """(N,) which of the labelled draws the head learned from; the others examine it."""
        return training_rows(len(self.labels))

    @property
    def posterior(self) -> Tensor:
        """``Pr(i | x)`` (n, m) at the anchor draws."""
        return posterior(self.values, self.prompts.priors)

    @property
    def retained(self) -> tuple[Tensor, tuple[str, ...]]:
        """The draws of the contrast prompts, and their prompts."""
        rest = (self.labels == len(self.prompts.concepts)).nonzero()[:, 0]
        return self.labelled[rest], tuple(self.labelled_prompts[int(j)] for j in rest)

    def coverage(self, index: int = 0) -> tuple[float, float]:
        """Mean posterior over prior and its standard error: 1 where concept prompts and prior account for q's draws.

        Says nothing where the prior was estimated from those very draws.
        """
        share = self.posterior[:, index] / self.prompts.priors[index]
        return float(share.mean()), float(share.std() / len(share) ** 0.5)

    def agreement(self, index: int = 0) -> float:
        """AUC with which the ELBO difference, which needs no training, ranks what the head calls the concept.

        NaN where none or all of the draws that were looked at are called so, or where no prompt asks for the concept.
        """
        from sklearn.metrics import roc_auc_score

        called = (self.posterior[: len(self.elbo), index] > 0.5).numpy()
        if called.all() or not called.any() or bool(self.elbo[:, index].isnan().any()):
            return float("nan")
        return float(roc_auc_score(called, self.elbo[:, index].numpy()))


def training_rows(count: int) -> Tensor:
    """(count,) booleans, four fifths: the concept's and the contrast's prompts take turns, so every fifth is fair."""
    training = torch.ones(count, dtype=torch.bool)
    training[4::5] = False
    return training
