"""What the study found: copies and quality of one model's samples, all of it as JSON, and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.digits.experiments.planted_measures import Array, Distance, features, kid, kid_change, similarity
from diffusion.digits.experiments.planted_model import Stage
from diffusion.evaluation.image_likelihood import COST, ELBO_DROP, HELD_OUT
from diffusion.evaluation.metrics import Frequency, frequency
from diffusion.methods.base import Outcome

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


def _shades(images: Tensor) -> list[list[list[int]]]:
    """Grey levels 0..16, as the digits were scanned."""
    shades: list[list[list[int]]] = (8 * (images[:, 0].clamp(-1, 1) + 1)).round().int().tolist()
    return shades


def as_json(
    stage: Stage,
    levels: np.ndarray,
    gap: np.ndarray,
    threshold: Array,
    shown: Mapping[str, Tensor],
    outcomes: Mapping[str, Outcome],
    nats: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Plain data: everything that the table, the image and the docs show.

    ``shown``: samples of each model; ``nats``: what :func:`diffusion.evaluation.image_likelihood.in_nats` measured of
    each fit.
    """
    real = features(torch.cat([stage.digits, stage.held_out]))
    before, others = features(shown["before"]), ~reading(shown["before"], stage.planted, threshold).copied
    models = {}
    for name, samples in shown.items():
        found, here = reading(samples, stage.planted, threshold), features(samples)
        models[name] = {
            "largest": found.largest.tolist(),
            "share of each": found.each.tolist(),
            "copies": {**asdict(found.copies), "value": found.copies.value, "stderr": found.copies.stderr},
            "KID": asdict(kid(here, real)),
            "change of KID": asdict(kid_change(before, here, real)),
            "KID without copies": asdict(kid(here, real, ~found.copied)),
            "change of KID without copies": asdict(kid_change(before, here, real, others, ~found.copied)),
            "images": _shades(samples[found.nearest]),
        }
    return {
        "images": {
            "repeats": stage.repeats.tolist(),
            "shares": stage.shares.tolist(),
            "levels": levels.tolist(),
            "gap to never shown": gap.tolist(),
            "threshold": threshold.tolist(),
            "images": _shades(stage.planted),
        },
        "models": models,
        "fits": {
            name: {
                "multipliers": None if np.isnan(outcome.multipliers).any() else outcome.multipliers.tolist(),
                "rounds": {"gained": outcome.levels.tolist(), "stderr": outcome.errors.tolist()},
                "asked": outcome.asked.tolist(),
                "measured": {what: np.asarray(value).tolist() for what, value in nats[name].items()},
            }
            for name, outcome in outcomes.items()
        },
    }


def rank_correlation(one: Any, two: Any) -> float:
    """Spearman's, of two lists of numbers."""
    from scipy.stats import spearmanr

    return float(spearmanr(one, two).statistic)


def table(result: Mapping[str, Any]) -> str:
    """Text for a terminal: a line for each model, then a line for each image."""
    images, models, fits = result["images"], result["models"], result["fits"]
    levels = np.array(images["levels"])
    lines = [f"{'model':12s} {'copies':>15s} {'largest similarity':>20s} levels met"]
    for name, some in models.items():
        largest, copies = np.array(some["largest"]), Frequency(some["copies"]["hits"], some["copies"]["samples"])
        met = ""
        if name in fits:
            elbo_drop, error = np.array(fits[name]["measured"][ELBO_DROP]).T
            met = f"{int((elbo_drop >= levels - 2 * error).sum())} of {len(levels)}"
        lines.append(f"{name:12s} {copies!s:>15s} {largest.mean():.3f} ({largest.min():.3f}-{largest.max():.3f}) {met}")
    lines += ["", f"{'model':12s} {'KID, all samples':>17s} {'change':>18s} {'without copies':>18s} {'change':>18s}"]
    for name, some in models.items():
        found = [
            Distance(**some[f"{what}KID{those}"]) for those in ("", " without copies") for what in ("", "change of ")
        ]
        lines.append(f"{name:12s} {found[0]!s:>17s} " + " ".join(f"{one!s:>18s}" for one in found[1:]))
    lines += ["", f"{'model':12s} {'cost at the data, nats':>22s} {'held-out digits, nats':>22s}"]
    for name, fit in fits.items():
        cost, others = ("{:.2f} ± {:.2f}".format(*fit["measured"][what]) for what in (COST, HELD_OUT))
        lines.append(f"{name:12s} {cost:>22s} {others:>22s}")
    for name in solving(result):
        lines += ["", *_images(result, name)]
    return "\n".join(lines)


def solving(result: Mapping[str, Any]) -> list[str]:
    """The methods of the study that have multipliers."""
    return [name for name, fit in result["fits"].items() if fit["multipliers"] is not None]


def _images(result: Mapping[str, Any], method: str) -> list[str]:
    images, models, fit = result["images"], result["models"], result["fits"][method]
    levels, shares, last = np.array(images["levels"]), images["shares"], np.array(fit["multipliers"])[-1]
    elbo_drop = fit["measured"][ELBO_DROP]
    asked = np.array(fit["asked"])[-1] if fit["asked"] else levels
    lines = [
        f"{method}: repeats  share  level  asked         gained     lam lam/share  largest before / after / never shown"
    ]
    for i in np.argsort(images["repeats"]):
        near = " / ".join(f"{models[name]['largest'][i]:.3f}" for name in ("before", method, "never shown"))
        lines.append(
            f"{'':{len(method)}s}  {images['repeats'][i]:7d} {shares[i]:6.4f} {levels[i]:6.1f} {asked[i]:6.1f} "
            f"{elbo_drop[i][0]:7.1f} ± {elbo_drop[i][1]:4.1f} {last[i]:7.4f} "
            f"{last[i] / shares[i]:9.2f}  {near}"
        )
    gap = images["gap to never shown"]
    return [
        *lines,
        f"rank correlation of multipliers with repeats {rank_correlation(last, images['repeats']):.2f}, with levels "
        f"{rank_correlation(last, levels):.2f}, with the gap to the never shown {rank_correlation(last, gap):.2f}",
    ]
