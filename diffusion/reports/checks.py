"""Checks of log ratios one by one: what was found, what is asked, and a verdict."""

from __future__ import annotations

import math
from typing import Literal

from diffusion.evaluation.bounds import Plain
from diffusion.evaluation.ratio_table import RATIO_CLASSIFIER, Comparison
from diffusion.ratios.level_table import LevelsFound
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.reports.standards import Standards


class Check(Plain):
    """One check of one concept (None: of all). ``SKIPPED``: it could not be asked, and ``found`` says why.

    ``consequence``: what a warning means, or what to do.
    """

    name: str
    concept: str | None
    verdict: Literal["OK", "WARN", "SKIPPED"]
    found: str
    needed: str
    consequence: str = ""

    @property
    def objection(self) -> str:
        """A sentence for a certificate."""
        named = f"{self.concept!r}: " if self.concept is not None else ""
        needed = f", {self.needed}" if self.needed else ""
        return f"{named}{self.name}: {self.found}{needed}" + (f"; {self.consequence}" if self.consequence else "")

    def __str__(self) -> str:
        named = f" of {self.concept!r}" if self.concept is not None else ""
        needed = f" ({self.needed})" if self.needed else ""
        why = f": {self.consequence}" if self.verdict == "WARN" and self.consequence else ""
        return f"{self.verdict:<8}{self.name}{named}: {self.found}{needed}{why}"


def check(name: str, concept: str | None, passed: bool | None, found: str, needed: str, consequence: str = "") -> Check:
    """``passed``: None where it could not be asked."""
    verdict: Literal["OK", "WARN", "SKIPPED"] = "SKIPPED" if passed is None else "OK" if passed else "WARN"
    return Check(
        name=name, concept=concept, verdict=verdict, found=found, needed=needed,
        consequence=consequence if verdict == "WARN" else "",
    )  # fmt: skip


def checks_of_ratios(estimate: RatioEstimate, standards: Standards) -> list[Check]:
    """Those that an estimate can be put to by itself, for each concept. A verdict on ratios is made of them."""
    found, concepts = list[Check](), estimate.prompts.concepts
    if len(estimate.validation) < len(concepts):
        found.append(check("held-out samples", None, False, "the classifier was validated on none", ""))
    for index, seen in enumerate(estimate.validation):
        name = concepts[index].name
        found.append(
            check(
                "classifier, held-out samples told apart", name, seen.auc >= standards.auc, f"AUC {seen.auc:.3f}",
                f"at least {standards.auc:g} is needed", "more labelled samples, or other contrast prompts",
            )
        )  # fmt: skip
        found.append(
            check(
                "classifier, calibration error on held-out samples", name, seen.ece <= standards.ece, f"{seen.ece:.3f}",
                f"at most {standards.ece:g} is allowed", "its posteriors are not probabilities; more labelled samples",
            )
        )  # fmt: skip
        ratio, error = estimate.coverage(index)
        counted = " (the prior was estimated from these very samples)" if estimate.priors_stderr else ""
        found.append(
            check(
                "mean posterior on samples of q over the prior", name,
                abs(ratio - 1) <= standards.coverage + 2 * error, f"{ratio:.2f} ± {error:.2f}{counted}",
                f"1 up to {standards.coverage:g} and two standard errors is allowed",
                "the concept's and contrast prompts do not cover what the model makes, or the prior is off",
            )
        )  # fmt: skip
        agrees = estimate.agreement(index)
        nan = math.isnan(agrees)  # no prompt asks for the concept, or nothing or everything was called it
        found.append(
            check(
                "ELBO difference agrees with the classifier", name, None if nan else agrees >= standards.agreement,
                "nothing to compare" if nan else f"AUC {agrees:.3f}", f"at least {standards.agreement:g} is needed",
                "one of the two is wrong, or the ELBO is too noisy: more --elbo-noise-levels",
            )
        )  # fmt: skip
    return found


def checks_of_estimators(found: Comparison, standards: Standards) -> list[Check]:
    """The other estimators against the classifier, and the classifier against detectors on samples of q."""
    checks = []
    for row in found.agreement:
        if row.estimator == RATIO_CLASSIFIER or row.estimator == "ELBO against the empty prompt":  # checked already
            continue
        nan = math.isnan(row.auc)
        checks.append(
            check(
                f"{row.estimator}, agrees with the classifier", row.concept,
                None if nan else row.auc >= standards.agreement,
                "nothing to compare" if nan else f"AUC {row.auc:.3f}", f"at least {standards.agreement:g} is needed",
                "look at its row above: few samples, or an estimator that is noisy here",
            )
        )  # fmt: skip
    for seen in found.calibration:
        if seen.estimator != RATIO_CLASSIFIER:
            continue
        passed = seen.auc >= standards.auc and seen.ece <= standards.ece
        checks.append(
            check(
                f"classifier against {seen.by}, on samples of q", seen.concept, passed,
                f"AUC {seen.auc:.3f}, calibration error {seen.ece:.3f}",
                f"at least {standards.auc:g} and at most {standards.ece:g} are needed",
                "what the classifier calls the concept is not what the detector sees",
            )
        )  # fmt: skip
    return checks


def checks_of_levels(found: LevelsFound, standards: Standards) -> list[Check]:
    """Whether the levels that were asked for can be had, and on how many samples that rests."""
    if found.asked is None:
        return [check("level", None, None, "none was asked for", "")]
    row = found.rows[found.asked]
    asked = ", ".join(f"{level:.4g}" for level in row.levels)
    name = f"{row.problem}, level {asked}"
    if row.effective_sample_size is None:
        return [check(name, None, False, "cannot be had on these samples", "", "ask for less, see the ranges above")]
    effective = row.effective_sample_size
    return [
        check(
            name, None, row.status in ("OPTIMAL", "INACTIVE"), f"{row.status.lower().replace('_', ' ')}",
            "optimal is needed", "no density has it: ask for less, see the ranges above",
        ),
        check(
            f"{name}, effective sample size", None, effective >= standards.effective, f"{effective:.0f}",
            f"at least {standards.effective:g} is needed", "the target rests on few samples: more --samples",
        ),
    ]  # fmt: skip
