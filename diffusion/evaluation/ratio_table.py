"""What a comparison of estimators found: agreement and calibration, as lines for people and as data."""

from __future__ import annotations

from diffusion.evaluation.bounds import Estimate, Plain
from diffusion.ratios.calibration import Calibration

RATIO_CLASSIFIER = "ratio classifier"


class Agreement(Plain):
    """How an estimator stands to the ratio classifier at the same samples, for one concept.

    ``coverage``: mean posterior over prior, 1 where concept prompts and prior account for what q makes; ``mass``:
    E_q[e^rho], 1 for exact ratios; ``rank``: Spearman's correlation; ``auc``: how well it ranks what the classifier
    calls the concept, NaN where that is all or none.
    """

    concept: str
    estimator: str
    coverage: Estimate
    mass: Estimate
    rank: float
    auc: float

    def __str__(self) -> str:
        return (
            f"{self.estimator:<36}{self.coverage.n:>7}{self.coverage.mean:>12.3f} ± {self.coverage.stderr:<7.3f}"
            f"{self.mass.mean:>8.2f} ± {self.mass.stderr:<6.2f}{self.rank:>10.3f}{self.auc:>12.4f}"
        )


TITLES = f"{'estimator':<36}{'samples':>7}{'posterior / prior':>22}{'E_q[e^rho]':>17}{'rank':>10}{'AUC':>12}"


class Bin(Plain):
    """One bin of a reliability diagram."""

    mean_posterior: float
    frequency: Estimate


class CalibrationFound(Plain):
    """An estimator's posterior of one concept against what a detector sees (or the labels, "the prompts", say)."""

    concept: str
    estimator: str
    by: str
    samples: int
    auc: float
    ece: float
    brier: float
    mean_posterior: float
    frequency: float
    bins: tuple[Bin, ...]

    def __str__(self) -> str:
        return (
            f"{self.estimator:<36}{self.samples:>7} samples, by {self.by}: AUC {self.auc:.4f}  Brier {self.brier:.4f}  "
            f"ECE {self.ece:.4f}  mean posterior {100 * self.mean_posterior:.2f} % ({self.by} "
            f"{100 * self.frequency:.2f} %)"
        )

    def reliability(self) -> list[str]:
        """One line a bin: mean posterior, frequency with its standard error, samples."""
        return [
            f"  posterior {each.mean_posterior:6.3f}   frequency {each.frequency.mean:6.3f} ± "
            f"{each.frequency.stderr:.3f}   {each.frequency.n:>6} samples"
            for each in self.bins
        ]


class Prior(Plain):
    """The concept's share in what q makes; ``stderr`` is None where it was given."""

    concept: str
    mean: float
    stderr: float | None


class Comparison(Plain):
    """What :func:`diffusion.evaluation.ratio_comparison.compare` found: estimators beside each other and detectors."""

    priors: tuple[Prior, ...]
    agreement: tuple[Agreement, ...]
    calibration: tuple[CalibrationFound, ...]

    def lines(self) -> list[str]:
        out = []
        for prior in self.priors:
            said = "as given"
            if prior.stderr is not None:
                said = f"± {prior.stderr:.2g}, estimated from samples: coverage says nothing"
            out += [f"{prior.concept!r}: prior {prior.mean:.4g} ({said})", "", TITLES]
            out += [str(row) for row in self.agreement if row.concept == prior.concept]
            seen = [row for row in self.calibration if row.concept == prior.concept]
            out += ["", "calibration, on samples that the ratio classifier never saw", *map(str, seen)]
            for row in seen:
                if row.estimator.startswith(RATIO_CLASSIFIER):
                    out += ["", f"reliability of the {row.estimator}, by {row.by}", *row.reliability()]
            out.append("")
        return out


def calibration_found(concept: str, estimator: str, by: str, samples: int, seen: Calibration) -> CalibrationFound:
    """With the binomial standard error of each bin's frequency."""
    bins = tuple(
        Bin(
            mean_posterior=mean,
            frequency=Estimate(mean=share, stderr=(share * (1 - share) / count) ** 0.5, n=count),
        )
        for mean, share, count in seen.bins
    )
    return CalibrationFound(
        concept=concept, estimator=estimator, by=by, samples=samples, auc=seen.auc, ece=seen.ece, brier=seen.brier,
        mean_posterior=seen.mean_posterior, frequency=seen.frequency, bins=bins,
    )  # fmt: skip
