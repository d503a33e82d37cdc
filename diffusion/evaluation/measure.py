"""What is asked of a fitted network, and what is counted and integrated in its answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

import duality as du
from diffusion.evaluation.bounds import Estimate, Rule, Side, bound, estimate
from diffusion.evaluation.measured import (
    CLASSIFIER,
    Condition,
    CostFound,
    LevelFound,
    Measurement,
    Moved,
    Obeyed,
    Share,
    level_found,
)
from diffusion.evaluation.planning import Plan
from diffusion.evaluation.samples import Sample, Witness, retained, take_sample, weighted_frequency
from diffusion.methods.level_estimates import Meter
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import draw
from diffusion.ratios.classifier_ratios import head_ratios, posterior
from diffusion.ratios.ratio_estimate import Survey
from diffusion.runtime.progress import Bar
from diffusion.training.lora import folded, teacher

PICTURES = 96  # of the anchor from the noise of q's own samples, to be looked at beside them


@dataclass(frozen=True)
class Evaluation:
    """How many samples are looked at after the fit; none of them was used for solving or moved a multiplier.

    ``samples``: under the anchor; ``asked``: under each concept's own prompts, as many where left out; ``retained``:
    under the retained prompts. ``integrated``: at most so many runs of the chain along which a cost is measured, and
    samples at which the levels of KL problems are integrated over noise. ``confidence``: of every bound and of the
    verdict; ``success``: the probability with which a network at the level that is solved for is to pass
    (:mod:`diffusion.evaluation.planning`).
    """

    samples: int = 2000
    asked: int | None = None
    retained: int = 720
    integrated: int = 256
    seed: int = 9000
    confidence: float = 0.95
    success: float = 0.9

    def __post_init__(self) -> None:
        for name in ("samples", "asked", "retained", "integrated"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evaluation {name} must be at least 1, got {value}")
        for name in ("confidence", "success"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"evaluation {name} must lie strictly between 0 and 1, got {getattr(self, name)}")

    @property
    def fewest(self) -> int:
        """The fewest samples that a level is measured on."""
        return min(self.samples, self.samples if self.asked is None else self.asked)

    def prompts(self, known: Survey) -> dict[str, list[str]]:
        """What is asked for: the anchor, each concept in its wordings in turn, retained prompts; no empty lists."""
        count = self.samples if self.asked is None else self.asked
        asking = [c.wordings[j % len(c.wordings)] for c in known.prompts.concepts if c.wordings for j in range(count)]
        every = known.retained[1]
        kept = [every[j % len(every)] for j in range(self.retained)] if every else []
        wanted = {"anchor": [known.prompts.anchor] * self.samples, "concept": asking, "retained": kept}
        return {name: some for name, some in wanted.items() if some}

    def fresh_seed(self, known: Survey, index: int) -> int:
        """Of samples that share no noise with the survey, the fit, or each other."""
        words = np.random.SeedSequence([self.seed, known.budget.seed, index]).generate_state(1, np.uint64)
        return int(words[0] >> np.uint64(2))


def measure_lora(
    denoiser: Denoiser, known: Survey, plan: Plan, solution: du.Solution, evaluation: Evaluation,
    witness: Witness | None, bar: Bar,
) -> tuple[dict[str, Sample], Measurement]:  # fmt: skip
    """Draw from the adapted pipeline under the anchor, the concepts' wordings and the retained prompts, and count."""
    wanted = evaluation.prompts(known)
    samples = _drawn(denoiser, known, wanted, evaluation, witness, bar)
    # The head reads the *teacher's* features: the ratio is a property of the picture, not of the student.
    with teacher(denoiser):
        rho = {
            name: known.values  # the survey's own draws: their ratios are known
            if name == "before, anchor"
            else head_ratios(denoiser, known.head, sample.latents, seed=evaluation.fresh_seed(known, 10))
            for name, sample in samples.items()
            if name != PAIRED
        }
    count = min(evaluation.integrated, evaluation.samples)
    meter = Meter(denoiser, known, plan.asked, count, seed=evaluation.fresh_seed(known, 11))
    if isinstance(plan.asked, du.ForwardKL):
        meter = replace(meter, of_q=_fresh_q(denoiser, known, evaluation, bar))
    levels = _levels(known, plan, samples, rho, meter, witness)
    costs = [_cost(meter, "anchor")]
    if "concept" in wanted:
        asked = tuple(text for concept in known.prompts.concepts for text in concept.wordings)
        costs.append(_cost(replace(meter, asked=asked), "concept"))
    found = Measurement(levels=tuple(levels), costs=tuple(costs), shares=tuple(_shares(known, samples, rho, witness)))
    if witness is not None:
        found = found.model_copy(update=_witnessed(known, solution, samples, witness, evaluation))
    return samples, found


PAIRED = "LoRA, from the same noise"


def _drawn(
    denoiser: Denoiser,
    known: Survey,
    wanted: dict[str, list[str]],
    evaluation: Evaluation,
    witness: Witness | None,
    bar: Bar,
) -> dict[str, Sample]:
    pipeline, anchor, noise = denoiser.pipeline, known.prompts.anchor, known.budget.anchor_seed
    plan = [(f"LoRA, {name}", some, evaluation.fresh_seed(known, j)) for j, (name, some) in enumerate(wanted.items())]
    plan.append((PAIRED, [anchor] * min(PICTURES, evaluation.samples), noise))
    samples: dict[str, Sample] = {}
    with bar("evaluation samples", sum(len(some) for _, some, _ in plan)) as shown, folded(denoiser):
        for name, some, seed in plan:
            latents = draw(pipeline, some, seed=seed, steps=known.budget.sampler_steps, progress=shown.update)
            samples[name] = take_sample(name, pipeline, some, latents, witness, seed)
    before = [anchor] * len(known.anchor)
    samples["before, anchor"] = take_sample("before, anchor", pipeline, before, known.anchor, witness, noise)
    m = len(known.prompts.concepts)
    for name, of_kind in (("concept", known.labels < m), ("retained", known.labels == m)):
        rows = of_kind.nonzero()[:, 0]
        if name not in wanted:
            continue
        some = [known.labelled_prompts[int(j)] for j in rows]
        samples[f"before, {name}"] = take_sample(f"before, {name}", pipeline, some, known.labelled[rows], witness)
    return samples


def _fresh_q(denoiser: Denoiser, known: Survey, evaluation: Evaluation, bar: Bar) -> tuple[Tensor, Tensor]:
    """Samples of q that nothing was solved on, with their log ratios."""
    with bar("fresh samples of q", evaluation.samples) as shown, teacher(denoiser):
        wanted, seed = [known.prompts.anchor] * evaluation.samples, evaluation.fresh_seed(known, 20)
        steps = known.budget.sampler_steps
        latents = draw(denoiser.pipeline, wanted, seed=seed, steps=steps, progress=shown.update)
        return latents, head_ratios(denoiser, known.head, latents, seed=evaluation.fresh_seed(known, 21))


def _levels(
    known: Survey, plan: Plan, samples: dict[str, Sample], rho: dict[str, Tensor], meter: Meter, witness: Witness | None
) -> list[LevelFound]:
    problem, found = plan.asked, list[LevelFound]()
    share = isinstance(problem, du.Likelihood) and problem.kind == "posterior"
    rule: Rule = "betting" if share else "student_t"
    side: Side = "upper" if problem.direction < 0 else "lower"
    at_anchor = meter.of(samples["LoRA, anchor"].latents, rho["LoRA, anchor"]).values
    for i, concept in enumerate(known.prompts.concepts):
        parts: list[tuple[Condition, str, np.ndarray, np.ndarray]] = []
        every = np.arange(len(samples["LoRA, anchor"]))
        parts.append(("anchor", "LoRA, anchor", at_anchor[:, i], every))
        if "LoRA, concept" in samples and concept.wordings:
            sample = samples["LoRA, concept"]
            rows = np.array([j for j, text in enumerate(sample.prompts) if known.prompts.asks_for(text) == i])
            own = replace(meter, asked=concept.wordings).of(sample.latents[rows], rho["LoRA, concept"][rows])
            parts.append(("concept", "LoRA, concept", own.values[:, i], rows))
        for prompts, name, values, rows in parts:
            level = float(problem.levels[i])
            found.append(
                level_found(
                    values, level, side, rule, plan.confidence, concept=concept.name, prompts=prompts, by=CLASSIFIER
                )
            )
            label = witness.asked(concept.name) if witness is not None else None
            if not share or label is None:
                continue
            for judge, said in samples[name].said.items():
                hits = (said[rows] == label).astype(float)
                counted: Rule = "clopper_pearson"
                found.append(
                    level_found(
                        hits, level, side, counted, plan.confidence, concept=concept.name, prompts=prompts, by=judge
                    )
                )
    return found


def _cost(meter: Meter, prompts: Condition) -> CostFound:
    values, chain = meter.cost()
    return CostFound(
        prompts=prompts,
        estimate=estimate(values.numpy()),
        median=float(torch.quantile(values, 0.5)),
        steps=chain.steps,
        exact=chain.own,
    )


def _shares(known: Survey, samples: dict[str, Sample], rho: dict[str, Tensor], witness: Witness | None) -> list[Share]:
    found = []
    for name, values in rho.items():
        for concept, column in zip(known.prompts.concepts, posterior(values, known.prompts.priors).T, strict=True):
            seen = estimate(column.double().numpy())
            found.append(Share(sample=name, concept=concept.name, by=CLASSIFIER, estimate=seen))
        if witness is not None:
            for judge, labels in samples[name].said.items():
                hits = np.isin(labels, _classes(known, witness))
                found.append(Share(sample=name, concept=None, by=judge, estimate=_counted(hits)))
    return found


def _classes(known: Survey, witness: Witness) -> list[int]:
    asked = [witness.asked(concept.name) for concept in known.prompts.concepts]
    return [value for value in asked if value is not None]


def _counted(hits: np.ndarray) -> Estimate:
    share = float(np.mean(hits))
    return Estimate(mean=share, stderr=(share * (1 - share) / len(hits)) ** 0.5, n=len(hits))


def _witnessed(
    known: Survey, solution: du.Solution, samples: dict[str, Sample], witness: Witness, evaluation: Evaluation
) -> dict[str, object]:
    """What only independent detectors can say."""
    classes, before, after = _classes(known, witness), samples["before, anchor"], samples["LoRA, anchor"]
    rest = [sum(~np.isin(list(sample.said.values())[-1], classes)) for sample in (before, after)]
    moved = None
    if min(rest) >= 2:  # a distance needs two samples without the concept on either side
        change = retained(before, after, classes, witness, evaluation.seed)
        moved = Moved(energy_distance=change.energy, noise_floor=change.floor, largest_class_shift=change.class_shift)
    names = {name: sample for name, sample in samples.items() if name in ("before, anchor", "LoRA, anchor")}
    return {
        "moved": moved,
        "target_shares": weighted_frequency(before, solution.log_weights, classes),
        "class_shares": {name: sample.classes(len(witness.classes)) for name, sample in names.items()},
        "retained": tuple(_obeyed(samples, witness, evaluation.confidence)),
    }


def _obeyed(samples: dict[str, Sample], witness: Witness, confidence: float) -> list[Obeyed]:
    """All retained prompts together, then one by one by what they ask for."""
    if "LoRA, retained" not in samples:
        return []
    before, after = samples["before, retained"], samples["LoRA, retained"]
    labels = [np.array([-1 if (k := witness.asked(p)) is None else k for p in s.prompts]) for s in (before, after)]
    found = []
    for kind in (None, *sorted(set(labels[1].tolist()) & set(labels[0].tolist()) - {-1})):
        for judge in after.said:
            right = [
                (sample.said[judge] == label)[(label >= 0) if kind is None else (label == kind)].astype(float)
                for sample, label in zip((before, after), labels, strict=True)
            ]
            if not len(right[0]) or not len(right[1]):
                continue
            found.append(
                Obeyed(
                    prompts="all" if kind is None else witness.classes[kind],
                    by=judge,
                    before=_counted(right[0]),
                    after=_counted(right[1]),
                    bound=bound(right[1], "lower", "clopper_pearson", confidence),
                )
            )
    return found
