"""What is known of a pipeline's law before anything is changed: samples, ratios, classifier, and how they were made."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import duality as du
from diffusion.ratios.calibration import Calibration
from diffusion.ratios.classifier import RatioClassifier
from diffusion.ratios.classifier_ratios import posterior
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.config import RatiosConfig, Sampling


@dataclass(frozen=True)
class RatioEstimate:
    """What is known of a pipeline's law, seen from q."""

    prompts: TaskPrompts
    classifier: RatioClassifier
    labelled: Tensor  # (N, ...) samples of concept and contrast prompts
    labels: Tensor  # (N,) concept i, m for the contrast, or m + 1 for samples of q that nobody labelled
    labelled_prompts: tuple[str, ...]
    anchor: Tensor  # (n, ...) samples of q
    values: Tensor  # (n, m) log ratios at them, by the classifier
    elbo: Tensor  # (k, m) ELBO differences at the first k of them, the independent check; NaN without prompts
    validation: tuple[Calibration, ...]  # per concept, on labelled samples that the classifier never saw
    fingerprint: str
    budget: RatiosConfig
    sampling: Sampling
    priors_stderr: tuple[float, ...] = ()  # (m,) where the priors were estimated from samples, else empty

    @property
    def ratios(self) -> du.LogRatios:
        return du.LogRatios(self.values.double().numpy(), priors=list(self.prompts.priors))

    @property
    def training(self) -> Tensor:
        """(N,) which of the labelled samples the classifier learned from; the others validate it."""
        return training_rows(len(self.labels))

    @property
    def posterior(self) -> Tensor:
        """``Pr(i | x)`` (n, m) at the anchor samples."""
        return posterior(self.values, self.prompts.priors)

    @property
    def retained(self) -> tuple[Tensor, tuple[str, ...]]:
        """The samples of the contrast prompts, and their prompts."""
        rest = (self.labels == len(self.prompts.concepts)).nonzero()[:, 0]
        return self.labelled[rest], tuple(self.labelled_prompts[int(j)] for j in rest)

    def coverage(self, index: int = 0) -> tuple[float, float]:
        """Mean posterior over prior and its standard error: 1 where concept prompts and prior account for q's samples.

        Says nothing where the prior was estimated from those very samples.
        """
        share = self.posterior[:, index] / self.prompts.priors[index]
        return float(share.mean()), float(share.std() / len(share) ** 0.5)

    def agreement(self, index: int = 0) -> float:
        """AUC with which the ELBO difference, which needs no training, ranks what the classifier calls the concept.

        NaN where none or all of the samples that were looked at are called so, or where no prompt asks for the concept.
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
