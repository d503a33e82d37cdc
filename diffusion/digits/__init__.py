"""``digits``: a genuine Stable Diffusion pipeline small enough to ship, trained on real handwritten digits."""

from pathlib import Path

from diffusion.digits.data import ANCHORS, WORDS, concept_of, load_digits, paraphrases, shrink

PIPELINE_FOLDER = Path(__file__).with_name("pipeline")

__all__ = ["ANCHORS", "PIPELINE_FOLDER", "WORDS", "concept_of", "load_digits", "paraphrases", "shrink"]
