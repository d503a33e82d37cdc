"""What a finished run has: typed, for reports to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duality as du
from diffusion.evaluation.samples import Sample
from diffusion.methods import Outcome
from diffusion.ratios.ratio_estimate import Survey


@dataclass(frozen=True)
class Unlearned:
    """A finished run: what was known, the solution, what was measured, and the certificate."""

    survey: Survey
    solution: du.Solution
    samples: dict[str, Sample]
    measured: dict[str, Any]
    certificate: dict[str, Any]
    outcome: Outcome

    @property
    def losses(self) -> list[float]:
        return self.outcome.losses
