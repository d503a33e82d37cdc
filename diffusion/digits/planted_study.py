"""What the study of planted images leaves in ``study.json``; it is made by :mod:`diffusion.digits.experiments.planted`.

Models go by name: ``never_shown``, ``before`` and, after forgetting, the method. Images by their place in the lists.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from diffusion.runtime.documents import Document, Estimate, Plain

Shades = tuple[tuple[tuple[int, ...], ...], ...]  # images (n, 8, 8) in grey levels 0..16, as the digits were scanned
Numbers = tuple[float, ...]


class Hits(Estimate):
    """A share that was counted, its binomial standard error."""

    hits: int


class PlantedImages(Plain):
    """The images, how often each was in the data, what was asked of it (nats), the nats by which the never-shown model
    has a higher negative ELBO at it, and the similarity above which a sample is its copy."""

    repeats: tuple[int, ...]
    shares: Numbers
    levels: Numbers
    gap_to_never_shown: Numbers
    threshold: Numbers
    images: Shades


class PlantedModel(Plain):
    """Of one model's samples: the largest similarity to each image and the sample that has it, the share of copies of
    each and of any, and the KID to real digits; ``change`` is from the model before, ``over_solved`` from the first
    method that has multipliers (None in older files), both by common noise."""

    largest_similarity: Numbers
    share_of_each: Numbers
    copies: Hits
    kid: Estimate
    kid_change: Estimate
    kid_without_copies: Estimate
    kid_change_without_copies: Estimate
    kid_over_solved_without_copies: Estimate | None = None
    nearest: Shades


class PlantedNats(Plain):
    """Nats: gained at each image, cost at the rest of the data, gained at held-out digits."""

    elbo_drop: tuple[Estimate, ...]
    cost: Estimate
    held_out_elbo_drop: Estimate


class PlantedFit(Plain):
    """Multipliers (k + 1, m), None for methods without any; what was gained in k rounds, its errors, and what was asked
    of the exact answer (k + 1, m), empty where that did not move."""

    multipliers: tuple[Numbers, ...] | None
    elbo_drop: tuple[Numbers, ...]
    elbo_drop_stderr: tuple[Numbers, ...]
    asked: tuple[Numbers, ...]
    measured: PlantedNats


class PlantedSettings(Plain):
    """What the study was run with."""

    seed: int
    steps: int
    further: int
    fit_steps: int
    samples: int
    sampler_steps: int
    quantile: float | None
    processor_seconds_this_time: int


class PlantedStudy(Document):
    """All of it; ``docs/images/planted.json`` is one."""

    title: ClassVar[str] = "planted_study"
    schema_version: Literal[1] = 1
    images: PlantedImages
    models: dict[str, PlantedModel]
    fits: dict[str, PlantedFit]
    settings: PlantedSettings

    @property
    def solving(self) -> list[str]:
        """The methods of the study that have multipliers."""
        return [name for name, fit in self.fits.items() if fit.multipliers is not None]
