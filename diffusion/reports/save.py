"""A finished run into a folder: weights, certificate, solution, model card, images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffusion.evaluation.measure import PAIRED
from diffusion.evaluation.samples import SampleSet
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fitted import holds_fit
from diffusion.reports.figures import save_images
from diffusion.reports.results import Unlearned
from diffusion.training.lora import has_loader, save_student


def save(result: Unlearned, denoiser: Denoiser, folder: Path) -> None:
    """LoRA or network, certificate, solution, card and before/after image, into the folder of a running output."""
    from diffusion.reports.model_card import model_card

    if not holds_fit(folder):  # else it was kept as soon as it was there
        save_student(denoiser, folder)
    (folder / "certificate.json").write_text(result.certificate.to_json(), encoding="utf-8")
    (folder / "solution.json").write_text(result.solution.to_json() + "\n", encoding="utf-8")
    (folder / "README.md").write_text(model_card(result, has_loader(denoiser)), encoding="utf-8")
    save_images(folder / "before_after.png", panels(result.samples), columns=12)


def panels(samples: dict[str, SampleSet], count: int = 60) -> list[tuple[str, Any]]:
    """Before and after, side by side: samples of the anchor, of the concept's prompts, of the retained prompts."""
    shown = []
    for condition in ("anchor", "concept", "retained"):
        for when in ("before", "LoRA"):
            name = f"{when}, {condition}"
            if name not in samples:
                continue
            paired = condition == "anchor" and PAIRED in samples
            sample = samples[PAIRED] if paired and when == "LoRA" else samples[name]
            # Prompts take turns, so every k-th row might be the same prompt over and over; pairs stay pairs.
            most = min(len(samples[PAIRED]), len(sample)) if paired else len(sample)
            rows = np.random.default_rng(0).permutation(most)[:count]
            shown.append((f"{condition}: {when}", sample.images[rows]))
    return shown
