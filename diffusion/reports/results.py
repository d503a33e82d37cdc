"""What a finished run has: typed, for reports to read."""

from __future__ import annotations

from dataclasses import dataclass

import duality as du
from diffusion.evaluation.measured import Measurement
from diffusion.evaluation.planning import Plan
from diffusion.evaluation.samples import SampleSet
from diffusion.methods import Outcome
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.reports.certificate import Certificate


@dataclass(frozen=True)
class Unlearned:
    """A finished run: what was known, what was aimed at, the solution, what was measured, and the certificate."""

    estimate: RatioEstimate
    plan: Plan
    solution: du.Solution
    samples: dict[str, SampleSet]
    measured: Measurement
    certificate: Certificate
    outcome: Outcome

    @property
    def losses(self) -> list[float]:
        return self.outcome.losses

    @property
    def full_weights(self) -> bool:
        """Whether all weights were trained, not a LoRA."""
        return self.certificate.fitted_model.fit["full_weights"]
