"""The readings of "likelihood" in `Likelihood`: one small class each, chosen once by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import Array, logsumexp, pick, safe_log
from duality.columns import Columns
from duality.ratios import LogRatios


class Kind(ABC):
    """l_i as a function of the input `(..., m)`, and what noising makes of exp(-sum_i lam_i l_i)."""

    needs_priors: ClassVar[bool] = False
    #: Which columns of the ratios it reads, those of "values", or the "detectors".
    source: ClassVar[str] = "values"

    def check(self, ratios: LogRatios) -> None:
        """ValueError where the ratios lack what this kind reads, or hold what it cannot."""
        return None

    def inputs(self, ratios: LogRatios) -> np.ndarray:
        """The array `(n, m)` that `likelihood` reads."""
        return ratios.values

    def table(self, ratios: LogRatios) -> Columns:
        """`inputs`, to be read block by block."""
        return ratios.table if type(self).inputs is Kind.inputs else Columns(self.inputs(ratios))

    def size(self, levels: np.ndarray) -> np.ndarray:
        """The most `(m,)` that a unit in which misses of the levels are judged may be: the level itself."""
        return np.maximum(np.abs(levels), np.finfo(np.float64).tiny)

    @abstractmethod
    def likelihood(self, values: Array, priors: Array) -> Array:
        """l_i, `(..., m)`."""

    def in_place(self, priors: np.ndarray | None) -> Callable[[np.ndarray], None] | None:
        """`likelihood` of blocks `(m, k)` of inputs in their place; None where it is the input itself."""
        return None

    def noised_tilt(self, values: Array, natural: Array, priors: Array) -> Array:
        """log E_q[w | x_t] to leading order: w itself with the noised ratio in place of the ratio, `(...)`."""
        return -pick(array_namespace(values), natural, self.likelihood(values, priors))

    def slope(self, values: Array, priors: Array) -> Array:
        """d l_i / d input_i, `(..., m)`; where l_i is an exponential it is l_i itself."""
        return self.likelihood(values, priors)

    def moved(self, levels: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Upper levels that are safe for inputs off by `error` (lower ones, with its negative); exponentials' own."""
        return levels * np.exp(-error)

    @abstractmethod
    def strengths(self, values: Array, natural: Array, priors: Array) -> Array:
        """-d noised_tilt / d rho_i, `(..., m)`."""


class LogRatioKind(Kind):
    """l_i = rho_i: the tilt of `ReverseKL`, with a_i = lam_i."""

    def size(self, levels: np.ndarray) -> np.ndarray:
        return np.full(levels.shape, np.inf)  # nats of either sign: a level near zero is no small one

    def likelihood(self, values: Array, priors: Array) -> Array:
        return values

    def moved(self, levels: np.ndarray, error: np.ndarray) -> np.ndarray:
        return levels - error

    def slope(self, values: Array, priors: Array) -> Array:
        return array_namespace(values).ones_like(values)

    def strengths(self, values: Array, natural: Array, priors: Array) -> Array:
        return array_namespace(values).zeros_like(values) + natural


class DensityKind(Kind):
    """l_i = q_i(x), read from log densities: the paper's choice."""

    def check(self, ratios: LogRatios) -> None:
        if ratios.log_densities is None:
            raise ValueError(
                "log_densities: the ratios carry none, but Likelihood(kind='density') bounds E_p[q_i(x)];"
                " give LogRatios(..., log_densities=...)"
            )
        top = float(ratios.log_densities.max())
        if top > 700:
            raise ValueError(
                f"log_densities: {top:.4g} nats given, but densities above e^700 overflow double precision;"
                " measure space in smaller units"
            )

    def inputs(self, ratios: LogRatios) -> np.ndarray:
        assert ratios.log_densities is not None  # `check` has run: solve binds every problem first
        return ratios.log_densities

    def likelihood(self, values: Array, priors: Array) -> Array:
        return array_namespace(values).exp(values)

    def in_place(self, priors: np.ndarray | None) -> Callable[[np.ndarray], None] | None:
        return lambda rows: _exp(rows)

    def strengths(self, values: Array, natural: Array, priors: Array) -> Array:
        return natural * self.likelihood(values, priors)


class PosteriorKind(Kind):
    """l_i = Pr(i|x) = pi_i e^{rho_i}, with the two-valued closure for noised states.

    If every point shows at most one concept and Pr(i|x_0) is 0 or 1, then w = 1 - sum_i c_i Pr(i|x_0) with
    c_i = 1 - e^{-lam_i}, exactly. Posteriors are martingales along the noising, so ::

        E_q[w | x_t] = w̄ = 1 - sum_i c_i pi_i r_i,        k_i = -d log w̄ / d rho_i = c_i pi_i r_i / w̄.

    As sum_i pi_i r_i ≤ 1, w̄ ≥ e^{-max lam} > 0; it is evaluated as Pr(none|x_t) + sum_i e^{-lam_i} Pr(i|x_t), a sum
    of positive terms that keeps its digits where w̄ is tiny.
    """

    needs_priors: ClassVar[bool] = True

    def check(self, ratios: LogRatios) -> None:
        top = ratios.peak
        if top > 700:
            raise ValueError(
                f"values: a log ratio of {top:.4g} nats given, but its posterior, prior · e^rho, overflows; a posterior"
                " is at most 1, so exact log ratios are at most -log(prior)"
            )

    def likelihood(self, values: Array, priors: Array) -> Array:
        return priors * array_namespace(values).exp(values)

    def in_place(self, priors: np.ndarray | None) -> Callable[[np.ndarray], None] | None:
        assert priors is not None
        return lambda rows: _exp(rows, priors)

    def noised_tilt(self, values: Array, natural: Array, priors: Array) -> Array:
        xp = array_namespace(values)
        log_posterior, log_none = self._split(values, priors)
        terms = xp.concat([log_none[..., None], log_posterior - natural], axis=-1)
        return logsumexp(xp, terms)

    def strengths(self, values: Array, natural: Array, priors: Array) -> Array:
        xp = array_namespace(values)
        log_posterior, _ = self._split(values, priors)
        log_w = self.noised_tilt(values, natural, priors)
        return -xp.expm1(-natural) * xp.exp(log_posterior - log_w[..., None])

    def _split(self, values: Array, priors: Array) -> tuple[Array, Array]:
        """log Pr(i|x_t) and log Pr(none|x_t). A network's posteriors may sum to more than one: they are shared out."""
        xp = array_namespace(values)
        log_posterior = xp.log(priors) + values
        total = logsumexp(xp, log_posterior)
        zero = xp.zeros_like(total)
        log_posterior = log_posterior - xp.maximum(total, zero)[..., None]
        below = xp.minimum(total, zero)
        return log_posterior, safe_log(xp, -xp.expm1(below))


class DetectorKind(Kind):
    """l_i = what detector i says of x, by definition: no density ratio enters.

    At noised states `log_weight` and `guidance` read eta_i = E_q[l_i | x_t]. For one detector that says 0 or 1 then
    E_q[w | x_t] = 1 - (1 - e^{-lam}) eta exactly; several are taken as independent given x_t. Outside [0, 1], where no
    such mean can lie, w is read as e^{-lam·eta}.
    """

    source: ClassVar[str] = "detectors"

    def check(self, ratios: LogRatios) -> None:
        if ratios.detectors is None:
            raise ValueError(
                "detectors: the ratios carry none, but kind='detector' constrains what they say; give"
                " LogRatios(..., detectors=...)"
            )

    def inputs(self, ratios: LogRatios) -> np.ndarray:
        assert ratios.detectors is not None  # `check` has run: solve binds every problem first
        return ratios.detectors

    def size(self, levels: np.ndarray) -> np.ndarray:
        return np.where(levels != 0, np.abs(levels), np.inf)

    def likelihood(self, values: Array, priors: Array) -> Array:
        return values

    def moved(self, levels: np.ndarray, error: np.ndarray) -> np.ndarray:
        return levels - error

    def slope(self, values: Array, priors: Array) -> Array:
        return array_namespace(values).ones_like(values)

    def noised_tilt(self, values: Array, natural: Array, priors: Array) -> Array:
        xp = array_namespace(values)
        inside = xp.clip(values, 0.0, 1.0)
        closure = xp.log((1 - inside) + inside * xp.exp(-natural))
        return xp.sum(xp.where(values == inside, closure, -natural * values), axis=-1)

    def strengths(self, values: Array, natural: Array, priors: Array) -> Array:
        xp = array_namespace(values)
        inside = xp.clip(values, 0.0, 1.0)
        steep = -xp.expm1(-natural) / ((1 - inside) + inside * xp.exp(-natural))
        return xp.where(values == inside, steep, natural + xp.zeros_like(values))


def _exp(rows: np.ndarray, factors: np.ndarray | None = None) -> None:
    np.exp(rows, out=rows)
    if factors is not None:
        rows *= factors[:, None]


KINDS: dict[str, Kind] = {
    "posterior": PosteriorKind(),
    "density": DensityKind(),
    "log-ratio": LogRatioKind(),
    "detector": DetectorKind(),
}
