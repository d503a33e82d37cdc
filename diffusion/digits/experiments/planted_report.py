"""What the study found: copies and quality of one model's samples, all of it as data, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.digits.experiments.planted_measures import features, similarity
from diffusion.digits.experiments.planted_model import Stage
from diffusion.digits.planted_study import (
    Hits,
    PlantedFit,
    PlantedImages,
    PlantedModel,
    PlantedNats,
    PlantedSettings,
    PlantedStudy,
    Shades,
)
from diffusion.evaluation.bounds import bound_of, meets
from diffusion.evaluation.image_likelihood import ImageLikelihood
from diffusion.evaluation.kid import Array, Distance, kid, kid_change
from diffusion.evaluation.metrics import Frequency, frequency
from diffusion.methods.base import Outcome
from diffusion.runtime.documents import Estimate

NEVER = 0.999  # a copy is more similar to its image than this part of what the never-shown model makes


@dataclass(frozen=True)
class Reading:
    """Of n samples: ``largest`` (8,) similarity to each image and ``nearest`` (8,), the sample that has it; ``each``
    (8,) share of samples above each image's threshold; ``copied`` (n,) whether a sample is above any, ``copies`` how
    many."""

    largest: Array
    nearest: np.ndarray
    each: Array
    copied: NDArray[np.bool_]

    @property
    def copies(self) -> Frequency:
        return frequency(self.copied)


def thresholds(reference: Tensor, planted: Tensor) -> Array:
    """(8,): above these a sample counts as a copy; from samples of the never-shown model that are used for nothing
    else."""
    return np.asarray(np.quantile(similarity(features(reference), features(planted)), NEVER, axis=0))


def reading(drawn: Tensor, planted: Tensor, threshold: Array) -> Reading:
    """Of samples (n, 1, 8, 8), by thresholds (8,)."""
    near = similarity(features(drawn), features(planted))
    above = near > threshold
    return Reading(near.max(0), near.argmax(0), above.mean(0), np.asarray(above.any(1)))


def _shades(images: Tensor) -> Shades:
    """Grey levels 0..16, as the digits were scanned."""
    shades: Shades = tuple((8 * (images[:, 0].clamp(-1, 1) + 1)).round().int().tolist())
    return shades


def study(
    stage: Stage,
    levels: np.ndarray,
    gap: np.ndarray,
    threshold: Array,
    shown: Mapping[str, Tensor],
    outcomes: Mapping[str, Outcome],
    nats: Mapping[str, ImageLikelihood],
    settings: PlantedSettings,
) -> PlantedStudy:
    """Everything that the table, the image and the docs show.

    ``shown``: samples of each model; ``nats``: what :func:`diffusion.evaluation.image_likelihood.in_nats` measured of
    each fit.
    """
    real = features(torch.cat([stage.digits, stage.held_out]))
    seen = {name: (reading(some, stage.planted, threshold), features(some)) for name, some in shown.items()}
    ours = [name for name, outcome in outcomes.items() if not np.isnan(outcome.multipliers).any()]
    models = {}

    def over(name: str, other: str) -> Distance:
        """KID without copies of one model over that of another."""
        (mine, here), (theirs, there) = seen[name], seen[other]
        return kid_change(there, here, real, ~theirs.copied, ~mine.copied)

    for name, samples in shown.items():
        found, here = seen[name]
        n, free = len(samples), int((~found.copied).sum())
        models[name] = PlantedModel(
            largest_similarity=tuple(found.largest.tolist()),
            share_of_each=tuple(found.each.tolist()),
            copies=Hits(mean=found.copies.value, stderr=found.copies.stderr, n=n, hits=found.copies.hits),
            kid=_estimate(kid(here, real), n),
            kid_change=_estimate(kid_change(seen["before"][1], here, real), n),
            kid_without_copies=_estimate(kid(here, real, ~found.copied), free),
            kid_change_without_copies=_estimate(over(name, "before"), free),
            kid_over_solved_without_copies=_estimate(over(name, ours[0]), free) if ours else None,
            nearest=_shades(samples[found.nearest]),
        )
    return PlantedStudy(
        images=PlantedImages(
            repeats=tuple(stage.repeats.tolist()),
            shares=tuple(stage.shares.tolist()),
            levels=tuple(levels.tolist()),
            gap_to_never_shown=tuple(gap.tolist()),
            threshold=tuple(threshold.tolist()),
            images=_shades(stage.planted),
        ),
        models=models,
        fits={name: _fit(outcome, nats[name]) for name, outcome in outcomes.items()},
        settings=settings,
    )


def _estimate(found: Distance, n: int) -> Estimate:
    return Estimate(mean=found.value, stderr=found.stderr, n=n)


def _fit(outcome: Outcome, nats: ImageLikelihood) -> PlantedFit:
    assert nats.held_out_elbo_drop is not None  # the study holds digits out
    return PlantedFit(
        multipliers=None if np.isnan(outcome.multipliers).any() else outcome.multipliers.tolist(),
        elbo_drop=outcome.levels.tolist(),
        elbo_drop_stderr=outcome.errors.tolist(),
        asked=outcome.asked.tolist(),
        measured=PlantedNats(elbo_drop=nats.elbo_drop, cost=nats.cost, held_out_elbo_drop=nats.held_out_elbo_drop),
    )


def rank_correlation(one: Any, two: Any) -> float:
    """Spearman's, of two lists of numbers."""
    from scipy.stats import spearmanr

    return float(spearmanr(one, two).statistic)


def table(result: PlantedStudy) -> str:
    """Text for a terminal: a line for each model, then a line for each image."""
    levels = np.array(result.images.levels)
    lines = [f"{'model':12s} {'copies':>15s} {'largest similarity':>20s} levels met"]
    for name, some in result.models.items():
        largest, copies = np.array(some.largest_similarity), Frequency(some.copies.hits, some.copies.n)
        met = ""
        if name in result.fits:
            drops = result.fits[name].measured.elbo_drop
            shown = [meets(bound_of(drop, "lower", 0.95), level) for drop, level in zip(drops, levels, strict=True)]
            met = f"{sum(shown)} of {len(levels)}"
        range_ = f"({largest.min():.3f}-{largest.max():.3f})"
        lines.append(f"{_named(name):12s} {copies!s:>15s} {largest.mean():.3f} {range_} {met}")
    lines += [
        "",
        f"{'model':12s} {'KID, all samples':>17s} {'change':>18s} {'without copies':>18s} {'change':>18s} over solved",
    ]
    for name, some in result.models.items():
        found = (some.kid, some.kid_change, some.kid_without_copies, some.kid_change_without_copies)
        said = [str(Distance(each.mean, each.stderr)) for each in found]
        if (over := some.kid_over_solved_without_copies) is not None:
            said.append(str(Distance(over.mean, over.stderr)))
        lines.append(f"{_named(name):12s} {said[0]:>17s} " + " ".join(f"{text:>18s}" for text in said[1:]))
    lines += ["", f"{'model':12s} {'cost at the data, nats':>22s} {'held-out digits, nats':>22s}"]
    for name, fit in result.fits.items():
        pair = (fit.measured.cost, fit.measured.held_out_elbo_drop)
        cost, others = (f"{each.mean:.2f} ± {each.stderr:.2f}" for each in pair)
        lines.append(f"{name:12s} {cost:>22s} {others:>22s}")
    for name in result.solving:
        lines += ["", *_images(result, name)]
    return "\n".join(lines)


def _named(model: str) -> str:
    return model.replace("_", " ")


def _images(result: PlantedStudy, method: str) -> list[str]:
    images, models, fit = result.images, result.models, result.fits[method]
    assert fit.multipliers is not None
    levels, shares, last = np.array(images.levels), images.shares, np.array(fit.multipliers)[-1]
    asked = np.array(fit.asked)[-1] if fit.asked else levels
    lines = [
        f"{method}: repeats  share  level  asked         gained     lam lam/share  largest before / after / never shown"
    ]
    for i in np.argsort(images.repeats):
        near = " / ".join(f"{models[name].largest_similarity[i]:.3f}" for name in ("before", method, "never_shown"))
        drop = fit.measured.elbo_drop[i]
        lines.append(
            f"{'':{len(method)}s}  {images.repeats[i]:7d} {shares[i]:6.4f} {levels[i]:6.1f} {asked[i]:6.1f} "
            f"{drop.mean:7.1f} ± {drop.stderr:4.1f} {last[i]:7.4f} "
            f"{last[i] / shares[i]:9.2f}  {near}"
        )
    gap = images.gap_to_never_shown
    return [
        *lines,
        f"rank correlation of multipliers with repeats {rank_correlation(last, images.repeats):.2f}, with levels "
        f"{rank_correlation(last, levels):.2f}, with the gap to the never shown {rank_correlation(last, gap):.2f}",
    ]
