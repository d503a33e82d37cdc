"""``wardrobe``: a genuine Stable Diffusion pipeline of eight garments in six styles on three backgrounds."""

from pathlib import Path

from diffusion.wardrobe.captions import Cell, caption, captions, cell_of, every_caption
from diffusion.wardrobe.photographs import OBJECTS, Photographs, load_photographs, shipped_photographs
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES, render

PIPELINE_FOLDER = Path(__file__).with_name("pipeline")

__all__ = [
    "BACKGROUNDS",
    "OBJECTS",
    "PIPELINE_FOLDER",
    "STYLES",
    "Cell",
    "Photographs",
    "caption",
    "captions",
    "cell_of",
    "every_caption",
    "load_photographs",
    "render",
    "shipped_photographs",
]
