"""A fit in the output folder before anything is measured: whatever fails later, it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion.pipelines import Denoiser
from diffusion.reports.certificate import UNMEASURED, Certificate
from diffusion.runtime.distributed import is_main
from diffusion.runtime.files import to_json, write_text
from diffusion.runtime.output_folder import keep
from diffusion.training.lora import save_student


def save_fit(denoiser: Denoiser, folder: Path | None, so_far: dict[str, Any] | Certificate) -> None:
    """LoRA or network, and a certificate of what is known ``so_far``, which certifies nothing; by the main process.

    Nothing where there is no folder. ``OSError`` where it cannot be written.
    """
    if folder is None or not is_main():
        return
    save_student(denoiser, folder)
    if isinstance(so_far, Certificate):
        text = so_far.to_json()
    else:
        text = to_json({"certified": False, "objections": [UNMEASURED], **so_far})
    write_text(folder / "certificate.json", text)
    keep(folder)
