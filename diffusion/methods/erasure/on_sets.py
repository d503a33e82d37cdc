r"""NegGrad and EraseDiff by their strength, on a forget set and a retain set that the base model samples.

::

    NegGrad     (E_r |y - f|^2 - s E_f |y - f|^2) / (1 + s)         s = (1 - beta)/beta
    EraseDiff   grad E_r + lam grad L_f,  lam = max(0, s - <grad E_r, grad L_f> / |grad L_f|^2)

See :mod:`diffusion.methods.baselines` for sources. Forget set: samples under the prompts that ask for the concept;
retain set: samples under retained prompts, both at the guidance scale of the context.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from diffusion.methods.base import ErasureContext
from diffusion.methods.baselines import EraseDiff, NegGrad, Rule
from diffusion.methods.erasure.base import Erasure
from diffusion.methods.erasure.samples import forget_and_retain
from diffusion.training.trainer import Objective


@dataclass(frozen=True)
class OnSets(Erasure):
    """``samples``: in each set."""

    samples: int = 64

    @property
    @abstractmethod
    def rule(self) -> Rule:
        """The baseline of the same name, at its strength."""

    def objective(self, context: ErasureContext, parameters: Sequence[nn.Parameter]) -> Objective:
        sets = forget_and_retain(context, self.samples)
        return self.rule.objective(context.denoiser, sets, context.config, parameters)


@dataclass(frozen=True)
class Ascent(OnSets):
    """NegGrad."""

    @property
    def rule(self) -> Rule:
        if self.strength < 0:
            raise ValueError(f"strength must be at least 0, got {self.strength}")
        return NegGrad(1 / (1 + self.strength))


@dataclass(frozen=True)
class Erased(OnSets):
    """EraseDiff."""

    @property
    def rule(self) -> Rule:
        return EraseDiff(self.strength)
