"""The model card of ``wardrobe`` from what was measured: ``python -m diffusion.wardrobe.experiments.card``.

::

    quality.json  ->  pipeline/README.md

Figures, goals that were missed and what is made too seldom come from the file; the words around them from
``card.md.jinja`` beside this module. What that says of the architecture and the data is true of the shipped weights.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from diffusion.runtime.files import write_text
from diffusion.wardrobe import PIPELINE_FOLDER
from diffusion.wardrobe.experiments import train
from diffusion.wardrobe.photographs import OBJECTS
from diffusion.wardrobe.quality import PromptAgreement, WardrobeQuality
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES

QUALITY = PIPELINE_FOLDER.parent / "quality.json"
FACTOR = 1.5  # within which shares without a prompt were to lie of the data's
SCALES = (1.0, 3.0)  # guidance scales that the goals are about


@dataclass(frozen=True)
class Goal:
    """What was wanted, what was measured, and whether that is it."""

    wanted: str
    measured: str
    reached: bool


def agreement_of(quality: WardrobeQuality, scale: float) -> list[PromptAgreement]:
    """By each classifier. Raises ``ValueError`` where that guidance scale was not measured."""
    found = [each for each in quality.agreement if each.guidance_scale == scale and each.by != "both"]
    if not found:
        raise ValueError(f"quality: nothing was measured at guidance scale {scale:g}")
    return found


def goals(quality: WardrobeQuality) -> list[Goal]:
    """Agreement counts by the worse of the classifiers, as they are all that tells."""
    plain, guided = (agreement_of(quality, scale) for scale in SCALES)
    objects = [min(each.object.mean for each in some) for some in (guided, plain)]
    rest = min(min(each.style.mean, each.background.mean) for each in guided)
    real = [each.object for each in quality.held_out_renderings]
    ratios = [each.worst_ratio_to_data for each in quality.without_prompt]
    worst = max(max(each.object, each.style, each.background) for each in ratios)
    said = ", ".join(f"{each.by} {100 * each.object:.1f} %" for each in quality.held_out_renderings)
    return [
        Goal("object at guidance scale 3, both classifiers: 98 %", _percent(objects[0]), objects[0] >= 0.98),
        Goal("style and background at guidance scale 3: 99 %", _percent(rest), rest >= 0.99),
        Goal("object at guidance scale 1: 93 %", _percent(objects[1]), objects[1] >= 0.93),
        Goal("classifiers, held-out objects: 96 %", said, min(real) >= 0.96),
        Goal(f"shares without a prompt within a factor {FACTOR:g} of the data's", f"{worst:.2f}", worst <= FACTOR),
    ]


def too_seldom(quality: WardrobeQuality) -> list[str]:
    """Classes that every classifier sees less often than the data's share over ``FACTOR``, without a prompt."""
    found = []
    for axis, names in (("object", OBJECTS), ("style", STYLES), ("background", BACKGROUNDS)):
        for name in names:
            most = max(getattr(each.shares, axis)[name] for each in quality.without_prompt)
            if most * FACTOR < 1 / len(names):
                found.append(name)
    return found


def card(quality: WardrobeQuality) -> str:
    """The card, as Markdown. ``ValueError`` where the file does not say how the pipeline was trained."""
    if quality.training is None:
        raise ValueError("quality: training is not said; give --training to the evaluation")
    guided = agreement_of(quality, SCALES[1])[0]  # of the network, which sees more than the other
    both = [each.object.mean for each in quality.agreement if each.by == "both"]
    n = guided.object.n
    best = max(each.object for each in quality.held_out_renderings)
    environment = Environment(
        loader=PackageLoader("diffusion.wardrobe.experiments", "."), undefined=StrictUndefined, autoescape=False,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"percent": lambda value, digits=1: f"{100 * value:.{digits}f}"}
    text: str = environment.get_template("card.md.jinja").render(
        quality=quality,
        training=quality.training,
        batch=train.BATCH,
        vae_batch=train.VAE_BATCH,
        fall=train.FALL,
        renderings=train.RENDERINGS,
        goals=goals(quality),
        errors=[(round(share, 2), (share * (1 - share) / n) ** 0.5) for share in (guided.object.mean, min(both))],
        n=n,
        worst_object=_least(guided.object_by_object),
        worst_style=_least(guided.object_by_style),
        shares=[(each.by, [_range(each, axis) for axis in ("object", "style", "background")]) for each in
                quality.without_prompt],
        best=best,
        seldom=too_seldom(quality),
    )  # fmt: skip
    return text


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _least(shares: dict[str, float]) -> tuple[str, float]:
    name = min(shares, key=lambda each: shares[each])
    return name, shares[name]


def _range(found: Any, axis: str) -> str:
    values = list(getattr(found.shares, axis).values())
    return f"{100 * min(values):.1f}-{100 * max(values):.1f} % ({getattr(found.worst_ratio_to_data, axis):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quality", type=Path, default=QUALITY)
    parser.add_argument("--output", type=Path, default=PIPELINE_FOLDER / "README.md")
    given = parser.parse_args()
    quality = WardrobeQuality.model_validate_json(given.quality.read_text(encoding="utf-8"))
    write_text(given.output, card(quality))


if __name__ == "__main__":
    main()
