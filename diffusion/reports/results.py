"""What a finished run has: typed, for reports to read."""

from __future__ import annotations

from dataclasses import dataclass

import duality as du
from diffusion.evaluation.measured import Measurement
from diffusion.evaluation.planning import Plan
from diffusion.evaluation.samples import Sample
from diffusion.methods import Outcome
from diffusion.ratios.ratio_estimate import Survey
from diffusion.reports.certificate import Certificate


@dataclass(frozen=True)
class Unlearned:
    """A finished run: what was known, what was aimed at, the solution, what was measured, and the certificate."""

    survey: Survey
    plan: Plan
    solution: du.Solution
    samples: dict[str, Sample]
    measured: Measurement
    certificate: Certificate
    outcome: Outcome

    @property
    def losses(self) -> list[float]:
        return self.outcome.losses

    @property
    def whole(self) -> bool:
        """Whether all weights were trained, not a LoRA."""
        return self.certificate.fitted_model.fit["rank"] is None
