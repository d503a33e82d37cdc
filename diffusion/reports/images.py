"""What is said of a run that forgot images: a table, and the card made from it. No image, no path, no prompt.

Images go by their number, as they were given: what is to be forgotten should not be named in what is published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffusion.reports.model_card import loading, with_metadata
from diffusion.tasks.sampling import Sampling

if TYPE_CHECKING:
    from diffusion.evaluation.bounds import Counted
    from diffusion.reports.base_model import BaseModel
    from diffusion.reports.image_results import Forgotten


def findings(result: Forgotten) -> list[str]:
    """A line for each image, then what it cost, as Markdown."""
    proof, measured = result.certificate, result.measured
    last, confidence = proof.fitted_model.next_multipliers, 100 * proof.confidence
    lines = [
        "| image | share | level | gained | at least | shown | multiplier / share | copies before | after | at most "
        "| data as near | nearest sample before | after |",
        "|---" * 13 + "|",
    ]
    for i, level in enumerate(proof.fitted_model.levels):
        share, copies = proof.shares.shares[i], measured.copies_of_each[i]
        cells = [
            str(level.image), f"{share.mean:.2g}", f"{level.asked:.1f}", str(level.elbo_drop),
            f"{level.bound.value:.4g}", "yes" if level.met else "no",
            "" if last is None else f"{last[i] / share.mean:.2f}",
            _percent(copies.before), _percent(copies.after), f"{100 * copies.after.bound.value:.2f} %",
            "" if share.data_as_near is None else f"{100 * share.data_as_near:.2f} %",
            f"{copies.nearest_before:.2f}", f"{copies.nearest_after:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    copies = measured.copies
    lines += [
        "",
        f"Levels and gains in nats of negative ELBO (it bounds -log p); 'at least' and 'at most' are one-sided bounds "
        f"at {confidence:g} %, a normal approximation for nats and exact for copies. A sample is a copy where it lies "
        "at most half as far from the image as images of the data lie from their neighbours (distance 0.5); "
        "'data as near' is the part of the data, copies left out, of which that is true.",
        "",
        f"Of {measured.samples} samples under the images' prompts, copies of any image: {_percent(copies.before)} "
        f"before, {_percent(copies.after)} after, at most {100 * copies.after.bound.value:.2f} %. "
        f"Cost on the rest of the data: {measured.cost} nats.",
    ]
    if measured.held_out_elbo_drop is not None:
        lines.append(f"Held-out images gained {measured.held_out_elbo_drop} nats of negative ELBO.")
    return lines


def _percent(share: Counted) -> str:
    return f"{100 * share.mean:.2f} ± {100 * share.stderr:.2f} %"


def model_card(result: Forgotten, base: BaseModel) -> str:
    """README.md of the output folder."""
    proof = result.certificate
    full_weights, count = result.full_weights, proof.question.images
    verdict = "Certified." if proof.certified else "**Not certified**: " + "; ".join(proof.objections) + "."
    lines = [
        f"# {'Network' if full_weights else 'LoRA'} that forgets {count} image{'s' * (count > 1)}",
        "",
        f"Forward KL, one constraint and one multiplier an image. {verdict}",
        "",
        *loading(base, full_weights, "", Sampling(**result.measured.sampling)),
        "",
        *findings(result),
        "",
        "Errors of three kinds, kept apart, are in `certificate.json`. The images themselves are not in this folder. "
        "One training seed; standard errors are of the samples alone.",
    ]
    return with_metadata(lines, base, full_weights)
