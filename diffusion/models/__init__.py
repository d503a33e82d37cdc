"""Pipelines of every supported family behind one protocol, :class:`Denoiser`."""

from .adapters import StableDiffusion, StableDiffusion3, StableDiffusionXL, Unconditional
from .load import DIGITS, FAMILIES, denoiser_of, load_pipeline
from .noising import Noising, rectified_flow, variance_preserving
from .protocol import Condition, Denoiser, add_noise, repeat, rows

__all__ = [
    "DIGITS",
    "FAMILIES",
    "Condition",
    "Denoiser",
    "Noising",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "Unconditional",
    "add_noise",
    "denoiser_of",
    "load_pipeline",
    "rectified_flow",
    "repeat",
    "rows",
    "variance_preserving",
]
