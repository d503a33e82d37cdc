"""What a problem is. Each kind is one small class around one function, the log weight of the tilt p = q exp(log w)/Z.

::

    | class | asks for | log w(rho; lam) |
    |---|---|---|
    | `ReverseKL` | min KL(p‖q) with KL(p‖q_i) ≥ b_i | -sum_i a_i rho_i, a_i = lam_i / (1 - sum_k lam_k) |
    | `ForwardKL` | min KL(q‖p) with KL(q_i‖p) ≥ b_i | log(1 - sum_i lam_i e^{rho_i}) |
    | `Likelihood` | min KL(p‖q) with E_p[l_i] ≤ b_i | -sum_i lam_i l_i |

To add a kind of constraint, derive from `Problem` and say what its tilt, its guidance, its cost and levels are, and
which dual function the solver is to climb. Nothing else in the project asks which problem it serves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from duality._arrays import Array, beside, computed, frozen, namespace, narrowed, vector, widened
from duality.answers import Answer, read_climb
from duality.dual_protocol import Dual
from duality.families import Mixtures, Statistics
from duality.masses import check_masses
from duality.newton import ENDLESS, Climb, Patience
from duality.ratios import LogRatios
from duality.reached import Reached


@dataclass(frozen=True)
class Shown:
    """What a density proves although it misses the levels.

    Attributes:
        bound: an upper bound on the value, nats; inf where it proves none.
        wrong: `(m,)`, by how much what it proves misses optimality in each constraint, in the level's unit.
    """

    bound: float
    wrong: np.ndarray


@dataclass(frozen=True, eq=False)
class Problem(ABC):
    """min distance(p, q) over densities p, subject to separation levels b `(m,)`.

    The optimal p is a tilt q exp(log w)/Z whose *natural parameters* `(m,)` are a function of the multipliers: the
    same for ForwardKL and Likelihood, a = lam/(1 - sum lam) for ReverseKL. Methods that take multipliers are for
    users; the solver and `Solution` work on natural parameters, which keep their digits where sum lam is near 1.
    """

    levels: Any  # given as a number or a vector; kept as a frozen float64 vector (m,)
    #: +1 where a constraint asks for level ≥ b, -1 where it asks for level ≤ b.
    direction: ClassVar[int] = 1
    #: The mass E_q[e^{rho_i}] that the ratios must have for the levels to mean what they say. "one" where a level
    #: integrates over all of q_i, "at most one" where q_i counts only where p lives, "any" where no q_i is asked for.
    mass: ClassVar[str] = "any"
    #: How long a climb of its dual function may take before `answer` looks for another way.
    patience: ClassVar[Patience] = ENDLESS
    #: What it means, in words, that no tilt attains the levels.
    not_attained: ClassVar[str] = (
        "not attained: no density reaches the value, which is the greatest lower bound; the target shown is the limit"
        " of minimising sequences and stops at its own critical levels"
    )

    def __post_init__(self) -> None:
        levels = vector("levels", self.levels)
        if not np.isfinite(levels).all():
            raise ValueError(f"levels: {levels[~np.isfinite(levels)][0]} given, finite levels are needed")
        object.__setattr__(self, "levels", levels)

    # -- what a kind of constraint must say --------------------------------------------------------------------

    @abstractmethod
    def tilt(self, values: Array, natural: Array) -> Array:
        """log w as a function of the natural parameters, `(..., m)` and `(m,)` -> `(...)`."""

    @abstractmethod
    def noised_tilt(self, values: Array, natural: Array) -> Array:
        """log E_q[w | x_t] as a function of rho_t = log q_i,t/q_t, as far as rho_t determines it; `(...)`."""

    @abstractmethod
    def strengths(self, values: Array, natural: Array) -> Array:
        """k_i = -d noised_tilt / d rho_i, `(..., m)`."""

    @abstractmethod
    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        """The objective at any density p given by its log masses `(n,)` on the nodes; nats."""

    @abstractmethod
    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        """The constrained functionals at any density p given by its log masses `(n,)`; `(m,)`."""

    @abstractmethod
    def dual(self, ratios: LogRatios) -> Dual:
        """The concave dual function on these nodes, in the coordinates that the solver climbs in."""

    # -- what follows from it ------------------------------------------------------------------------------------

    def natural(self, multipliers: Array) -> Array:
        """Natural parameters of the tilt, `(m,)`."""
        return multipliers

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        """The inverse of `natural`, `(m,)`."""
        return natural

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        """d multipliers / d natural, `(m, m)`."""
        return np.eye(natural.size)

    def answer(self, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float) -> Answer:
        """The answer that a climb of `dual` leads to, and beyond it where the kind knows a way that the climb did not.

        tolerance: the relative miss of the levels that will do.
        """
        read = read_climb(found)
        return replace(read, multipliers=self.multipliers(read.natural))

    def shown(self, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray) -> Shown:
        """What a density that misses the levels proves all the same, where a kind knows how to go on from it."""
        return Shown(float("inf"), np.full(self.levels.size, np.inf))

    def least_levels(self, ratios: LogRatios) -> np.ndarray:
        """The least levels `(m,)` that can be had jointly, see `InfeasibleError`; NaN where a kind does not say."""
        return np.full(self.levels.size, np.nan)

    def conflict(self, ratios: LogRatios) -> np.ndarray | None:
        """Which constraints cannot be had together `(m,)`, where some cannot; None where a kind does not say."""
        return None

    def emptied(self, natural: np.ndarray) -> bool:
        """Whether the tilt at these natural parameters leaves nothing of q, so that it is no density at all."""
        return False

    def out_of_reach(self, ratios: LogRatios) -> bool:
        """Whether a single constraint already asks for what no density has; never so for the KL problems."""
        return False

    def log_weight(self, values: Array, multipliers: Array) -> Array:
        """log w(rho; lam): the unnormalised log density of the target against q.

        Args:
            values: `(..., m)` log ratios (log densities for `kind="density"`), NumPy or torch.
            multipliers: `(m,)`, nonnegative, inside the dual domain.

        Returns:
            `(...)` in nats; -inf where the target vanishes.

        Raises:
            ValueError: for multipliers that are negative, or that no tilt of this problem belongs to.
        """
        _, values = namespace(values)
        return self.at_natural(self.tilt, values, self.natural(widened(self._checked(multipliers, values))))

    def guidance(self, values: Array, multipliers: Array) -> Array:
        """Strengths k_i of negative guidance at a noised state: score = score_q + sum_i k_i (score_q - score_i).

        k_i = -d log E_q[w | x_t] / d rho_i, with `rho_i = log q_{i,t}/q_t` at the noise level of the state.

        Args:
            values: `(..., m)` log ratios at the noised states, NumPy or torch.
            multipliers: `(m,)`.

        Returns:
            `(..., m)`, nonnegative.
        """
        _, values = namespace(values)
        return self.at_natural(self.strengths, values, self.natural(widened(self._checked(multipliers, values))))

    @staticmethod
    def at_natural(function: Callable[[Array, Array], Array], values: Array, natural: Array) -> Array:
        """`tilt` or `strengths` in the precision of `values`, from natural parameters `(m,)` in double precision.

        They are given in double because a = lam/(1 - sum lam) of rounded multipliers is infinite, or wrong in every
        digit, where sum lam is near 1. Half-precision values are widened for the computation.
        """
        wide = computed(values)
        return narrowed(function(wide, beside(wide, natural)), values)

    @property
    def probability(self) -> bool:
        """Whether levels are probabilities, or means of what lies in [0, 1]; nats and other units are not."""
        return False

    def slack(self, levels: np.ndarray) -> np.ndarray:
        """How far levels `(m,)` are on the right side of those asked for; a level is met when slack ≥ 0."""
        return self.direction * (levels - self.levels)

    def reached(self, ratios: LogRatios, log_weights: np.ndarray) -> Reached:
        """`cost`, `levels_of` and `slack_of` of any density p given by its log masses `(n,)`, and sum_j p_j²."""
        masses = np.exp(log_weights)
        levels, slack = self.levels_of(ratios, log_weights), self.slack_of(ratios, log_weights)
        return Reached(self.cost(ratios, log_weights), levels, slack, float(masses @ masses))

    def slack_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        """The slack `(m,)` of any density p given by its log masses `(n,)`."""
        return self.slack(self.levels_of(ratios, log_weights))

    def resolution(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        """What rounding leaves of the slack of a density p given by its log masses `(n,)`: less is no miss, `(m,)`."""
        return np.zeros(self.levels.size)

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        """How much each draw moves the levels of a tilt with given natural parameters, `(n, m)`, of mean zero.

        n d level_i / d q_j at fixed parameters, where q is the law that the draws stand for and log_weights `(n,)` are
        the log masses of the tilt. NaN where a kind of problem does not say.
        """
        return np.full(ratios.values.shape, np.nan)

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        """`(n, m)`, of which the levels are the sums over the nodes; NaN where a kind of problem does not say."""
        return np.full(ratios.values.shape, np.nan)

    def inputs(self, ratios: LogRatios) -> np.ndarray:
        """The array `(n, m)` that `log_weight` reads: log ratios, unless a kind says otherwise."""
        return ratios.values

    def robust(self, error: Any) -> Self:
        """The same problem at levels which, met with these ratios, are met with all whose error is at most this.

        KL(p‖q_i) ≥ b_i + error_i; E_p[l_i] ≤ e^{-error_i} b_i where l_i is an exponential of the log ratio, and
        ≤ b_i - error_i where it is the log ratio or a detector; likewise for what is kept. Nothing milder is safe.

        Args:
            error: `sup |rho_i - the true log ratio|`, nats (of detectors: in their unit), a number or `(m,)`, ≥ 0.

        Raises:
            ValueError: for an error that is negative, or of another shape than the levels; for a kind of problem of
                which no such levels are known; for levels that no error of that size leaves.

        Source: docs/theory, "robust to estimated ratios".
        """
        raise ValueError(
            f"error: {type(self).__name__} has no levels that are safe for all ratios within it: KL(q_i‖p) is a mean"
            " over q_i itself, which the ratios define, and how it moves with them depends on p"
        )

    def bind(self, ratios: LogRatios) -> Self:
        """The same problem with one level for each constraint of these ratios.

        Warns:
            MassWarning: where the problem reads the ratios as those of laws, and they are not.
        """
        if self.mass != "any":
            check_masses(ratios, below=self.mass == "one")
        count = self.count(ratios)
        if self.levels.size == count:
            return self
        if self.levels.size != 1:
            raise ValueError(f"levels: {self.levels.size} given for {count} constraints; give one, or one for each")
        return replace(self, levels=frozen(np.repeat(self.levels, count)))

    @property
    def source(self) -> str:
        """Which columns of the ratios it constrains, "values" or "detectors"."""
        return "values"

    def count(self, ratios: LogRatios) -> int:
        """The number m of constraints on these ratios."""
        return ratios.columns(self.source)

    def statistics(self, ratios: LogRatios) -> Statistics | None:
        """The constraints as E_p[T_i] - s_i KL(p‖q) ≤ beta_i, where they are of that kind; else None."""
        return None

    def mixtures(self, ratios: LogRatios) -> Mixtures | None:
        """The constraints as s_i KL(q_i‖p) ≥ s_i b_i, where they are of that kind; else None."""
        return None

    def units(self, ratios: LogRatios) -> np.ndarray:
        """The sizes `(m,)` against which a miss of the levels is judged: `1 + |b_i|` nats."""
        return 1.0 + np.abs(self.levels)

    def domain(self, multipliers: np.ndarray) -> bool:
        """Whether multipliers `(m,)` are ones that a tilt can have, whatever q: nonnegative, and more by kind."""
        return bool((np.asarray(multipliers) >= 0).all())

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        """Multipliers `(m,)` brought back into `domain`; the part of it that depends on q is not known here."""
        return np.maximum(multipliers, 0.0)

    def _checked(self, multipliers: Array, values: Array) -> Array:
        given = vector("multipliers", multipliers)
        if values.ndim == 0 or values.shape[-1] != given.size:
            shape, need = tuple(values.shape), f"last axis of length {given.size} (one for each multiplier)"
            raise ValueError(f"values: {need} is needed, got shape {shape}")
        if not self.domain(given):
            raise ValueError(f"multipliers: {given} lie outside the dual domain of {type(self).__name__}")
        return multipliers if hasattr(multipliers, "detach") else given
