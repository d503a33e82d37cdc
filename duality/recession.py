"""What the dual functions of signed mixtures tend to far out, g(ty)/t: u without its 1."""

from __future__ import annotations

import numpy as np

from duality.families import Mixtures, Statistics
from duality.groups import Partition
from duality.quotient_dual import QuotientDual
from duality.signed_dual import SignedDual


class SignedRecession(SignedDual):
    """`SignedDual` with u = -sum_i s_i y_i e^rho_i: `excess` is h, and the derivatives are its own."""

    def __init__(self, *given: np.ndarray | Partition) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._slack = np.zeros_like(self._slack)

    def _log(self, u: np.ndarray, fall: np.ndarray) -> np.ndarray:
        return np.log(u)


class QuotientRecession(QuotientDual):
    """Likewise `QuotientDual`."""

    def __init__(self, *given: Mixtures | Statistics | np.ndarray | Partition) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self._slack = np.zeros_like(self._slack)

    def _log(self, u: np.ndarray, fall: np.ndarray) -> np.ndarray:
        return np.log(u)
