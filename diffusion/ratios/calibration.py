"""How well posteriors are calibrated: AUC, Brier score, expected calibration error, coverage."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Calibration:
    """How a posterior (n,) in [0, 1] stands against labels (n,): see :func:`calibration`."""

    auc: float
    brier: float
    ece: float
    mean_posterior: float
    frequency: float
    bins: tuple[tuple[float, float, int], ...]  # (mean posterior, frequency, samples) of each bin

    @property
    def coverage(self) -> float:
        """``mean posterior / frequency``, 1 where the posterior accounts for every sample that shows the concept."""
        return self.mean_posterior / self.frequency if self.frequency > 0 else math.inf

    def __str__(self) -> str:
        return (
            f"AUC {self.auc:.4f}  Brier {self.brier:.4f}  ECE {self.ece:.4f}  "
            f"mean posterior {100 * self.mean_posterior:.2f} % (classifier {100 * self.frequency:.2f} %)"
        )


def calibration(posterior: ArrayLike, labels: ArrayLike, bins: int = 10) -> Calibration:
    """AUC, Brier ``E (p - y)^2``, expected calibration error ``sum_b n_b/n |mean p - mean y|`` by ``bins`` bins.

    Raises ``ValueError`` on other shapes, posteriors outside [0, 1], or labels that are all alike (no AUC then).
    """
    from sklearn.metrics import roc_auc_score

    p, y = np.asarray(posterior, float), np.asarray(labels, bool)
    if p.ndim != 1 or p.shape != y.shape:
        raise ValueError(f"posterior and labels must be (n,) and alike, got {p.shape} and {y.shape}")
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("posterior must lie in [0, 1]")
    if y.all() or not y.any():
        raise ValueError(f"labels must show the concept in some samples and not in others, got {y.sum()} of {y.size}")
    place = np.minimum((p * bins).astype(int), bins - 1)
    table = [
        (float(p[place == b].mean()), float(y[place == b].mean()), int((place == b).sum())) for b in np.unique(place)
    ]
    ece = sum(count * abs(mean - share) for mean, share, count in table) / y.size
    auc, brier = float(roc_auc_score(y, p)), float(np.mean((p - y) ** 2))
    return Calibration(auc, brier, float(ece), float(p.mean()), float(y.mean()), tuple(table))
