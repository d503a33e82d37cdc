"""The model card that goes with a LoRA: what was asked, what it does, how it was measured, how to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import duality as du

if TYPE_CHECKING:
    from diffusion.methods import Outcome
    from diffusion.reports.results import Unlearned


def model_card(result: Unlearned, stock: bool = True) -> str:
    """README.md of the output folder; ``stock``: whether the pipeline's class loads LoRAs itself."""
    proof, solution, prompts = result.certificate, result.solution, result.survey.prompts
    concept = ", ".join(repr(c.name) for c in prompts.concepts)
    whole = result.measured["fit"]["rank"] is None
    lines = [
        *head_of(f"{'Network' if whole else 'LoRA'} that unlearns {concept}", whole),
        f"Problem: {type(solution.problem).__name__}, level {_numbers(solution.problem.levels)}. "
        f"Multipliers {_numbers(solution.multipliers)}, predicted cost {solution.primal:.4f} nats, "
        f"relative duality gap {solution.gap:.1e}. "
        + ("Certified." if proof["certified"] else "**Not certified**: " + "; ".join(proof["objections"]) + "."),
        "",
        *loading(whole, stock),
        "",
        "Prompts that ask for the concept fall back to the anchor " + repr(prompts.anchor) + ":",
        "",
        *[f"- `{text}`" for c in prompts.concepts for text in c.wordings],
        "",
        *findings(result),
        "",
        "Errors of three kinds, kept apart, are in `certificate.json`; the picture is `before_after.png`. "
        "One training seed; standard errors are of the draws alone.",
        "",
    ]
    return "\n".join(lines)


def head_of(title: str, whole: bool) -> list[str]:
    """What model hubs read, and the title. ``whole``: all weights were trained, not a LoRA."""
    tags = f"tags: [diffusers, {'' if whole else 'lora, '}unlearning]"
    return ["---", tags, "library_name: diffusers", "---", "", f"# {title}", ""]


def loading(whole: bool, stock: bool) -> list[str]:
    """How stock libraries load what lies beside the card; ``stock``: whether the pipeline's class loads LoRAs."""
    lines = ["pipeline.load_lora_weights(FOLDER)  # stock diffusers"]
    if whole:
        lines = [
            "from diffusers import DiffusionPipeline, UNet2DConditionModel  # or the class that config.json names",
            "",
            'unet = UNet2DConditionModel.from_pretrained(FOLDER, subfolder="unet")  # a transformer: likewise',
            "pipeline = DiffusionPipeline.from_pretrained(MODEL, unet=unet)",
        ]
    elif not stock:
        lines = [
            "from peft import PeftModel",
            "",
            "PeftModel.from_pretrained(pipeline.unet, FOLDER)  # puts the adapters on the network in place",
        ]
    return ["```python", *lines, "```"]


def findings(result: Unlearned) -> list[str]:
    """What was measured: level and cost, mean posteriors, and what judges say, as tables."""
    whole = result.measured["fit"]["rank"] is None
    lines = [
        *_measured(result),
        "",
        "## Mean posterior of the concept, by the head that the problem was solved with",
        "",
        "| draws | mean | standard error |",
        "|---|---|---|",
    ]
    for name, levels in result.measured["mean posterior by the head (mean, standard error)"].items():
        for concept, (mean, error) in zip(result.survey.prompts.concepts, levels, strict=True):
            which = f", {concept.name!r}" if len(levels) > 1 else ""
            lines.append(f"| {_shown(name, whole)}{which} | {mean:.4f} | {error:.4f} |")
    rounds = rounds_table(result.outcome)
    if rounds:
        lines += ["", "## Multipliers, moved by the levels of the network as it was trained", "", *rounds]
    witnesses = result.measured.get("witnesses")
    if witnesses:
        lines += ["", "## How often independent judges see the concept", ""]
        judges = list(next(iter(witnesses["shows the concept"].values())))
        lines += ["| draws | " + " | ".join(judges) + " |", "|---" * (len(judges) + 1) + "|"]
        for name, said in witnesses["shows the concept"].items():
            lines.append(f"| {_shown(name, whole)} | " + " | ".join(said[judge] for judge in judges) + " |")
    return lines


def _measured(result: Unlearned) -> list[str]:
    """Level and cost of what was fitted, beside those of the target."""
    measured, problem = result.measured, result.solution.problem
    unit = "" if isinstance(problem, du.Likelihood) else " nats"
    own = measured["level of the network (mean, standard error)"]
    cost, error = measured["cost of the network in nats (mean, standard error)"]
    rows = [
        [f"level, {concept.name!r}", f"{asked:.4g}{unit}", f"{target:.4g}{unit}", f"{mean:.4g} ± {stderr:.2g}{unit}"]
        for concept, asked, target, (mean, stderr) in zip(
            result.survey.prompts.concepts,
            np.broadcast_to(problem.levels, len(own)),
            result.solution.levels,
            own,
            strict=True,
        )
    ]
    rows.append(["cost", "", f"{result.solution.primal:.4g} nats", f"{cost:.3g} ± {error:.2g} nats"])
    table = [["", "asked", "target", "this network"], ["---"] * 4, *rows]
    return [
        "## Level and cost, by the ratios that the problem was solved with",
        "",
        *("| " + " | ".join(row) + " |" for row in table),
        "",
        "What the network costs beyond the target is the error of the fit.",
    ]


def rounds_table(outcome: Outcome) -> list[str]:
    """Multipliers of every dual round and the levels that were measured under them; empty where there was none."""
    if not len(outcome.levels):
        return []
    lines = ["| dual round | multipliers | levels measured |", "|---|---|---|"]
    for index, (level, error) in enumerate(zip(outcome.levels, outcome.errors, strict=True)):
        seen = ", ".join(f"{mean:.4g} ± {stderr:.2g}" for mean, stderr in zip(level, error, strict=True))
        lines.append(f"| {index + 1} | {_numbers(outcome.multipliers[index])} | {seen} |")
    return [*lines, f"| next | {_numbers(outcome.multipliers[-1])} | |"]


def _shown(name: str, whole: bool) -> str:
    """The name of a sample, as a reader knows the fitted network."""
    return name.replace("LoRA", "all weights") if whole else name


def _numbers(values: object) -> str:
    return ", ".join(f"{value:.4g}" for value in np.atleast_1d(np.asarray(values, float)))
