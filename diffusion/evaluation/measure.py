"""What is asked of a fitted network, and what is counted and integrated in its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duality as du
from diffusion.evaluation.samples import (
    Sample,
    Witness,
    agreement,
    mean_posterior,
    retained,
    take_sample,
    weighted_frequency,
)
from diffusion.methods.level_estimates import Meter
from diffusion.pipelines import Denoiser
from diffusion.pipelines.sampling import draw
from diffusion.ratios.classifier_ratios import head_ratios, posterior
from diffusion.ratios.ratio_estimate import Survey
from diffusion.runtime.progress import Bar
from diffusion.training.lora import folded, teacher


@dataclass(frozen=True)
class Evaluation:
    """How many draws are judged after the fit.

    Draws of the anchor start from the noise of the draws of q before, all others from ``seed``. ``integrated``: at how
    many of them integrals over noise are taken (:mod:`diffusion.methods.level_estimates`).
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
    latents = samples["LoRA, anchor"].latents
    own = meter.of(latents, rho["LoRA, anchor"])
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
