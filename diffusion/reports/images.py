"""What is said of a run that forgot images: the certificate, and the card and table made from it. No image, no path.

Images go by their number, as they were given: what is to be forgotten should not be named in what is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from diffusion.evaluation.image_likelihood import COST, ELBO_DROP, HELD_OUT
from diffusion.reports.certificate import versions
from diffusion.reports.model_card import loading, title_block
from diffusion.reports.verdicts import Standards
from duality.point_masses import WaterFilling

if TYPE_CHECKING:
    from diffusion.methods import Outcome
    from diffusion.reports.image_results import Forgotten
    from diffusion.tasks.image_targets import ImageTargets
    from diffusion.tasks.images import ImageTensors

Z = 1.645  # of a one-sided bound at 95 %: gains are means of integrals over noise, which have no bound of their own


def certificate(
    task: ImageTensors,
    targets: ImageTargets,
    answers: Sequence[WaterFilling],
    outcome: Outcome,
    measured: dict[str, Any],
    fingerprint: str,
) -> dict[str, Any]:
    """Plain JSON data, as :func:`diffusion.reports.certificate.certificate` has it for concepts."""
    images, m = targets.images, len(targets.levels)
    solved = np.zeros(m)
    for group, answer in zip(images.groups, answers, strict=True):
        solved[list(group)] = answer.multipliers
    last = outcome.multipliers[-1]
    problems = objections(targets, answers, measured)
    return {
        "asked": {
            "problem": "ForwardKL",
            "images": m,
            "levels, nats above the present surprise": targets.levels.tolist(),
            "as surprising as held-out images": task.levels is None,
            "quantile of these, or their mean": task.quantile,
            "shares": images.shares.tolist(),
            "data": len(images.data),
            "copies of images among the data, set aside": int(images.aside.sum()),
            "part of other data as near as a copy": targets.as_near.tolist(),
        },
        "answer": {
            "multipliers on atoms": solved.tolist(),
            "multipliers of the network": None if np.isnan(last).any() else last.tolist(),
            "cost on atoms in nats, by prompt": [answer.primal for answer in answers],
        },
        "exact": {
            "what": "duality gap on atoms: were images all there is, nothing would meet the levels at less cost",
            "relative gap": max(answer.gap for answer in answers),
            "least slack in nats": float(min(answer.slack.min() for answer in answers)),
        },
        "statistical": {
            "what": "standard errors of shares that were counted among samples (0: given, or counted in the data)",
            "shares": targets.shares_stderr.tolist(),
        },
        "network": {
            "what": "a network moves neighbours along and cannot move one image alone; not bounded by the above",
            "dual rounds": {
                "multipliers": outcome.multipliers.tolist(),
                "surprise gained": outcome.levels.tolist(),
                "standard errors": outcome.errors.tolist(),
                "asked of the exact answer": outcome.asked.tolist(),
            },
            "measured": measured,
        },
        "certified": not problems,
        "objections": problems,
        "provenance": {"model fingerprint": fingerprint, "versions": versions()},
    }


def objections(targets: ImageTargets, answers: Sequence[WaterFilling], measured: dict[str, Any]) -> list[str]:
    """Why it cannot be said that the images are forgotten as asked; empty where it can."""
    found = []
    gap = max(answer.gap for answer in answers)
    if gap > Standards().gap:
        found.append(f"the duality gap is {gap:.1e}, over {Standards().gap:.0e}")
    elbo_drop = measured[ELBO_DROP]
    for number, (level, (mean, error)) in enumerate(zip(targets.levels, elbo_drop, strict=True), 1):
        least = mean - Z * error
        if not least >= level:
            found.append(
                f"image {number} gained {mean:.1f} ± {error:.1f} nats of surprise, at least {least:.1f} at 95 % "
                f"confidence (a normal approximation); {level:.1f} were asked"
            )
    return found


def findings(result: Forgotten) -> list[str]:
    """A line for each image, then what it cost, as Markdown."""
    measured, targets = result.measured, result.targets
    copies, nearest = measured["copies of each image"], measured["distance of the nearest sample"]
    last = result.outcome.multipliers[-1]
    lines = [
        "| image | share | level | gained | multiplier / share | copies before | after | data as near "
        "| nearest sample before | after |",
        "|---" * 10 + "|",
    ]
    for i, (mean, error) in enumerate(measured[ELBO_DROP]):
        ratio = "" if np.isnan(last).any() else f"{last[i] / targets.images.shares[i]:.2f}"
        near = "" if np.isnan(targets.as_near[i]) else f"{100 * targets.as_near[i]:.2f} %"
        cells = [
            str(i + 1), f"{targets.images.shares[i]:.2g}", f"{targets.levels[i]:.1f}", f"{mean:.1f} ± {error:.1f}",
            ratio,
            copies["before"][i], copies["after"][i], near,
            f"{nearest['before'][i]:.2f}", f"{nearest['after'][i]:.2f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    cost, error = measured[COST]
    lines += [
        "",
        "Levels and gains in nats of negative ELBO (it bounds -log p). A sample is a copy where it lies "
        "at most half as far from the image as images of the data lie from their neighbours (distance 0.5); "
        "'data as near' is the part of the data, copies left out, of which that is true.",
        "",
        f"Of {measured['samples']} samples under the images' prompts, copies of any image: "
        f"{measured['copies']['before']} before, {measured['copies']['after']} after. "
        f"Cost on the rest of the data: {cost:.3g} ± {error:.2g} nats.",
    ]
    held_out = measured.get(HELD_OUT)
    if held_out is not None:
        lines.append(f"Held-out images gained {held_out[0]:.2f} ± {held_out[1]:.2f} nats of negative ELBO.")
    return lines


def model_card(result: Forgotten, stock: bool = True) -> str:
    """README.md of the output folder; ``stock``: whether the pipeline's class loads LoRAs itself."""
    proof = result.certificate
    full_weights = result.measured["fit"]["full_weights"]
    count = len(result.targets.levels)
    verdict = "Certified." if proof["certified"] else "**Not certified**: " + "; ".join(proof["objections"]) + "."
    lines = [
        *title_block(
            f"{'Network' if full_weights else 'LoRA'} that forgets {count} image{'s' * (count > 1)}", full_weights
        ),
        f"Forward KL, one constraint and one multiplier an image. {verdict}",
        "",
        *loading(full_weights, stock),
        "",
        *findings(result),
        "",
        "Errors of three kinds, kept apart, are in `certificate.json`. The images themselves are not in this folder. "
        "One training seed; standard errors are of the samples alone.",
        "",
    ]
    return "\n".join(lines)
