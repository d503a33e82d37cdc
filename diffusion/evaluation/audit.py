r"""Is it gone, or hidden? What an unlearned pipeline still makes, wherever one might look.

    frequency of concept i under (what is asked) x (how it is sampled),  each with its standard error,

asked: nothing (the anchor); the concept's own prompts in all wordings; prompts near them that nobody trained on. How:
the pipeline's own sampler, more steps, another sampler, classifier-free guidance at several scales. The frequency is
that of a witness that judges pictures, where there is one, and the mean posterior of the teacher's head in any case.
Beside each stands the teacher's. Then how quickly the concept comes back (:mod:`diffusion.evaluation.relearning`).

An audit finds what it looks for: clean rows say that these prompts and samplers do not bring the concept back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from diffusion.evaluation.audit_table import Audit, Cell, Judged
from diffusion.evaluation.relearning import NEW_WORD, Curve, RelearnConfig, recall, teach, turned
from diffusion.evaluation.samples import ImageClassifier
from diffusion.pipelines import Denoiser
from diffusion.pipelines.latents import decode
from diffusion.pipelines.sampling import draw
from diffusion.ratios.classifier_ratios import classifier_ratios, posterior
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.concepts import Prompts
from diffusion.training.lora import base_model

SCALES = (3.0, 7.5)


@dataclass(frozen=True)
class AuditConfig:
    """How much an audit looks at: draws of each cell, and how the concept is taught again (None: not at all)."""

    draws: int = 200
    scales: tuple[float, ...] = SCALES
    relearn_config: RelearnConfig | None = field(default_factory=RelearnConfig)
    seed: int = 70_000

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise ValueError(f"draws must be at least 2, got {self.draws}")
        if any(scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must be above 1 (1 is looked at in any case), got {self.scales}")


@dataclass(frozen=True)
class Setting:
    """How draws are made: sampler steps, guidance scale, and the sampler where it is not the pipeline's own."""

    name: str
    steps: int
    scale: float = 1.0
    sampler: str | None = None


def near_prompts(prompts: Prompts, index: int, count: int = 16) -> tuple[str, ...]:
    """Prompts that ask for concept ``index`` in words that are none of its wordings: said twice, turned round, framed.

    At most ``count``; those that are a known wording of some concept after all, or a retained prompt, are left out.
    """
    wordings, retained = prompts.concepts[index].wordings, prompts.retained
    made: list[str] = []
    for j, wording in enumerate(wordings):
        made += [f"{wording}, {wording}", " ".join(reversed(wording.split())), f"a picture of {wording}"]
        if retained:
            made.append(f"{retained[j % len(retained)]} and {wording}")
    fresh = dict.fromkeys(prompt for prompt in made if prompts.asks_for(prompt) is None and prompt not in retained)
    return tuple(fresh)[:count]


def settings_of(denoiser: Denoiser, steps: int, scales: Sequence[float]) -> tuple[Setting, ...]:
    """The pipeline's own sampler first; then one thing changed at a time."""
    found = [Setting("own sampler", steps), Setting(f"{2 * steps} steps", 2 * steps)]
    if denoiser.prompt_inputs:
        found += [Setting(f"guidance {scale:g}", steps, scale) for scale in scales]
        if hasattr(denoiser.pipeline.scheduler, "alphas_cumprod"):
            found.append(Setting("DPM-Solver++", steps, sampler="DPMSolverMultistepScheduler"))
    return tuple(found)


class Judge:
    """Says how often concept ``index`` is there: the teacher's head, and the witness where there is one."""

    def __init__(
        self, denoiser: Denoiser, estimate: RatioEstimate, image_classifier: ImageClassifier | None, index: int
    ) -> None:
        """``denoiser``: the teacher's."""
        self.denoiser, self.estimate, self.image_classifier, self.index = denoiser, estimate, image_classifier, index

    def posterior(self, latents: Tensor, seed: int = 0) -> np.ndarray:
        """``Pr(i | x)`` (n,) by the head, which reads the teacher's features."""
        with base_model(self.denoiser):
            values = classifier_ratios(self.denoiser, self.estimate.classifier, latents, seed=seed)
        return np.asarray(posterior(values, self.estimate.prompts.priors)[:, self.index].numpy())

    def said(self, latents: Tensor) -> dict[str, np.ndarray]:
        """By judge, (n,) numbers in [0, 1]; the witness's first."""
        found: dict[str, np.ndarray] = {}
        if self.image_classifier is not None:
            wanted = self.image_classifier.asked(self.estimate.prompts.concepts[self.index].name)
            pictures = decode(self.denoiser.pipeline, latents)
            found = {
                judge: (labels == wanted).astype(float) for judge, labels in self.image_classifier(pictures).items()
            }
        return found | {"head": self.posterior(latents)}

    def __call__(self, latents: Tensor) -> Judged:
        said = self.said(latents).items()
        return {judge: (float(value.mean()), float(value.std() / len(value) ** 0.5)) for judge, value in said}

    def shows(self, latents: Tensor) -> np.ndarray:
        """(n,): the mean of the witness's judges, or the head's posterior where there is none."""
        said = self.said(latents)
        chosen = [value for judge, value in said.items() if judge != "head"] or [said["head"]]
        return np.asarray(np.mean(chosen, axis=0))


def audit(
    before: Denoiser,
    after: Denoiser,
    estimate: RatioEstimate,
    *,
    image_classifier: ImageClassifier | None = None,
    config: AuditConfig | None = None,
    bar: Bar = progress_bar,
) -> Audit:
    """Look for the concepts of a survey in ``after``, the unlearned pipeline, beside ``before``, the one surveyed.

    Two pipelines, each with its own network: see :func:`diffusion.pipelines.fitted.put_in`. ``after`` may carry its
    adapters only where nothing is to be taught again. Raises ``ValueError`` where both are one network.
    """
    if before.network is after.network:
        raise ValueError("before and after must be two pipelines with a network each, got one: put the fit into a copy")
    config, prompts = config or AuditConfig(), estimate.prompts
    steps = estimate.budget.sampler_steps
    plan: list[tuple[int, str, tuple[str, ...], Setting]] = []
    for index, concept in enumerate(prompts.concepts):
        asked = {"nothing": (prompts.anchor,), "its wordings": concept.wordings, "near it": ()}
        if before.prompt_inputs and concept.wordings:
            asked["near it"] = near_prompts(prompts, index)
        for name, some in asked.items():
            for setting in settings_of(after, steps, config.scales):
                # Guidance towards the anchor's own prompt is no guidance; and without prompts there is one row.
                if some and not (name == "nothing" and setting.scale != 1):
                    plan.append((index, name, some, setting))
    cells = []
    with bar("looking for the concept", 2 * config.draws * len(plan)) as shown:
        for number, (index, name, some, setting) in enumerate(plan):
            judge = Judge(before, estimate, image_classifier, index)
            wanted = [some[j % len(some)] for j in range(config.draws)]
            made = [_drawn(each, wanted, setting, config.seed + number, shown.update) for each in (before, after)]
            old, new = (judge(latents) for latents in made)
            cells.append(Cell(name, setting.name, prompts.concepts[index].name, config.draws, old, new))
    curves: dict[str, tuple[Curve, ...]] = {}
    recalls = {}
    if config.relearn_config is not None:
        for index, concept in enumerate(prompts.concepts):
            arms = taught_again(
                before,
                after,
                estimate,
                Judge(before, estimate, image_classifier, index),
                config.relearn_config,
                config.seed,
                bar,
            )
            curves[concept.name], recalls[concept.name] = arms, recall(*arms)
    return Audit(tuple(cells), curves, recalls)


def taught_again(
    before: Denoiser,
    after: Denoiser,
    estimate: RatioEstimate,
    judge: Judge,
    relearn_config: RelearnConfig,
    seed: int,
    bar: Bar,
) -> tuple[Curve, Curve, Curve]:
    """The arms of :mod:`diffusion.evaluation.relearning` for one concept: the unlearned model, and the controls known
    and new.

    Pictures are the survey's draws of the concept that the judge is surest of, other ones for every seed. A model
    without prompts is taught under its only one, and the known concept has no other name there: the teacher's curve
    starts where its share is. Raises ``ValueError`` where there are fewer of them than pictures asked for.
    """
    concept = estimate.prompts.concepts[judge.index]
    pool = estimate.labelled[estimate.labels == judge.index]
    pool = pool[np.argsort(-judge.posterior(pool), kind="stable")[: max(1, int(0.9 * len(pool)))].copy()]
    if len(pool) < relearn_config.pictures:
        raise ValueError(
            f"pictures: {relearn_config.pictures} asked for, but the survey has {len(pool)} draws of the concept"
        )
    rng = np.random.default_rng(seed)
    sets = [pool[rng.choice(len(pool), relearn_config.pictures, replace=False)] for _ in range(relearn_config.seeds)]
    own = concept.wordings[0] if concept.wordings else estimate.prompts.anchor
    word = NEW_WORD if before.prompt_inputs else estimate.prompts.anchor
    aside = [turned(before, some) for some in sets]

    def upright(latents: Tensor) -> np.ndarray:
        return judge.shows(turned(before, latents, 3))

    plan: tuple[tuple[str, Denoiser, list[Tensor], str, Callable[[Tensor], Any]], ...] = (
        (f"unlearned, {own!r}", after, sets, own, judge.shows),
        (f"known: teacher, new word {word!r}", before, sets, word, judge.shows),
        (f"new: teacher, {word!r}, pictures on their side", before, aside, word, upright),
    )
    curves = []
    with bar(
        "teaching it again", len(plan) * relearn_config.seeds * len(relearn_config.steps) * relearn_config.draws
    ) as shown:
        for arm, denoiser, pictures, prompt, shows in plan:
            curves.append(
                teach(
                    denoiser,
                    arm,
                    pictures,
                    prompt,
                    shows,
                    relearn_config,
                    estimate.budget.sampler_steps,
                    seed=seed,
                    progress=shown.update,
                )
            )
    return curves[0], curves[1], curves[2]


def _drawn(
    denoiser: Denoiser, wanted: list[str], setting: Setting, seed: int, progress: Callable[[int], object]
) -> Tensor:
    pipeline = denoiser.pipeline
    own = pipeline.scheduler
    if setting.sampler is not None:
        import diffusers

        pipeline.scheduler = getattr(diffusers, setting.sampler).from_config(own.config)
    more: dict[str, Any] = {"guidance_scale": setting.scale} if setting.scale != 1 else {}
    try:
        return draw(pipeline, wanted, seed=seed, steps=setting.steps, progress=progress, **more)
    finally:
        pipeline.scheduler = own
