"""The model card that goes with a LoRA: what was asked, what it does, how it was measured, how to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

ROUNDS = "## Multipliers, moved by the levels of the network as it was trained"

if TYPE_CHECKING:
    from diffusion.evaluation.bounds import Estimate
    from diffusion.evaluation.measured import Measurement
    from diffusion.methods import Outcome
    from diffusion.reports.base_model import BaseModel
    from diffusion.reports.results import Unlearned
    from diffusion.tasks.sampling import Sampling


def model_card(result: Unlearned, base: BaseModel) -> str:
    """README.md of the output folder."""
    proof, solution, prompts = result.certificate, result.solution, result.estimate.prompts
    concept = ", ".join(repr(c.name) for c in prompts.concepts)
    full_weights = result.full_weights
    samples = result.plan.samples
    title = title_of(concept, full_weights, proof.certified, samples)
    solved = f"; solved for {_numbers(solution.problem.levels)}, so that {samples} evaluation samples can show it"
    asked = next((text for c in prompts.concepts for text in c.prompts), prompts.anchor)
    lines = [
        f"# {title}",
        "",
        f"Problem: {type(solution.problem).__name__}, level {_numbers(result.plan.asked.levels)}"
        f"{solved if samples else ''}. Multipliers {_numbers(solution.multipliers)}, predicted cost "
        f"{solution.primal:.4f} nats, relative duality gap {solution.gap:.1e}.",
        "",
        *verdicts(result),
        "",
        *loading(base, full_weights, asked, result.estimate.sampling),
        "",
        "Prompts that ask for the concept fall back to the anchor " + repr(prompts.anchor) + ":",
        "",
        *[f"- `{text}`" for c in prompts.concepts for text in c.prompts],
        "",
        *findings(result),
        "",
        "The three verdicts with their evidence are in `certificate.json`. `before_after.png` shows samples before and "
        "after, from the same noise under the same prompt. One training seed"
        + ("; bounds and standard errors are of the samples alone." if samples else "."),
    ]
    return with_metadata(lines, base, full_weights)


def title_of(concept: str, full_weights: bool, certified: bool, samples: int) -> str:
    """What is in the folder, and whether it is what it was to be."""
    what = "Network" if full_weights else "LoRA"
    if certified:
        return f"{what} that unlearns {concept}"
    return f"{what} that was to unlearn {concept} ({'' if samples else 'not measured, '}not certified)"


def unmeasured(outcome: Outcome) -> list[str]:
    """What stands in the place of measurements where none was asked for."""
    rounds = rounds_table(outcome)
    return [
        "## Nothing was measured",
        "",
        "The run had 0 evaluation samples: what this network makes was looked at in the images alone, no level was "
        "counted and no cost. The solver was asked for the levels themselves, without the room that samples would need "
        "to show them; a run with evaluation samples leaves that room, measures and certifies.",
        *(["", ROUNDS, "", *rounds] if rounds else []),
    ]


def with_metadata(lines: list[str], base: BaseModel, full_weights: bool) -> str:
    """A card with what model hubs read above it. What is not known of the base model is left out."""
    from huggingface_hub import ModelCard, ModelCardData

    more: dict[str, Any] = {}
    if base.hub and base.source is not None:
        more = {"base_model": base.source, "base_model_relation": "finetune" if full_weights else "adapter"}
    data = ModelCardData(
        license=base.license,
        library_name="diffusers",
        pipeline_tag=base.pipeline_tag,
        tags=["unlearning", *([] if full_weights else ["lora"])],
        **more,
    )
    body = "\n".join(lines)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def loading(base: BaseModel, full_weights: bool, prompt: str, sampling: Sampling) -> list[str]:
    """Of what model it is, and Python that loads and samples it."""
    origin = "not known to this card"
    if base.source is not None:
        origin = f"`{base.source}`" + (", which comes with unlearning-duality" if base.embedded else "")
    return [f"Base model: {origin}.", "", "```python", *base.snippet(full_weights, prompt, sampling), "```"]


def verdicts(result: Unlearned) -> list[str]:
    """Solution, ratios, fitted model: passed, or every reason why not."""
    proof = result.certificate
    lines = [
        f"{'Certified' if proof.certified else '**Not certified**'} ({100 * result.plan.confidence:g} % confidence):",
        "",
    ]
    for name, verdict in proof.verdicts.items():
        lines.append(f"- {name}: {'passed' if verdict.passed else '**not passed**'}")
        lines += [f"    - {reason}" for reason in verdict.reasons]
    return lines


def findings(result: Unlearned) -> list[str]:
    """What was measured: every level with its bound, costs, retained prompts and shares, as tables."""
    measured, full_weights = result.measured, result.full_weights
    if not result.plan.samples:
        return unmeasured(result.outcome)
    lines = [
        "## Levels, on fresh samples",
        "",
        f"A level is met where its one-sided bound at {100 * result.plan.confidence:g} % is on its right side.",
        "",
        "| concept | prompts | by | samples | asked | measured | bound | met |",
        "|---" * 8 + "|",
    ]
    for level in measured.levels:
        side = "≤" if level.bound.side == "upper" else "≥"
        lines.append(
            f"| {cell(level.concept)} | {level.prompts} | {level.by} | {level.estimate.n} | {level.asked:.4g} "
            f"| {level.estimate} | {side} {level.bound.value:.4g} ({level.bound.rule}) "
            f"| {'yes' if level.met else 'no'} |"
        )
    lines += ["", "## Cost, along a stochastic chain of the network", ""]
    lines += ["| prompts | nats | median | times the target's | chain |", "|---" * 5 + "|"]
    for cost in measured.costs:
        times = f"{cost.estimate.mean / result.solution.primal:.1f}" if result.solution.primal > 0 else ""
        chain = f"{cost.steps} steps, " + ("the sampler's own" if cost.exact else "ancestral: approximate")
        lines.append(f"| {cost.prompts} | {cost.estimate} | {cost.median:.3g} | {times} | {chain} |")
    least = result.certificate.fitted_model.least_cost
    lines += ["", f"The target costs {result.solution.primal:.4g} nats; the rest is the error of the fit."]
    if least is not None:
        lines.append(f"At the measured level no density costs less than {least:.4g}.")
    rounds = rounds_table(result.outcome)
    if rounds:
        lines += ["", ROUNDS, "", *rounds]
    lines += retained_table(measured)
    lines += ["", "## How often the concept is seen", "", "| samples | number | by | share |", "|---" * 4 + "|"]
    for share in measured.shares:
        which = f", {share.concept!r}" if share.concept and len(result.estimate.prompts.concepts) > 1 else ""
        name = _shown(share.sample, full_weights) + which
        lines.append(f"| {cell(name)} | {share.estimate.n} | {share.by} | {_percent(share.estimate)} |")
    return lines


def retained_table(measured: Measurement) -> list[str]:
    """How often prompts that are to be retained bring what they ask for; empty where that was not measured."""
    if not measured.retained:
        return []
    head = [
        "",
        "## Prompt accuracy on retained prompts",
        "",
        "| prompts | by | before | after | at least |",
        "|---" * 5 + "|",
    ]
    return head + [
        f"| {cell(kept.prompts)} | {kept.by} | {_percent(kept.before)} | {_percent(kept.after)} "
        f"| {100 * kept.bound.value:.1f} % |"
        for kept in measured.retained
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


def cell(text: str) -> str:
    """Words of others in a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _percent(share: Estimate) -> str:
    return f"{100 * share.mean:.2f} ± {100 * share.stderr:.2f} %"


def _shown(name: str, full_weights: bool) -> str:
    """The name of a sample, as a reader knows the fitted network."""
    return name.replace("LoRA", "all weights") if full_weights else name


def _numbers(values: object) -> str:
    return ", ".join(f"{value:.4g}" for value in np.atleast_1d(np.asarray(values, float)))
