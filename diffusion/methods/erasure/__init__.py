"""Baselines that erase by prompts and a strength, by name. A new one is one class and one line here."""

from __future__ import annotations

from collections.abc import Callable

from diffusion.methods.base import ErasureContext
from diffusion.methods.erasure.ablation import ConceptAblation
from diffusion.methods.erasure.base import Erasure, half_finished
from diffusion.methods.erasure.negative_guidance import ESDU, ESDX, LECO, NegativeGuidance
from diffusion.methods.erasure.on_sets import Ascent, Erased
from diffusion.methods.erasure.salun import SalUn
from diffusion.methods.erasure.uce import UCE

ERASURES: dict[str, Callable[[float], Erasure]] = {
    "leco": LECO,
    "esd-x": ESDX,
    "esd-u": ESDU,
    "uce": UCE,
    "concept-ablation": ConceptAblation,
    "neggrad": Ascent,
    "erasediff": Erased,
    "salun": SalUn,
}


def erasure_of(name: str, strength: float) -> Erasure:
    """The baseline of that name at a strength. ``ValueError`` for a name that is not known."""
    if name not in ERASURES:
        raise ValueError(f"baseline must be one of {', '.join(ERASURES)}, got {name!r}")
    return ERASURES[name](strength)


__all__ = [
    "ERASURES",
    "ESDU",
    "ESDX",
    "LECO",
    "UCE",
    "Ascent",
    "ConceptAblation",
    "Erased",
    "Erasure",
    "ErasureContext",
    "NegativeGuidance",
    "SalUn",
    "erasure_of",
    "half_finished",
]
