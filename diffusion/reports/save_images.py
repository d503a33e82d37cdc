"""A finished run of forgetting images into a folder; none of the images is part of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffusion.pipelines import Denoiser
from diffusion.pipelines.fitted import holds_fit
from diffusion.reports.base_model import base_of
from diffusion.reports.figures import save_images
from diffusion.reports.image_results import Forgotten
from diffusion.reports.images import model_card
from diffusion.runtime.files import atomic_write
from diffusion.training.lora import save_student


def save(result: Forgotten, denoiser: Denoiser, folder: Path) -> None:
    """LoRA or network, certificate, card and a sheet of samples, but no image, into the folder of a running output."""
    if not holds_fit(folder):  # else it was kept as soon as it was there
        save_student(denoiser, folder)
    (folder / "certificate.json").write_text(result.certificate.to_json(), encoding="utf-8")
    (folder / "README.md").write_text(model_card(result, base_of(denoiser)), encoding="utf-8")
    save_images(folder / "samples.png", [("samples after", _three(result.sample))], columns=12, panel_columns=1)


def save_comparison(result: Forgotten, path: Path) -> None:
    """A PNG of every image beside the samples nearest to it, before and after: for the eye, and not to be published."""
    panels = [("images", result.images), ("nearest before", result.before), ("nearest after", result.after)]
    columns = min(8, len(result.images))
    with atomic_write(path) as partial:
        save_images(partial, [(title, _three(some)) for title, some in panels], columns=columns, panel_columns=3)


def _three(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.repeat(images, 3, axis=1) if images.shape[1] == 1 else images
