"""Methods by name: how a solution gets into adapters. A new method is one class with ``fit`` and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from diffusion.methods.base import FitContext, ImageFitContext, ImageMethod, Method, Outcome
from diffusion.methods.baselines import SISS, EraseDiff, NegGrad, OnConcepts, OnImages
from diffusion.methods.correction import Correction, corrected_guidance
from diffusion.methods.esd import CROSS_ATTENTION, ESD
from diffusion.methods.fixed_weights import FixedWeights
from diffusion.methods.guidance_distillation import GuidanceDistillation
from diffusion.methods.images.primal_dual import ForgetImages
from diffusion.methods.images.tilted import TiltedImages
from diffusion.methods.images.unseen import as_unseen
from diffusion.methods.primal_dual import PrimalDual
from diffusion.methods.tilted import Tilted
from diffusion.tasks.config import FitConfig
from diffusion.tasks.image_set import Images

Kind = TypeVar("Kind")

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


def method_of(method: str | Method) -> Method:
    """The method of that name, or the method itself. ``ValueError`` for a name that is not known."""
    return _named(method, METHODS)


def image_method_of(method: str | ImageMethod) -> ImageMethod:
    """The method for images of that name, or the method itself. ``ValueError`` for a name that is not known."""
    return _named(method, IMAGE_METHODS)


def configured(config: FitConfig) -> Method:
    """The method that a configuration names, with its early stopping and corrections.

    Raises ``ValueError`` for a name that is not known, or a setting that the method has no use for.
    """
    if config.foresee:
        raise ValueError("foresee: ratios have no detectors whose slope could be followed")
    made = method_of(config.method)
    if config.early_stopping_rounds is not None:
        made = made.with_patience(config.early_stopping_rounds)
    return made.uncorrected() if config.fixed_multipliers else made


def configured_for_images(config: FitConfig) -> ImageMethod:
    """As :func:`configured`, for images."""
    made = image_method_of(config.method)
    return made if config.early_stopping_rounds is None else made.with_patience(config.early_stopping_rounds)


def _named(method: str | Kind, names: Mapping[str, Callable[[], Kind]]) -> Kind:
    if not isinstance(method, str):
        return method
    if method not in names:
        raise ValueError(f"method must be one of {', '.join(names)}, got {method!r}")
    return names[method]()


__all__ = [
    "ESD",
    "IMAGE_METHODS",
    "METHODS",
    "SISS",
    "Correction",
    "EraseDiff",
    "FitContext",
    "FixedWeights",
    "ForgetImages",
    "GuidanceDistillation",
    "ImageFitContext",
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
    "configured",
    "configured_for_images",
    "corrected_guidance",
    "image_method_of",
    "method_of",
]
