"""``task.yaml`` and ``config.yaml`` beside a result: all that a rerun, ``sample`` and ``audit`` need."""

from __future__ import annotations

from pathlib import Path

from diffusion.runtime.files import write_text
from diffusion.tasks.config import CONFIG, Config
from diffusion.tasks.settings import Settings
from diffusion.tasks.task import TASK


def write_job(folder: Path, task: Settings, config: Config) -> None:
    """Every field of both. The cache folder is nobody's business but this machine's, and left out."""
    write_text(folder / TASK, task.to_yaml())
    write_text(folder / CONFIG, config.but(runtime=config.runtime.but(cache_folder=None)).to_yaml())
