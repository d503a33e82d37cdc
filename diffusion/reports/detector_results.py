"""What a finished run under a law of prompts has: typed, for reports to read."""

from __future__ import annotations

from dataclasses import dataclass

import duality as du
from diffusion.evaluation.before_after import Shown
from diffusion.evaluation.measured import Measurement
from diffusion.evaluation.planning import Plan
from diffusion.methods import Outcome
from diffusion.ratios.detected import DetectedSamples
from diffusion.reports.detector_certificate import DetectorCertificate


@dataclass(frozen=True)
class DetectedUnlearned:
    """A finished run: what was sampled, what was aimed at, the solution, what was measured, and the certificate."""

    estimate: DetectedSamples
    plan: Plan
    solution: du.Solution
    shown: Shown
    measured: Measurement
    certificate: DetectorCertificate
    outcome: Outcome

    @property
    def losses(self) -> list[float]:
        return self.outcome.losses

    @property
    def full_weights(self) -> bool:
        """Whether all weights were trained, not a LoRA."""
        return bool(self.certificate.fitted_model.fit["full_weights"])
