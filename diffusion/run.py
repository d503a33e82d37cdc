"""Ratios, calibration, dual solution, fit, measurement, certificate: one concept's way out of a pipeline."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import duality as du

from .asked import Asked, settled
from .cache import Cache, fingerprint
from .certificate import certificate, to_json
from .concepts import Prompts
from .draws import draw
from .evaluation import Evaluation, measure_lora
from .guidance import Guided, Strength
from .known import Bar, Budget, Survey, progress_bar
from .lora import has_loader, save_student
from .measure import Sample, Witness
from .methods import ESD, METHODS, FixedWeights, Method, Outcome, PrimalDual
from .models import Denoiser
from .output import save_pictures
from .parallel import Part, world
from .survey import survey
from .trackers import Tracked
from .training import Fit


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


def guided_draws(
    denoiser: Denoiser,
    known: Survey,
    strength: Strength,
    prompts: list[str],
    *,
    seed: int,
    bar: Bar = progress_bar,
    title: str = "guided draws",
) -> Tensor:
    """Latents of the guided law under the given prompts; no training."""
    with Guided(denoiser, known.prompts, known.head, strength), bar(title, len(prompts)) as shown:
        return draw(denoiser.pipeline, prompts, seed=seed, steps=known.budget.sampler_steps, progress=shown.update)


def unlearn(
    denoiser: Denoiser,
    prompts: Prompts,
    problem: du.Problem | Asked,
    *,
    method: Method | None = None,
    budget: Budget | None = None,
    fit: Fit | None = None,
    evaluation: Evaluation | None = None,
    witness: Witness | None = None,
    cache_folder: Path | None = None,
    bar: Bar = progress_bar,
    tracked: Tracked | None = None,
) -> Unlearned:
    """Solve ``problem`` on the pipeline's log ratios and fit its target into a LoRA, left active on the pipeline.

    ``method``: tilted denoising unless another is given (:mod:`diffusion.methods`); its multipliers are corrected on
    levels that are measured during the fit. ``tracked``: who hears of the fit.

    Raises ``ValueError`` before any work where problem, prompts and pipeline do not fit together,
    ``du.InfeasibleError`` before any training where the level cannot be had, ``FloatingPointError`` when a loss is not
    finite. With ``cache_folder`` every stage is kept, and an interrupted run goes on where it stopped.
    """
    method = method or METHODS["tilted"]()
    check(denoiser, prompts, problem, method)
    budget, fit, evaluation = budget or Budget(), fit or Fit(), evaluation or Evaluation()
    check_dealt(fit, bool(prompts.contrast))
    started = time.monotonic()
    cache = Cache(cache_folder, fingerprint(denoiser.pipeline)) if cache_folder else None
    known = survey(denoiser, prompts, budget, cache, bar)
    solution = du.solve(settled(problem, known.ratios), known.ratios)
    checkpoint = None
    if cache_folder is not None:
        import hashlib

        asked = f"{known.fingerprint}{prompts}{budget}{fit}{method}{solution.to_json()}"
        checkpoint = cache_folder / f"fit-{hashlib.sha256(asked.encode()).hexdigest()[:12]}.safetensors"
    title = "fit of the LoRA" if fit.rank is not None else "fit of all weights"
    with bar(title, fit.steps) as shown, tracked or nullcontext():
        outcome = method.fit(denoiser, known, solution, fit, checkpoint=checkpoint, progress=shown.update)
    samples, measured = measure_lora(denoiser, known, solution, evaluation, witness, bar)
    measured["seconds"] = round(time.monotonic() - started, 1)
    measured["fit"] = {"method": repr(method), **asdict(fit), "processes": world().num_processes}
    if len(outcome.levels):
        rounds = {"multipliers": outcome.multipliers, "levels": outcome.levels, "standard errors": outcome.errors}
        measured["dual rounds"] = {name: np.asarray(value).tolist() for name, value in rounds.items()}
    return Unlearned(known, solution, samples, measured, certificate(known, solution, measured), outcome)


def check_dealt(fit: Fit, retains: bool) -> None:
    """Raise ``ValueError`` where a step's rows cannot be dealt evenly to all processes and parts."""
    parts = Part(0, world().num_processes * fit.accumulate)
    kept = round(fit.batch * fit.retain_share) if retains else 0
    for count in (fit.batch - kept, kept):
        parts.rows(count)


def check(
    denoiser: Denoiser, prompts: Prompts, problem: du.Problem | Asked | None = None, method: Method | None = None
) -> None:
    """Raise ``ValueError`` for what cannot work, with the reason, before anything is drawn."""
    wordless = [concept for concept in prompts.concepts if not concept.wordings]
    if not denoiser.worded and (len(wordless) < len(prompts.concepts) or prompts.contrast or prompts.anchor):
        raise ValueError(
            f"concepts are given by prompts, and {type(denoiser.pipeline).__name__} takes none: give examples "
            "(pictures that show them), no contrast prompts and no anchor, or forget images"
        )
    for concept in wordless:
        shape = concept.examples.draws.shape[1:] if concept.examples else ()
        if tuple(shape) != denoiser.sample_shape:
            raise ValueError(f"examples must have shape (k, *{denoiser.sample_shape}), got (k, *{tuple(shape)})")
    kind = problem.kind if isinstance(problem, Asked) else type(problem)
    # The alternating algorithm's Lagrangian of a ReverseKL is in terms of the prediction under the concept's prompt.
    by_prompts = isinstance(method, ESD) or (isinstance(method, PrimalDual | FixedWeights) and kind is du.ReverseKL)
    if wordless and by_prompts:
        others = "" if isinstance(method, ESD) else " of this problem"
        raise ValueError(
            f"method {type(method).__name__}{others} needs a prompt for every concept, and {wordless[0].name!r} has "
            "none: use tilted, guidance, neggrad, siss or erasediff"
        )
    if problem is None:
        return
    m, count = len(prompts.concepts), problem.count if isinstance(problem, Asked) else problem.levels.size
    if count not in (1, m):
        given = str(problem) if isinstance(problem, Asked) else problem.levels.tolist()
        raise ValueError(f"levels must be one for all or one for each of {m} concepts, got {given}")
    if isinstance(problem, du.Likelihood):
        levels = problem.levels
        if problem.kind == "density":
            raise ValueError("kind 'density' needs densities, which no pipeline has: use 'posterior' or 'log-ratio'")
        if problem.kind == "posterior" and not ((levels > 0) & (levels < 1)).all():
            raise ValueError(f"levels must lie strictly between 0 and 1 (probabilities), got {levels.tolist()}")


def save(result: Unlearned, denoiser: Denoiser, folder: Path) -> None:
    """LoRA or network, certificate, solution, model card and the before/after picture, into an empty folder."""
    from .card import model_card

    save_student(denoiser, folder)
    (folder / "certificate.json").write_text(to_json(result.certificate), encoding="utf-8")
    (folder / "solution.json").write_text(result.solution.to_json() + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(result, has_loader(denoiser)), encoding="utf-8")
    save_pictures(folder / "before_after.png", panels(result.samples), columns=12)


def panels(samples: dict[str, Sample], count: int = 60) -> list[tuple[str, Any]]:
    """Before and after, side by side: draws of the anchor, of the concept's prompts, of the retained prompts."""
    shown = []
    for condition in ("anchor", "concept", "retained"):
        for when in ("before", "LoRA"):
            if f"{when}, {condition}" not in samples:
                continue
            sample = samples[f"{when}, {condition}"]
            # Prompts take turns, so every k-th row might be the same prompt over and over.
            rows = np.random.default_rng(0).permutation(len(sample))[:count]
            shown.append((f"{condition}: {when}", sample.pictures[rows]))
    return shown
