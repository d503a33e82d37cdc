"""The certificate of a run that forgot images: the question, three verdicts with their evidence, and provenance.

Images go by their number, as they were given, from 1: what is to be forgotten is neither shown nor named in what is
published, and neither are the prompts that it was forgotten under.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from diffusion.evaluation.bounds import Bound, Estimate, Plain, bound_of, meets
from diffusion.evaluation.image_likelihood import ImageMeasurement
from diffusion.methods import Outcome
from diffusion.reports.certificate import versions
from diffusion.reports.standards import Standards
from diffusion.reports.verdicts import UNMEASURED, CertificateBase, Verdict
from diffusion.tasks.image_targets import ImageTargets
from diffusion.tasks.images import ImageTensors
from duality.point_masses import WaterFilling

CONFIDENCE = 0.95


class ImageQuestion(Plain):
    """What was asked. ``levels``: nats that each image's negative ELBO is to rise by.

    ``levels_from``: whether they were given, or are those at which an image is as unlikely as held-out ones, in the
    mean or at their ``quantile``.
    """

    problem: Literal["ForwardKL"] = "ForwardKL"
    images: int
    levels: tuple[float, ...]
    levels_from: Literal["given", "held_out_mean", "held_out_quantile"]
    quantile: float | None
    confidence: float
    data: int
    copies_set_aside: int  # rows of the data that are one of the images


class ImageSolution(Verdict):
    """Exact where images are all there is: nothing meets the levels at less cost. ``cost``: by prompt, in nats."""

    multipliers: tuple[float, ...]
    cost: tuple[float, ...]
    relative_gap: float
    least_slack: float


class ImageShare(Plain):
    """The part of the data that an image is. ``stderr`` is 0 where it was given, or counted in the data.

    ``data_as_near``: the part of other data that lies as near to the image as a copy; None where no data were given.
    """

    image: int
    mean: float
    stderr: float
    data_as_near: float | None


class ImageShares(Verdict):
    """Statistical: whether shares that were counted among samples are known well enough."""

    shares: tuple[ImageShare, ...]


class ImageLevel(Plain):
    """What one image gained, its one-sided bound from below, and whether that shows the level."""

    image: int
    asked: float
    elbo_drop: Estimate
    bound: Bound
    met: bool

    def __str__(self) -> str:
        return (
            f"image {self.image} gained {self.elbo_drop} nats of negative ELBO, at least {self.bound.value:.4g} at "
            f"{100 * self.bound.confidence:g} % confidence, a normal approximation; asked {self.asked:.4g}"
        )


class ImageDualRound(Plain):
    """Multipliers of one round, what was gained under them, and what was ``asked`` of the exact answer, if it moved."""

    multipliers: tuple[float, ...]
    elbo_drop: tuple[float, ...]
    elbo_drop_stderr: tuple[float, ...]
    asked: tuple[float, ...] | None


class ImageFittedModel(Verdict):
    """Measurement of the network, which moves an image's neighbours along and is not bounded by the other two."""

    levels: tuple[ImageLevel, ...]
    measured: ImageMeasurement | None
    dual_rounds: tuple[ImageDualRound, ...]
    next_multipliers: tuple[float, ...] | None
    fit: dict[str, Any]


class ImageProvenance(Plain):
    model_fingerprint: str
    standards: dict[str, float]
    versions: dict[str, str]
    seconds: float


class ImageCertificate(CertificateBase):
    """``certified`` is all three verdicts, at ``question.confidence``."""

    title: ClassVar[str] = "image_certificate"
    schema_version: Literal[1] = 1
    question: ImageQuestion
    solution: ImageSolution
    shares: ImageShares
    fitted_model: ImageFittedModel
    provenance: ImageProvenance

    @property
    def confidence(self) -> float:
        return self.question.confidence

    @property
    def verdicts(self) -> dict[str, Verdict]:
        return {"solution": self.solution, "shares": self.shares, "fitted model": self.fitted_model}


def certificate(
    task: ImageTensors,
    targets: ImageTargets,
    answers: Sequence[WaterFilling],
    outcome: Outcome,
    measured: ImageMeasurement | None,
    *,
    fit: dict[str, Any],
    fingerprint: str,
    seconds: float = 0.0,
) -> ImageCertificate:
    """Of a run. ``measured``: None before anything was, which certifies nothing. ``fit``: its settings, as data."""
    standards, images = Standards(), targets.images
    levels = () if measured is None else levels_found(targets.levels, measured.elbo_drop)
    objections = (
        of_solution(answers, standards),
        of_shares(images.shares, targets.shares_stderr, standards),
        [UNMEASURED] if measured is None else [f"level not shown: {level}" for level in levels if not level.met],
    )
    return ImageCertificate(
        certified=not any(objections),
        question=ImageQuestion(
            images=len(targets.levels),
            levels=tuple(targets.levels.tolist()),
            levels_from=_source(task),
            quantile=task.quantile,
            confidence=CONFIDENCE,
            data=len(images.data),
            copies_set_aside=int(images.aside.sum()),
        ),
        solution=_solution(targets, answers, objections[0]),
        shares=_shares(targets, objections[1]),
        fitted_model=ImageFittedModel(
            passed=not objections[2],
            reasons=tuple(objections[2]),
            levels=levels,
            measured=measured,
            dual_rounds=_rounds(outcome),
            next_multipliers=_numbers(outcome.multipliers[-1]),
            fit=fit,
        ),
        provenance=ImageProvenance(
            model_fingerprint=fingerprint, standards=standards.data(), versions=versions(), seconds=round(seconds, 1)
        ),
    )


def levels_found(asked: np.ndarray, drops: Sequence[Estimate]) -> tuple[ImageLevel, ...]:
    """Whether a lower bound on what each image gained is at least its level (m,), nats."""
    found = []
    for number, (level, drop) in enumerate(zip(asked.tolist(), drops, strict=True), 1):
        least = bound_of(drop, "lower", CONFIDENCE)
        found.append(ImageLevel(image=number, asked=level, elbo_drop=drop, bound=least, met=meets(least, level)))
    return tuple(found)


def of_solution(answers: Sequence[WaterFilling], standards: Standards) -> list[str]:
    """Why the answer cannot be called optimal where images are all there is."""
    gap, slack = _worst(answers)
    found = []
    if not gap <= standards.gap:
        found.append(f"the duality gap is {gap:.1e}, over {standards.gap:.0e}")
    if not slack >= -standards.kkt:
        found.append(f"a level is missed by {-slack:.1e} nats, over {standards.kkt:.0e}")
    return found


def of_shares(shares: np.ndarray, errors: np.ndarray, standards: Standards) -> list[str]:
    """Why shares (m,), with standard errors (m,), are not known well enough."""
    return [
        f"image {number}: its share, counted among samples, is {share:.2g} ± {error:.2g}: an error of more than "
        f"{100 * standards.share:g} % of it; give the share, or count it on more samples"
        for number, (share, error) in enumerate(zip(shares.tolist(), errors.tolist(), strict=True), 1)
        if not error <= standards.share * share
    ]


def _worst(answers: Sequence[WaterFilling]) -> tuple[float, float]:
    """The largest gap and the least slack; NaN where one is NaN, which Python's max and min would pass over."""
    gaps, slacks = [answer.gap for answer in answers], [answer.slack.min() for answer in answers]
    return float(np.max(gaps)), float(np.min(slacks))


def _source(task: ImageTensors) -> Literal["given", "held_out_mean", "held_out_quantile"]:
    if task.levels is not None:
        return "given"
    return "held_out_mean" if task.quantile is None else "held_out_quantile"


def _solution(targets: ImageTargets, answers: Sequence[WaterFilling], reasons: list[str]) -> ImageSolution:
    multipliers, (gap, slack) = np.zeros(len(targets.levels)), _worst(answers)
    for group, answer in zip(targets.images.groups, answers, strict=True):
        multipliers[list(group)] = answer.multipliers
    return ImageSolution(
        passed=not reasons,
        reasons=tuple(reasons),
        multipliers=tuple(multipliers.tolist()),
        cost=tuple(answer.primal for answer in answers),
        relative_gap=gap,
        least_slack=slack,
    )


def _shares(targets: ImageTargets, reasons: list[str]) -> ImageShares:
    rows = zip(targets.images.shares.tolist(), targets.shares_stderr.tolist(), targets.as_near.tolist(), strict=True)
    return ImageShares(
        passed=not reasons,
        reasons=tuple(reasons),
        shares=tuple(
            ImageShare(image=i, mean=mean, stderr=error, data_as_near=None if np.isnan(near) else near)
            for i, (mean, error, near) in enumerate(rows, 1)
        ),
    )


def _rounds(outcome: Outcome) -> tuple[ImageDualRound, ...]:
    found = []
    for index, (drops, errors) in enumerate(zip(outcome.levels, outcome.errors, strict=True)):
        found.append(
            ImageDualRound(
                multipliers=tuple(outcome.multipliers[index].tolist()),
                elbo_drop=tuple(drops.tolist()),
                elbo_drop_stderr=tuple(errors.tolist()),
                asked=tuple(outcome.asked[index].tolist()) if len(outcome.asked) else None,
            )
        )
    return tuple(found)


def _numbers(multipliers: np.ndarray) -> tuple[float, ...] | None:
    """None for methods that have no multipliers."""
    return None if np.isnan(multipliers).any() else tuple(multipliers.tolist())
