"""What a finished run of forgetting images has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffusion.evaluation.image_likelihood import ImageMeasurement
from diffusion.methods import Outcome
from diffusion.reports.image_certificate import ImageCertificate
from diffusion.tasks.image_targets import ImageTargets
from duality.point_masses import WaterFilling


@dataclass(frozen=True)
class Forgotten:
    """A finished run. ``images`` (m, c, h, w); the nearest samples to them ``before`` and ``after``, the same shape."""

    targets: ImageTargets
    answers: list[WaterFilling]
    outcome: Outcome
    measured: ImageMeasurement
    certificate: ImageCertificate
    images: NDArray[np.float32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    sample: NDArray[np.float32]  # of what the network makes now

    @property
    def full_weights(self) -> bool:
        """Whether all weights were trained, not a LoRA."""
        return bool(self.certificate.fitted_model.fit["full_weights"])
