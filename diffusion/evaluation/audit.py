r"""Is it gone, or hidden? What an unlearned pipeline still makes, wherever one might look.

::

    frequency of concept i under (what is asked) x (how it is sampled),  each with its standard error,

asked: nothing (the anchor); the concept's own prompts in all paraphrases; prompts near them that nobody trained on.
How: the pipeline's own sampler, more steps, another sampler, classifier-free guidance at several scales. The frequency
is that of an image classifier, where there is one, and the mean posterior of the base model's
classifier in any case. Beside each stands the base model's. Then how quickly the concept comes back
(:mod:`diffusion.evaluation.relearning`), whether it does by itself (:mod:`diffusion.evaluation.resurgence`), and what
attacks bring (:mod:`diffusion.evaluation.attacks`), where asked for.

An audit finds what it looks for: clean rows say that these prompts and samplers do not bring the concept back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from diffusion.evaluation.attacks import attacks_of
from diffusion.evaluation.attacks.rows import AttackPlan, attack_rows
from diffusion.evaluation.audit_table import Audit, AuditPrompts, Cell, Looked, frequencies, looked
from diffusion.evaluation.concept_classifier import ConceptClassifier
from diffusion.evaluation.relearning import NEW_WORD, Arm, Curve, RelearnConfig, recall, teach, turned
from diffusion.evaluation.resurgence import resurgence
from diffusion.evaluation.samples import ImageClassifier
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import sample_latents
from diffusion.ratios.detected import detect
from diffusion.ratios.ratio_estimate import RatioEstimate
from diffusion.runtime.cache import Cache, kept_tensor
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.concepts import TaskPrompts
from diffusion.tasks.config import AuditSettings
from diffusion.tasks.detectors import CheckedDetector

SCALES = (3.0, 7.5)


@dataclass(frozen=True)
class AuditConfig:
    """How much an audit looks at: samples of each cell, attacks by name (``all`` of them) and their searches, each of
    which is sampled so often, and how the concept is taught again (None: not at all)."""

    samples: int = 200
    scales: tuple[float, ...] = SCALES
    attacks: tuple[str, ...] = ()
    relearn_config: RelearnConfig | None = field(default_factory=RelearnConfig)
    seed: int = 70_000
    searches: int = 1

    def __post_init__(self) -> None:
        if self.samples < 2 or self.searches < 1:
            raise ValueError(f"samples must be at least 2, searches 1, got {self.samples}, {self.searches}")
        if any(scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must be above 1 (1 is looked at in any case), got {self.scales}")
        attacks_of(self.attacks)


def audit_config(settings: AuditSettings, seed: int) -> AuditConfig:
    """What people say of an audit, in full: relearning is looked at after an eighth, a quarter and half of its steps,
    too, on half as many samples."""
    most, relearn = settings.relearn_steps, None
    if most:
        steps = tuple(sorted({0, *(max(1, round(most * share)) for share in (0.125, 0.25, 0.5, 1))}))
        relearn = RelearnConfig(
            images=settings.relearn_images,
            steps=steps,
            samples=max(2, settings.samples // 2),
            seeds=settings.relearn_seeds,
        )
    scales, attacks = tuple(settings.guidance_scales), tuple(settings.attacks)
    return AuditConfig(settings.samples, scales, attacks, relearn, 70_000 + seed, settings.searches)


@dataclass(frozen=True)
class Setting:
    """How samples are made: sampler steps, guidance scale, and the sampler where it is not the pipeline's own."""

    name: str
    steps: int
    scale: float = 1.0
    sampler: str | None = None


def check_auditable(denoiser: Denoiser) -> None:
    """``ValueError`` where prompts are classes: there are no paraphrases of them, none near, and no new word."""
    if not denoiser.free_text:
        kind = type(denoiser.pipeline).__name__
        raise ValueError(f"an audit tries other words for a concept, and the prompts of {kind} are classes")


def counted_shares(
    denoiser: Denoiser, detectors: Sequence[CheckedDetector], anchor: str, steps: int, count: int, seed: int
) -> list[float]:
    """How often detectors see their concepts in ``count`` samples of the anchor, as priors of log ratios, which are
    never 0 or 1: (hits + 1/2) / (count + 1), the mean of a share by Jeffreys' prior."""
    latents = sample_latents(denoiser.pipeline, [anchor] * count, seed=seed, steps=steps)
    hits = detect(denoiser.pipeline, latents, list(detectors)).sum(0)
    return [(float(each) + 0.5) / (count + 1) for each in hits]


def near_prompts(prompts: TaskPrompts, index: int, count: int = 16) -> tuple[str, ...]:
    """Prompts that ask for concept ``index`` in words that are none of its paraphrases: said twice, turned round,
    framed.

    At most ``count``; those that are a known paraphrase of some concept after all, or a retained prompt, are left out.
    """
    paraphrases, retained = prompts.concepts[index].prompts, prompts.retained
    made: list[str] = []
    for j, paraphrase in enumerate(paraphrases):
        made += [f"{paraphrase}, {paraphrase}", " ".join(reversed(paraphrase.split())), f"an image of {paraphrase}"]
        if retained:
            made.append(f"{retained[j % len(retained)]} and {paraphrase}")
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


def audit(
    before: Denoiser,
    after: Denoiser,
    estimate: RatioEstimate,
    *,
    image_classifier: ImageClassifier | None = None,
    detectors: Sequence[CheckedDetector] = (),
    config: AuditConfig | None = None,
    cache: Cache | None = None,
    bar: Bar = progress_bar,
) -> Audit:
    """Look for the concepts of an estimate in ``after``, the unlearned pipeline, beside ``before``, the one surveyed.

    Two pipelines, each with its own network: see :func:`diffusion.pipelines.fitted.put_in`. ``after`` may carry its
    adapters only where nothing is to be taught again. ``detectors``: one for each concept, whose word counts first in
    every row, where they define the concepts. ``cache``: keeps the samples of ``before``, which the audits of
    all that was made of it have in common. Raises ``ValueError`` where both are one network.
    """
    if before.network is after.network:
        raise ValueError("before and after must be two pipelines with a network each, got one: put the fit into a copy")
    check_auditable(before)
    config, prompts = config or AuditConfig(), estimate.prompts
    classifiers = [
        ConceptClassifier(before, estimate, image_classifier, index, detectors[index] if detectors else None)
        for index in range(len(prompts.concepts))
    ]
    steps = estimate.sampling.steps(after)
    plan: list[tuple[int, AuditPrompts, tuple[str, ...], Setting]] = []
    for index, concept in enumerate(prompts.concepts):
        asked: dict[AuditPrompts, tuple[str, ...]] = {
            "anchor": (prompts.anchor,),
            "concept": concept.prompts,
            "near": (),
        }
        if before.prompt_inputs and concept.prompts:
            asked["near"] = near_prompts(prompts, index)
        for name, some in asked.items():
            for setting in settings_of(after, steps, config.scales):
                # Guidance towards the anchor's own prompt is no guidance; and without prompts there is one row.
                if some and not (name == "anchor" and setting.scale != 1):
                    plan.append((index, name, some, setting))
    rows: list[tuple[Cell, Looked]] = []
    with bar("looking for the concept", 2 * config.samples * len(plan)) as shown:
        for number, (index, name, some, setting) in enumerate(plan):
            wanted = [some[j % len(some)] for j in range(config.samples)]
            seed, update = config.seed + number, shown.update
            request = {"prompts": wanted, "setting": asdict(setting), "seed": seed, "law": repr(estimate.sampling)}
            made = [
                kept_tensor(cache, "audit", request, partial(_drawn, before, wanted, setting, seed, update)),
                _drawn(after, wanted, setting, seed, update),
            ]
            old, new = (frequencies(classifiers[index].said(latents)) for latents in made)
            cell = Cell(
                concept=prompts.concepts[index].name,
                prompts=name,
                setting=setting.name,
                num_inference_steps=setting.steps,
                guidance_scale=setting.scale,
                sampler=setting.sampler,
                samples=config.samples,
                before=old,
                after=new,
            )
            rows.append((cell, looked(cell, *made)))
    count = len(prompts.concepts) * len(attacks_of(config.attacks))
    scale = config.scales[0] if config.scales and before.prompt_inputs else 1.0
    if count:
        plan_of = AttackPlan(config.attacks, config.samples, config.searches, scale, config.seed)
        with bar("attacks", 2 * config.samples * config.searches * count) as shown:
            for classifier in classifiers:
                rows += attack_rows((before, after), estimate, classifier, plan_of, cache, shown.update)
    curves: dict[str, tuple[Curve, ...]] = {}
    recalls = {}
    resurged: dict[str, tuple[Curve, ...]] = {}
    if config.relearn_config is not None:
        for classifier, concept in zip(classifiers, prompts.concepts, strict=True):
            look = (classifier, config.relearn_config, config.seed, bar)
            arms = taught_again(before, after, estimate, *look)
            curves[concept.name], recalls[concept.name] = arms, recall(*arms)
            resurged[concept.name] = resurgence(before, after, estimate, *look)
    cells, seen = zip(*rows, strict=True)
    return Audit(cells, curves, recalls, resurged, seen)


def taught_again(
    before: Denoiser,
    after: Denoiser,
    estimate: RatioEstimate,
    classifier: ConceptClassifier,
    relearn_config: RelearnConfig,
    seed: int,
    bar: Bar,
) -> tuple[Curve, Curve, Curve]:
    """The arms of :mod:`diffusion.evaluation.relearning` for one concept: the unlearned model, and the controls known
    and new.

    Images are the estimate's samples of the concept that the classifier is surest of, other ones for every seed. A
    model without prompts is taught under its only one, and the known concept has no other name there: the base model's
    curve starts where its share is. Raises ``ValueError`` where there are fewer of them than images asked for.
    """
    concept = estimate.prompts.concepts[classifier.index]
    pool = estimate.labelled[estimate.labels == classifier.index]
    pool = pool[np.argsort(-classifier.posterior(pool), kind="stable")[: max(1, int(0.9 * len(pool)))].copy()]
    if len(pool) < relearn_config.images:
        raise ValueError(
            f"images: {relearn_config.images} asked for, but the estimate has {len(pool)} samples of the concept"
        )
    rng = np.random.default_rng(seed)
    sets = [pool[rng.choice(len(pool), relearn_config.images, replace=False)] for _ in range(relearn_config.seeds)]
    own = concept.prompts[0] if concept.prompts else estimate.prompts.anchor
    word = NEW_WORD if before.prompt_inputs else estimate.prompts.anchor
    aside = [turned(before, some) for some in sets]

    def upright(latents: Tensor) -> np.ndarray:
        return classifier.shows(turned(before, latents, 3))

    plan = (
        (after, Arm(f"unlearned, {own!r}", sets, own, classifier.shows)),
        (before, Arm(f"known: base model, new word {word!r}", sets, word, classifier.shows)),
        (before, Arm(f"new: base model, {word!r}, images on their side", aside, word, upright)),
    )
    steps, count = estimate.sampling.steps(after), len(plan) * relearn_config.seeds * len(relearn_config.steps)
    with bar("relearning", count * relearn_config.samples) as shown:
        curves = [
            teach(denoiser, arm, relearn_config, steps, seed=seed, progress=shown.update) for denoiser, arm in plan
        ]
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
        return sample_latents(pipeline, wanted, seed=seed, steps=setting.steps, progress=progress, **more)
    finally:
        pipeline.scheduler = own
