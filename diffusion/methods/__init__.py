"""Methods by name: how a solution gets into adapters. A new method is one class with ``fit`` and one line here."""

from __future__ import annotations

from collections.abc import Callable

from .base import ImageMethod, Method, Outcome
from .baselines import SISS, EraseDiff, NegGrad, OnConcepts, OnImages
from .correction import Correction, corrected_guidance
from .esd import CROSS_ATTENTION, ESD
from .forget_data import ForgetImages
from .guidance_distillation import GuidanceDistillation
from .images import Images, as_unseen
from .primal_dual import PrimalDual
from .tilted import Tilted
from .tilted_images import TiltedImages
from .weights import FixedWeights

#: For concepts: name to what makes the method, without arguments.
METHODS: dict[str, Callable[[], Method]] = {
    "tilted": Tilted,
    "guidance": GuidanceDistillation,
    "primal-dual": PrimalDual,
    "esd-x": lambda: ESD(layers=CROSS_ATTENTION),
    "esd": ESD,
    "neggrad": lambda: OnConcepts(NegGrad()),
    "siss": lambda: OnConcepts(SISS()),
    "erasediff": lambda: OnConcepts(EraseDiff()),
    "equal-weights": FixedWeights,
}

#: For images.
IMAGE_METHODS: dict[str, Callable[[], ImageMethod]] = {
    "tilted": TiltedImages,
    "primal-dual": ForgetImages,
    "neggrad": lambda: OnImages(NegGrad()),
    "siss": lambda: OnImages(SISS()),
    "erasediff": lambda: OnImages(EraseDiff()),
}

__all__ = [
    "ESD",
    "IMAGE_METHODS",
    "METHODS",
    "SISS",
    "Correction",
    "EraseDiff",
    "FixedWeights",
    "ForgetImages",
    "GuidanceDistillation",
    "ImageMethod",
    "Images",
    "Method",
    "NegGrad",
    "OnConcepts",
    "OnImages",
    "Outcome",
    "PrimalDual",
    "Tilted",
    "TiltedImages",
    "as_unseen",
    "corrected_guidance",
]
