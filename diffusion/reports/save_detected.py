"""A finished run under a law of prompts into a folder: weights, certificate, solution, card, images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffusion.evaluation.bounds import Bound
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fitted import holds_fit
from diffusion.reports.base_model import BaseModel, base_of
from diffusion.reports.figures import Pairs, save_pairs
from diffusion.reports.model_card import (
    ROUNDS,
    cell,
    loading,
    retained_table,
    rounds_table,
    title_of,
    unmeasured,
    with_metadata,
)
from diffusion.tasks.sampling import Sampling
from diffusion.training.lora import save_student

if TYPE_CHECKING:
    from diffusion.reports.detector_results import DetectedUnlearned

STRIP = 8  # images before and after of each strip
LISTED = 12  # prompts of the law that the card names, the most asked ones


def save_detected(result: DetectedUnlearned, denoiser: Denoiser, folder: Path) -> None:
    """LoRA or network, certificate, solution, card and before/after images, into the folder of a running output."""
    if not holds_fit(folder):  # else it was kept as soon as it was there
        save_student(denoiser, folder)
    (folder / "certificate.json").write_text(result.certificate.to_json(), encoding="utf-8")
    (folder / "solution.json").write_text(result.solution.to_json() + "\n", encoding="utf-8")
    (folder / "README.md").write_text(detector_card(result, base_of(denoiser)), encoding="utf-8")
    save_pairs(folder / "before_after.png", strips(result))


def strips(result: DetectedUnlearned) -> list[Pairs]:
    """Before and after from the same noise: the prompts in turn, named above each strip."""
    shown, found = result.shown, []
    for start in range(0, len(shown.prompts) - STRIP + 1, STRIP):
        some = slice(start, start + STRIP)
        texts = list(dict.fromkeys(shown.prompts[some]))
        named = " | ".join(text or "(empty)" for text in texts[:4]) + (" | ..." if len(texts) > 4 else "")
        found.append(Pairs(named, shown.before[some], shown.after[some]))
    return found


def detector_card(result: DetectedUnlearned, base: BaseModel) -> str:
    """README.md of the output folder."""
    proof, solution = result.certificate, result.solution
    question = proof.question
    concept = ", ".join(repr(name) for name in question.concepts)
    most = sorted(question.prompts, key=lambda each: -each.probability)
    lines = [
        f"# {title_of(concept, result.full_weights, proof.certified, question.samples)}",
        "",
        f"Levels of detectors under a law of {len(question.prompts)} prompts as {question.scheduler} makes images of "
        f"them in {question.sampling['num_inference_steps']} steps at guidance scale {question.guidance_scale:g}"
        + (
            f", negative prompt {question.sampling['negative_prompt']!r}"
            if question.sampling["negative_prompt"]
            else ""
        )
        + f"; predicted cost {solution.primal:.4f} nats, relative duality gap {solution.gap:.1e}."
        + (
            f" Levels are solved for such that {question.samples} samples"
            f"{' at most, counted as they come,' if question.sequential else ''} can show what was asked."
            if question.samples
            else ""
        ),
        "",
        "| concept | by | of the images of | asked | solved for | multiplier |",
        "|---" * 6 + "|",
        *(
            f"| {cell(each.concept)} | {each.detector} | {_of(each.group)} | "
            f"at {'most' if each.side == 'upper' else 'least'} {each.level:.4g} | {each.solved_level:.4g} | {lam:.4g} |"
            for each, lam in zip(question.levels, solution.multipliers, strict=True)
        ),
        "",
        f"{'Certified' if proof.certified else '**Not certified**'} ({100 * proof.confidence:g} % confidence):",
        "",
    ]
    for name, verdict in proof.verdicts.items():
        lines.append(f"- {name}: {'passed' if verdict.passed else '**not passed**'}")
        lines += [f"    - {reason}" for reason in verdict.reasons]
    asked = next((each.prompt for each in most if each.anchor is not None), most[0].prompt)
    law = Sampling(**question.sampling)
    lines += ["", *loading(base, result.full_weights, asked, law), ""]
    lines += ["## The law of prompts", "", "| prompt | probability | group | sampled as |", "|---" * 4 + "|"]
    lines += [
        f"| {cell(each.prompt) or '(empty)'} | {each.probability:.4g} | {cell(each.group or '')} | "
        f"{'itself' if each.anchor is None else repr(cell(each.anchor))} |"
        for each in most[:LISTED]
    ]
    if len(most) > LISTED:
        lines.append(f"| and {len(most) - LISTED} more, in `task.yaml` | | | |")
    lines += ["", *(_found(result) if question.samples else unmeasured(result.outcome))]
    lines += [
        "",
        "What a detector does not see is not bounded here. The evidence is in `certificate.json`; `before_after.png` "
        "shows samples before and after from the same noise under the same prompts. One training seed"
        + ("; bounds and standard errors are of the samples alone." if question.samples else "."),
    ]
    return with_metadata(lines, base, result.full_weights)


def _found(result: DetectedUnlearned) -> list[str]:
    """What was measured: every level with its bound, the cost, the rounds of the fit, retained prompts."""
    proof, measured = result.certificate, result.measured
    question = proof.question
    lines = [
        "## Levels, on fresh samples of fresh prompts",
        "",
        "| concept | by | of | guidance scale | samples | asked | measured | bound | met |",
        "|---" * 9 + "|",
    ]
    lines += [
        f"| {cell(each.concept)} | {each.by} | {_of(each.group)} | {question.guidance_scale:g} | {each.estimate.n} | "
        f"{_side(each.bound)} {each.asked:.4g} | {each.estimate} | {_side(each.bound)} {each.bound.value:.4g} "
        f"({each.bound.rule}) | {'yes' if each.met else 'no'} |"
        for each in measured.levels
    ]
    lines += [
        f"| {cell(each.concept)} | {each.by} | {_of(each.group)} | {each.guidance_scale:g} | {each.estimate.n} | | "
        f"{each.estimate} | {_side(each.bound)} {each.bound.value:.4g} ({each.bound.rule}) | not asked |"
        for each in measured.at_scales
    ]
    cost = measured.cost("prompts")
    ratio = proof.fitted_model.cost_ratio
    lines += [
        "",
        f"Cost along a stochastic chain ({cost.steps} steps, "
        + ("the sampler's own" if cost.exact else "ancestral: approximate")
        + f") at that guidance scale: {cost.estimate} nats, median {cost.median:.3g}"
        + (f"; {ratio:.1f} times the target's." if ratio is not None else "."),
    ]
    rounds = rounds_table(result.outcome)
    lines += ["", ROUNDS, "", *rounds] if rounds else []
    return lines + retained_table(measured)


def _of(group: str | None) -> str:
    return "all prompts" if group is None else cell(group)


def _side(bound: Bound) -> str:
    return "at most" if bound.side == "upper" else "at least"
