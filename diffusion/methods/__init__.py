"""Methods by name: how a solution gets into adapters. A new method is one class with ``fit`` and one line here."""

from __future__ import annotations

from collections.abc import Callable

from .base import Method, Outcome
from .guidance_distillation import GuidanceDistillation
from .primal_dual import PrimalDual
from .tilted import Tilted

#: Name to class; every class can be made without arguments.
METHODS: dict[str, Callable[[], Method]] = {
    "tilted": Tilted,
    "guidance": GuidanceDistillation,
    "primal-dual": PrimalDual,
}

__all__ = ["METHODS", "GuidanceDistillation", "Method", "Outcome", "PrimalDual", "Tilted"]
