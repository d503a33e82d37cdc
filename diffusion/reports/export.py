"""A result in the formats of other programs, beside the LoRA that diffusers loads."""

from __future__ import annotations

from pathlib import Path

from diffusion.pipelines import Denoiser
from diffusion.runtime.files import write_text
from diffusion.tasks.config import Config
from diffusion.training.kohya import KOHYA, check_exportable, export_kohya


def check_export(denoiser: Denoiser, config: Config, folder: Path | None) -> None:
    """``ValueError``, before any work, where ``export`` asks for what cannot be written."""
    if config.runtime.export is None:
        return
    if folder is None:
        raise ValueError(f"export: {config.runtime.export} is written beside the result, and no output was given")
    check_exportable(denoiser, config.fit.adapter_rank)


def write_export(config: Config, folder: Path) -> None:
    """What ``export`` asks for into the folder of a running output, and a line on it into its card."""
    if config.runtime.export is None:
        return
    export_kohya(folder, folder / KOHYA)
    card = folder / "README.md"
    line = f"`{KOHYA}` is the same LoRA for ComfyUI and A1111, at strength 1 what was measured here."
    write_text(card, card.read_text(encoding="utf-8") + f"\n{line}\n")
