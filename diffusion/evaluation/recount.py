r"""The levels of a result, counted again: on fresh samples of whoever asks, by the detectors of its task.

::

    c_1, ..., c_n ~ P,   x_j ~ p(. | c_j) by the fitted network,   level = mean of l(x_j), with a one-sided bound

What was certified was counted by whoever made it. These samples are others, whatever the seed: they come from a stream
of their own. A count is a test by itself, at the confidence that is asked for: how many samples it takes is to be
decided before, and who counts until a level is shown has shown nothing (but for ``sequential``, whose bound holds at
all times).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

import duality as du
from diffusion.evaluation.counted_prompts import check_counts, count_prompts, expected, seed_of
from diffusion.evaluation.measure_detected import level_of, made
from diffusion.evaluation.measured import LevelFound
from diffusion.evaluation.planning import Plan, check_measured
from diffusion.pipelines import Denoiser
from diffusion.runtime.documents import Document
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.config import EvaluationConfig, Sampling
from diffusion.tasks.detector_levels import Constraint
from diffusion.tasks.detectors import CheckedDetector
from diffusion.tasks.levels import Level
from diffusion.tasks.prompts import Prompts

CERTIFICATE = "certificate.json"


class Recount(Document):
    """What a recount with ``--output`` writes. ``shown``: whether every level is met by its bound; ``evaluation`` and
    ``sampling``: the settings in full; ``model_fingerprint``: of the base model that the fit was put into, and
    ``certified_fingerprint`` that of the certificate, null where there is none; ``prompts``: the law that was counted
    under, null for the task's own, which is what the certificate speaks of."""

    title: ClassVar[str] = "recount"
    schema_version: Literal[3] = 3
    result: str
    model_fingerprint: str
    certified_fingerprint: str | None
    prompts: list[dict[str, Any]] | None
    evaluation: dict[str, Any]
    sampling: dict[str, Any]
    levels: tuple[LevelFound, ...]
    shown: bool


def recount(
    denoiser: Denoiser,
    prompts: Prompts,
    detectors: Mapping[str, CheckedDetector],
    constraints: Sequence[Constraint],
    sampling: Sampling,
    evaluation: EvaluationConfig,
    *,
    bar: Bar = progress_bar,
) -> tuple[LevelFound, ...]:
    """The levels of ``constraints`` (m,), in their order; the fitted network is in ``denoiser``.

    Detectors by name, those of what is kept last; levels are shares, see :func:`asked_of`. Raises ``ValueError`` as
    :func:`check_recount`.
    """
    check_recount(constraints, evaluation)
    counts = evaluation.counts([each.group for each in constraints])
    asked = du.Likelihood(np.array([each.level.value for each in constraints]), kind="detector")
    plan = Plan(
        asked, asked, evaluation.samples, evaluation.confidence, evaluation.power,
        sequential=evaluation.sequential, counts=counts,
    )  # fmt: skip
    ask, seed = list(detectors.values()), seed_of(evaluation.seed, 41)
    with bar("fresh samples", expected(prompts, constraints, plan.samples, plan.each)) as shown:
        make = made(denoiser, prompts, sampling, ask, shown.update)
        counted = count_prompts(make, prompts, constraints, plan, seed, evaluation.batch)
    return tuple(
        level_of(each, each.level.value, counted[each.group], plan, ask[each.column].name) for each in constraints
    )


def check_recount(constraints: Sequence[Constraint], evaluation: EvaluationConfig) -> None:
    """Raise ``ValueError``, before anything is loaded, for a level that is no share, or that so few samples cannot
    show."""
    check_measured(evaluation.samples, "a recount")
    for each in constraints:
        if each.level.relative:
            raise ValueError(f"level {each}: a share is needed, a multiple of what the model had was given")
    check_counts(constraints, evaluation)


def certified_model(folder: Path) -> str | None:
    """The fingerprint of the base model that a result's certificate is of; None where the folder has none."""
    said = _certificate(folder)
    return None if said is None else str(said["provenance"]["model_fingerprint"])


def of_another(model: str, certified: str | None) -> str | None:
    """What is to be said where the certificate is not of this base model; None where it is."""
    if model == certified:
        return None
    told = "there is no certificate" if certified is None else f"the certificate is of another, {certified}"
    return f"of base model {model}; {told}: other weights, precision, settings or versions"


def _certificate(folder: Path) -> dict[str, Any] | None:
    path = folder / CERTIFICATE
    if not path.is_file():
        return None
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return said


def asked_of(constraints: Sequence[Constraint], folder: Path) -> tuple[Constraint, ...]:
    """The constraints with their levels as shares: multiples of what the model had are read off the certificate.

    Raises ``ValueError`` where one is needed and there is none, or it is of another task.
    """
    if not any(each.level.relative for each in constraints):
        return tuple(constraints)
    certificate = _certificate(folder)
    if certificate is None:
        raise ValueError(f"folder {str(folder)!r} has no {CERTIFICATE}, which says what multiples of a level come to")
    said = certificate["question"]["levels"]
    found = [(each["concept"], each["group"], each["side"]) for each in said]
    if found != [(each.concept, each.group, each.side) for each in constraints]:
        raise ValueError(f"{folder / CERTIFICATE}: its levels are not those of the task beside it")
    return tuple(replace(each, level=Level(float(one["level"]))) for each, one in zip(constraints, said, strict=True))
