"""What `unlearn ratios` says: every estimator, what levels mean, and a verdict for each check."""

from __future__ import annotations

from typing import ClassVar, Literal

from diffusion.evaluation.ratio_table import Comparison
from diffusion.ratios.level_table import LevelsFound, LevelTable
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.reports.checks import Check, checks_of_estimators, checks_of_levels, checks_of_ratios
from diffusion.reports.standards import Standards
from diffusion.runtime.documents import Document


class RatiosReport(Document):
    """The file that ``unlearn ratios --output`` writes; ``passed``: no check warns."""

    title: ClassVar[str] = "ratios"
    schema_version: Literal[1] = 1
    model_fingerprint: str
    passed: bool
    checks: tuple[Check, ...]
    estimators: Comparison
    levels: LevelsFound

    def lines(self) -> list[str]:
        """The verdicts, for people."""
        warned = sum(check.verdict == "WARN" for check in self.checks)
        skipped = sum(check.verdict == "SKIPPED" for check in self.checks)
        said = f"checks: {len(self.checks) - warned - skipped} OK, {warned} WARN"
        return ["", said + (f", {skipped} could not be asked" if skipped else ""), *map(str, self.checks)]


def ratios_report(
    estimate: RatioEstimate, compared: Comparison, table: LevelTable, standards: Standards | None = None
) -> RatiosReport:
    """All checks of an estimate, of the estimators beside it, and of the levels that were asked for."""
    standards, levels = standards or Standards(), table.data()
    checks = (
        *checks_of_ratios(estimate, standards),
        *checks_of_estimators(compared, standards),
        *checks_of_levels(levels, standards),
    )
    return RatiosReport(
        model_fingerprint=estimate.fingerprint,
        passed=all(check.verdict != "WARN" for check in checks),
        checks=checks,
        estimators=compared,
        levels=levels,
    )
