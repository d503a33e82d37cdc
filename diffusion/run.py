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
from .guidance import Guided, Strength
from .lora import folded, save_student, teacher
from .measure import Sample, Witness, agreement, mean_posterior, retained, take_sample, weighted_frequency
from .methods import METHODS, Method, OnConcepts, Outcome, Tilted
from .methods.levels import Meter
from .models import Denoiser
from .output import save_pictures
from .parallel import Part, world
from .ratios import head_ratios, posterior
from .survey import Bar, Budget, Survey, progress_bar, survey
from .trackers import Tracked
from .training import Fit


@dataclass(frozen=True)
class Evaluation:
    """How many draws are judged after the fit.

    Draws of the anchor start from the noise of the draws of q before, all others from ``seed``. ``integrated``: at how
    many of them integrals over noise are taken (:mod:`diffusion.methods.levels`).
    """

    anchor: int = 2000
    per_wording: int = 40
    retained: int = 720
    seed: int = 9000
    integrated: int = 256

    def prompts(self, known: Survey) -> dict[str, list[str]]:
        """What is asked for: the anchor, the concepts in all wordings, the retained prompts; without empty lists."""
        asking = [text for concept in known.prompts.concepts for text in concept.wordings] * self.per_wording
        every = known.retained[1]
        kept = [every[j % len(every)] for j in range(self.retained)] if every else []
        wanted = {"anchor": [known.prompts.anchor] * self.anchor, "concept": asking, "retained": kept}
        return {name: some for name, some in wanted.items() if some}


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

    ``method``: tilted denoising unless another is given (:mod:`diffusion.methods`). ``tracked``: who hears of the fit.

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
    if wordless and not isinstance(method, Tilted | OnConcepts | None):
        raise ValueError(
            f"method {type(method).__name__} needs a prompt for every concept, and {wordless[0].name!r} has none: use "
            "tilted, neggrad, siss or erasediff"
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


def measure_lora(
    denoiser: Denoiser,
    known: Survey,
    solution: du.Solution,
    evaluation: Evaluation,
    witness: Witness | None,
    bar: Bar,
) -> tuple[dict[str, Sample], dict[str, Any]]:
    """Draw from the adapted pipeline under the anchor, the concepts' wordings and the retained prompts, and count."""
    prompts, pipeline = known.prompts, denoiser.pipeline
    wanted_prompts = evaluation.prompts(known)
    samples: dict[str, Sample] = {}
    total = sum(len(some) for some in wanted_prompts.values())
    with bar("draws after the fit", total) as shown, folded(denoiser):
        for index, (name, some) in enumerate(wanted_prompts.items()):
            latents = draw(
                pipeline,
                some,
                seed=known.budget.anchor_seed if name == "anchor" else evaluation.seed + index,
                steps=known.budget.sampler_steps,
                progress=shown.update,
            )
            samples[f"LoRA, {name}"] = take_sample(f"LoRA, {name}", pipeline, some, latents, witness)
    samples["before, anchor"] = take_sample(
        "before, anchor", pipeline, [prompts.anchor] * len(known.anchor), known.anchor, witness
    )
    m = len(prompts.concepts)
    for name, of_kind in (("concept", known.labels < m), ("retained", known.labels == m)):
        rows = of_kind.nonzero()[:, 0]
        if name not in wanted_prompts:
            continue
        some = [known.labelled_prompts[int(j)] for j in rows]
        samples[f"before, {name}"] = take_sample(f"before, {name}", pipeline, some, known.labelled[rows], witness)
    # The head reads the *teacher's* features: the ratio is a property of the picture, not of the student.
    with teacher(denoiser):
        rho = {
            name: known.values  # the survey's own draws: their ratios are known
            if name == "before, anchor"
            else head_ratios(denoiser, known.head, sample.latents, seed=evaluation.seed)
            for name, sample in samples.items()
        }
    meter = Meter(denoiser, known, solution.problem.bind(known.ratios), evaluation.integrated, seed=evaluation.seed)
    own, latents = meter.of(samples["LoRA, anchor"].latents, rho["LoRA, anchor"]), samples["LoRA, anchor"].latents
    measured: dict[str, Any] = {
        "mean posterior by the head (mean, standard error)": {
            name: mean_posterior(posterior(value, prompts.priors)) for name, value in rho.items()
        },
        "level asked": solution.problem.levels.tolist(),
        "level of the network (mean, standard error)": list(zip(own.levels.tolist(), own.errors.tolist(), strict=True)),
        "cost of the network in nats (mean, standard error)": meter.cost(latents),
    }
    if witness is not None:
        measured["witnesses"] = witnessed(known, solution, samples, witness, "LoRA, anchor", evaluation.seed)
        for when in ("before", "LoRA") if "retained" in wanted_prompts else ():
            right = agreement(samples[f"{when}, retained"], witness)
            measured["witnesses"][f"{when}: retained prompts obeyed"] = {j: str(f) for j, f in right.items()}
    return samples, measured


def witnessed(
    known: Survey, solution: du.Solution, samples: dict[str, Sample], witness: Witness, after: str, seed: int
) -> dict[str, Any]:
    """What the witnesses say of every sample, and of how far the retained draws of ``after`` have moved."""
    wanted = [witness.asked(concept.name) for concept in known.prompts.concepts]
    classes = [value for value in wanted if value is not None]
    moved = retained(samples["before, anchor"], samples[after], classes, witness, seed)
    return {
        "shows the concept": {
            name: {judge: str(value) for judge, value in sample.shows(classes).items()}
            for name, sample in samples.items()
        },
        "target, by the weights on draws of q": weighted_frequency(
            samples["before, anchor"], solution.log_weights, classes
        ),
        "class shares": {
            name: sample.classes(len(witness.classes)) for name, sample in samples.items() if name.endswith("anchor")
        },
        f"retained draws moved ({after})": {
            "energy distance": moved.energy,
            "noise floor (95 % quantile)": moved.floor,
            "largest change of a class's share": moved.class_shift,
        },
    }


def save(result: Unlearned, denoiser: Denoiser, folder: Path) -> None:
    """LoRA or network, certificate, solution, model card and the before/after picture, into an empty folder."""
    from .card import model_card

    save_student(denoiser, folder)
    (folder / "certificate.json").write_text(to_json(result.certificate), encoding="utf-8")
    (folder / "solution.json").write_text(result.solution.to_json() + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(result), encoding="utf-8")
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
