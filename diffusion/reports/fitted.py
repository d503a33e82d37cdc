"""A fit in the output folder before anything is measured: whatever fails later, it is kept."""

from __future__ import annotations

from pathlib import Path

from diffusion.pipelines import Denoiser
from diffusion.reports.verdicts import CertificateBase
from diffusion.runtime.distributed import is_main
from diffusion.runtime.files import write_text
from diffusion.runtime.output_folder import keep
from diffusion.training.lora import save_student


def save_fit(denoiser: Denoiser, folder: Path | None, so_far: CertificateBase) -> None:
    """LoRA or network, and a certificate of what is known ``so_far``, which certifies nothing; by the main process.

    Nothing where there is no folder. ``OSError`` where it cannot be written.
    """
    if folder is None or not is_main():
        return
    save_student(denoiser, folder)
    write_text(folder / "certificate.json", so_far.to_json())
    keep(folder)
