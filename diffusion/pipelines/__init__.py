"""Pipelines of every supported family behind one protocol, :class:`Denoiser`."""

from diffusion.pipelines.base import Condition, Denoiser, add_noise, repeat, rows
from diffusion.pipelines.loading import DIGITS, EMBEDDED, FAMILIES, denoiser_of, load_pipeline
from diffusion.pipelines.schedules import Noising, rectified_flow, variance_preserving
from diffusion.pipelines.stable_diffusion import StableDiffusion
from diffusion.pipelines.stable_diffusion_3 import StableDiffusion3
from diffusion.pipelines.stable_diffusion_xl import StableDiffusionXL
from diffusion.pipelines.unconditional import Unconditional

__all__ = [
    "DIGITS",
    "EMBEDDED",
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
