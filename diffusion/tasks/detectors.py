r"""Detectors: a concept by definition, l: images -> [0, 1].

::

    a callable                                images (n, c, height, width) in [-1, 1]  ->  l (n,)
    "module:name"                             such a callable, imported
    "digits:seven", "wardrobe:sneaker"        the embedded networks' probability of a class
    "clip:a photo of a cat|a photo|..."       zero-shot probability of the first text (transformers; see `clip`)
    "nudenet"                                 the greatest score of an exposed part (package nudenet)

One may also have ``log_odds``, an attribute: images (n, c, height, width) as a ``torch.Tensor`` -> log l/(1 - l) (n,),
with a gradient; of a detector that says 0 or 1, of what it decides by (:class:`DifferentiableDetector`). Fits by
gradients then see what it would say of the image that a state predicts (:mod:`diffusion.ratios.foreseen`).

A level on a detector is about that detector, exactly; what remains is statistics. It is also what certificates and
audits count with, so what it does not see is not forgotten: have a second one as independent check.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Images = NDArray[np.float32]
Detector = Callable[[Images], Any]
LogOdds = Callable[["Tensor"], "Tensor"]
BATCH = 64


@dataclass(frozen=True)
class DifferentiableDetector:
    """A detector ``ask`` with its log odds: images (n, c, height, width), about [-1, 1] -> (n,), with a gradient."""

    ask: Detector
    log_odds: LogOdds

    def __call__(self, images: Images) -> Any:
        return self.ask(images)


class _Named(Protocol):
    name: str


Named = TypeVar("Named", bound=_Named)


class CheckedDetector:
    """A detector by its name, whose answers are looked at: ``ValueError`` for a wrong shape, or outside [0, 1].

    ``log_odds``: of a detector that has them, else None; they are looked at, too.
    """

    def __init__(self, name: str, ask: Detector) -> None:
        self.name, self._ask = name, ask
        self.log_odds: LogOdds | None = self._checked if callable(getattr(ask, "log_odds", None)) else None

    def _checked(self, images: Tensor) -> Tensor:
        found = cast(Any, self._ask).log_odds(images)
        if tuple(found.shape) != (len(images),):
            raise ValueError(f"log_odds of {self.name} must have shape ({len(images)},), got {tuple(found.shape)}")
        return cast("Tensor", found)

    def __call__(self, images: Images) -> NDArray[np.float64]:
        if not len(images):
            return np.zeros(0)
        parts = [np.asarray(self._ask(images[j : j + BATCH]), dtype=np.float64) for j in range(0, len(images), BATCH)]
        shapes = [part.shape for part in parts]
        if any(part.ndim != 1 for part in parts) or sum(len(part) for part in parts) != len(images):
            raise ValueError(f"detector {self.name} must say one number of each image, got shapes {shapes[:3]}")
        said = np.concatenate(parts)
        if not np.isfinite(said).all() or said.min() < 0 or said.max() > 1:
            raise ValueError(f"detector {self.name} must say numbers in [0, 1], got {said.min():g} to {said.max():g}")
        return said

    def __repr__(self) -> str:
        return f"detector {self.name}"


def detector_of(given: str | Detector) -> CheckedDetector:
    """The detector that ``given`` names, or is. ``ValueError`` where it cannot be had, saying what is needed."""
    if isinstance(given, CheckedDetector):
        return given
    if callable(given):
        named = given.ask if isinstance(given, DifferentiableDetector) else given
        return CheckedDetector(getattr(named, "__qualname__", type(named).__name__), given)
    kind, _, rest = given.partition(":")
    if kind == "nudenet" and not rest:
        from diffusion.tasks.nudenet import nudenet

        return CheckedDetector(given, nudenet())
    if kind == "clip" and rest:
        from diffusion.tasks.clip import clip

        return CheckedDetector(given, clip(rest))
    if not rest:
        raise ValueError(f"detector must be callable, 'module:name', 'clip:...' or 'nudenet', got {given!r}")
    return CheckedDetector(given, _embedded(kind, rest) or _imported(kind, rest))


def one_against_rest(scores: Tensor, number: int) -> Tensor:
    """Log odds (n,) of a class by number, of the scores (n, K) of a softmax."""
    import torch

    return scores[:, number] - torch.cat([scores[:, :number], scores[:, number + 1 :]], 1).logsumexp(1)


def others_than(without: Sequence[str], known: Sequence[Named]) -> tuple[Named, ...]:
    """Classifiers by name, but for those of ``without``: a detector is no independent check of itself.

    Raises ``ValueError`` for a name that none has, and where none is left.
    """
    names = [each.name for each in known]
    if unknown := [name for name in without if name not in names]:
        raise ValueError(f"without: {', '.join(unknown)} given, the classifiers are {', '.join(names)}")
    left = tuple(each for each in known if each.name not in without)
    if not left:
        raise ValueError(f"without: {', '.join(without)} given, and no classifier is left")
    return left


def _embedded(kind: str, name: str) -> Detector | None:
    """The embedded classifiers' probability of a class."""
    if kind not in ("digits", "wardrobe"):
        return None
    module: Any = importlib.import_module(f"diffusion.{kind}.detectors")
    return cast(Detector, module.detector(name))


def _imported(module: str, name: str) -> Detector:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"detector '{module}:{name}' cannot be imported: {error}") from None
    if not callable(found):
        raise ValueError(f"detector '{module}:{name}' must be callable, got {type(found).__name__}")
    return cast(Detector, found)
