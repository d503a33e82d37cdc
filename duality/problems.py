"""The three problems. Each is one small class around one function, the log weight of the tilt p = q exp(log w)/Z.

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
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import (
    Array,
    beside,
    computed,
    divergence,
    expectation,
    frozen,
    log1mexp,
    logsumexp,
    namespace,
    narrowed,
    pick,
    safe_log,
    vector,
    widened,
)
from duality.answers import Answer, read_climb
from duality.convex_form import solve_by_cost
from duality.dual_functions import ExponentialDual, MixtureDual
from duality.dual_protocol import Dual
from duality.faces import beyond, settle
from duality.families import Mixtures, Statistics
from duality.family_dual import FamilyDual
from duality.feasibility import conflicting, least_each, least_levels
from duality.likelihoods import KINDS, Kind
from duality.masses import check_masses
from duality.newton import ENDLESS, MET, SURE, Climb, Patience
from duality.ratios import EPS, LogRatios, check_priors
from duality.signed_dual import SignedDual
from duality.signed_faces import beyond_signed, leave_false_faces


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
    #: The mass E_q[e^{rho_i}] that the ratios must have for the levels to mean what they say: "one" where a level
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

        k_i = -d log E_q[w | x_t] / d rho_i, with rho_i = log q_{i,t}/q_t at the noise level of the state.

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

    def slack(self, levels: np.ndarray) -> np.ndarray:
        """How far levels `(m,)` are on the right side of those asked for; a level is met when slack ≥ 0."""
        return self.direction * (levels - self.levels)

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
        """Which columns of the ratios it constrains: "values" or "detectors"."""
        return "values"

    def count(self, ratios: LogRatios) -> int:
        """The number m of constraints on these ratios."""
        return ratios.columns(self.source)

    def statistics(self, ratios: LogRatios) -> Statistics | None:
        """The constraints as E_p[T_i] - s_i KL(p‖q) ≤ beta_i, where the objective is KL(p‖q); else None."""
        return None

    def mixtures(self, ratios: LogRatios) -> Mixtures | None:
        """The constraints as s_i KL(q_i‖p) ≥ s_i b_i, where the objective is KL(q‖p); else None."""
        return None

    def units(self, ratios: LogRatios) -> np.ndarray:
        """The sizes `(m,)` against which a miss of the levels is judged: 1 + |b_i| nats."""
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
            raise ValueError(
                f"values: last axis of length {given.size} is needed (one entry for each multiplier),"
                f" got shape {tuple(values.shape)}"
            )
        if not self.domain(given):
            raise ValueError(f"multipliers: {given} lie outside the dual domain of {type(self).__name__}")
        return multipliers if hasattr(multipliers, "detach") else given


def _odds(ratios: LogRatios, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p/q at draws `(n,)`, of mean one, and its logarithm."""
    tilt = log_weights - ratios.log_weights
    return np.exp(tilt), tilt


def _nonnegative(problem: Problem) -> None:
    if (problem.levels < 0).any():
        raise ValueError(
            f"levels: {problem.levels.min()} given, but a Kullback-Leibler divergence is never negative;"
            " levels of at least 0 nats are needed"
        )


class ReverseKL(Problem):
    """min KL(p‖q) subject to KL(p‖q_i) ≥ b_i: concept unlearning, of which negative guidance is the naive form.

    The optimal target is q prod_i (q/q_i)^{a_i}/Z with a_i = lam_i/(1 - sum_k lam_k) and sum_k lam_k < 1.

    Args:
        levels: b, a number for all constraints or `(m,)`, in nats, ≥ 0.

    Raises:
        ValueError: for levels that are negative or not finite.

    Source: problem RU of arXiv:2605.30825; the tilt and its dual, docs/theory.
    """

    mass = "at most one"
    patience: ClassVar[Patience] = Patience(steps=16)  # beyond, `duality.convex_form` is faster
    not_attained = (
        "not attained by a tilt: the value is right, but the multipliers add up to 1, where tilts end, on the nodes of"
        " least sum lam_i rho_i; densities that are as uneven as it takes on these nodes (or near them) reach the"
        " levels at this cost, and the target shown is the most even one; if only the nodes end there, take more"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _nonnegative(self)

    def natural(self, multipliers: Array) -> Array:
        xp, multipliers = namespace(multipliers)
        return multipliers / (1 - xp.sum(multipliers))

    def multipliers(self, natural: np.ndarray) -> np.ndarray:
        return natural / (1 + natural.sum())

    def jacobian(self, natural: np.ndarray) -> np.ndarray:
        share = 1 / (1 + natural.sum())
        return share * (np.eye(natural.size) - share * natural[:, None])

    def domain(self, multipliers: np.ndarray) -> bool:
        return super().domain(multipliers) and float(np.sum(multipliers)) < 1

    def project(self, multipliers: np.ndarray) -> np.ndarray:
        # The domain is open at sum lam = 1; a = lam/(1 - sum lam) ≤ 10^4 is beyond any tilt that a player can follow.
        multipliers = np.maximum(multipliers, 0.0)
        return multipliers * min(1.0, (1 - 1e-4) / max(float(multipliers.sum()), 1e-300))

    def tilt(self, values: Array, natural: Array) -> Array:
        return -pick(array_namespace(values), natural, values)

    noised_tilt = tilt

    def strengths(self, values: Array, natural: Array) -> Array:
        return array_namespace(values).zeros_like(values) + natural

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        return divergence(log_weights, ratios.log_weights)

    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return self.cost(ratios, log_weights) - expectation(np.exp(log_weights), ratios.values)

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # level_i = E_p[t - rho_i], t = log p/q. With omega = p/q, E_p[f] moves by omega (f - E_p f), and t itself by
        # 1 - omega, that of -log Z.
        omega, tilt = _odds(ratios, log_weights)
        gap = np.where(omega[:, None] > 0, tilt[:, None] - ratios.values, 0.0)
        finite = np.isfinite(gap).all(axis=0)  # an infinite level stays one
        gap = np.where(finite, gap, 0.0)
        mean = ratios.mean_within(np.exp(log_weights), gap)
        influence = omega[:, None] * (gap - mean) - (omega[:, None] - 1)
        return np.where(finite, influence, np.nan)

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        p = np.exp(log_weights)[:, None]
        tilt = log_weights - ratios.log_weights
        return np.where(p > 0, p * np.where(p > 0, tilt[:, None] - ratios.values, 0.0), 0.0)

    def dual(self, ratios: LogRatios) -> Dual:
        if ratios.grouped:
            return FamilyDual(*self.statistics(ratios), ratios.partition, ratios.log_weights)
        return ExponentialDual(ratios.values, ratios.log_weights, -self.levels, shared=True)

    def statistics(self, ratios: LogRatios) -> Statistics:
        return Statistics(ratios.values, -self.levels, np.ones(self.levels.size))

    def answer(self, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float) -> Answer:
        if found.stationary(self.units(ratios), tolerance):
            return super().answer(ratios, dual, found, tolerance)
        read = super().answer(ratios, dual, found, tolerance)
        by_cost = solve_by_cost(ratios, *self.statistics(ratios), found)
        # Where ratios are small beside the levels a tilt is known to fewer digits than SURE, and still the answer.
        close = by_cost.value <= read.value + SURE * (1.0 + abs(read.value))
        return read if close and found.stationary(self.units(ratios), max(MET, tolerance)) else by_cost

    def shown(self, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray) -> Shown:
        # Where p lives, mass may be concentrated without changing E_p[rho], until KL(p‖q) is the larger of the two
        # costs below: at that cost every KL(p‖q_i) = KL(p‖q) - E_p[rho_i] is at least b_i.
        costs = self.levels + expectation(np.exp(log_weights), ratios.values)
        bound = max(self.cost(ratios, log_weights), float(costs.max()))
        return Shown(bound, np.where(multipliers > 0, multipliers, 0.0) * np.where(multipliers > 0, bound - costs, 0.0))


class ForwardKL(Problem):
    """min KL(q‖p) subject to KL(q_i‖p) ≥ b_i: data unlearning, of which NegGrad and SISS are the swept forms.

    The optimal target is (q - sum_i lam_i q_i)/(1 - sum_i lam_i), as long as that is nonnegative q-almost everywhere.

    Args:
        levels: b, a number for all constraints or `(m,)`, in nats, ≥ 0.

    Raises:
        ValueError: for levels that are negative or not finite.

    Source: problem FU of arXiv:2605.30825; the closed dual domain and what lies beyond it, docs/theory.
    """

    mass = "one"
    patience: ClassVar[Patience] = Patience(pressed=15, faces=128)  # beyond, `duality.faces` is faster

    def __post_init__(self) -> None:
        super().__post_init__()
        _nonnegative(self)

    def bind(self, ratios: LogRatios) -> Self:
        held = np.isfinite(ratios.log_weights)[:, None]
        top = ratios.values.max(axis=0, where=held, initial=-np.inf)
        if top.max() > 700:
            raise ValueError(
                f"values: a log ratio of {top.max():.5g} nats given for constraint {int(top.argmax())}, but ForwardKL"
                " works with e^rho, which overflows above 700 (E_q[e^rho] must be 1, so exact ratios stay below -min"
                " log_weights; if only a factor is wrong, LogRatios.normalise())"
            )
        bound = super().bind(ratios)
        small = (top < -700) & (bound.levels > 0)
        if small.any():
            raise ValueError(
                f"values: no log ratio of constraint {int(small.argmax())} is above -700 nats, so that ForwardKL, which"
                " works with e^rho, sees nothing of its q_i; a law has E_q[e^rho] = 1 (if only a factor is wrong,"
                " LogRatios.normalise())"
            )
        return bound

    def tilt(self, values: Array, natural: Array) -> Array:
        xp = array_namespace(values)
        return log1mexp(xp, logsumexp(xp, safe_log(xp, natural) + values))

    noised_tilt = tilt  # exact: E_q[e^{rho_i(x_0)} | x_t] = e^{rho_i(x_t)}, so mixtures noise linearly

    def strengths(self, values: Array, natural: Array) -> Array:
        # At a noised state the exact ratios leave 1 - sum lam r above zero; a network's may not. The floor is the
        # resolution at which `solve` treats a slack as zero, so the strength is large there, never infinite.
        xp = array_namespace(values)
        floor = xp.full_like(values[..., 0], float(np.log(MixtureDual.RESOLUTION)))
        log_w = xp.maximum(self.tilt(values, natural), floor)
        return xp.exp(safe_log(xp, natural) + values - log_w[..., None])

    def conflict(self, ratios: LogRatios) -> np.ndarray | None:
        """Which constraints cannot be had together `(m,)`, where some cannot; None where a kind does not say."""
        return None

    def emptied(self, natural: np.ndarray) -> bool:
        # u = 1 - sum lam r is resolved to RESOLUTION, so that u/(1 - L), the target, keeps no five digits below this.
        return bool(1.0 - natural.sum() < 1e5 * MixtureDual.RESOLUTION)

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        return divergence(ratios.log_weights, log_weights)

    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # q_i is the measure of masses exp(log_weights_j + rho_ji), not renormalised: levels are linear in it.
        log_masses = ratios.values + ratios.log_weights[:, None]
        return np.array([divergence(log_mass, log_weights) for log_mass in log_masses.T])

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # level_i = E_q[r_i (rho_i - t)], t = log p/q = log u - log Z, and log Z moves by omega - 1.
        omega, tilt = _odds(ratios, log_weights)
        ratio = np.exp(ratios.values)
        terms = np.where(ratio > 0, ratio * (np.where(ratio > 0, ratios.values, 0.0) - tilt[:, None]), 0.0)
        q = np.exp(ratios.log_weights)
        return terms - ratios.mean_within(q, terms) + ratios.mean_within(q, ratio) * (omega[:, None] - 1)

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        mass = np.exp(ratios.values + ratios.log_weights[:, None])
        tilt = log_weights - ratios.log_weights
        return np.where(mass > 0, mass * np.where(mass > 0, ratios.values - tilt[:, None], 0.0), 0.0)

    def mixtures(self, ratios: LogRatios) -> Mixtures:
        return Mixtures(ratios.values, self.levels, np.ones(self.levels.size))

    def dual(self, ratios: LogRatios) -> Dual:
        if ratios.grouped:
            return SignedDual(*self.mixtures(ratios), ratios.partition, ratios.log_weights)
        return MixtureDual(ratios.values, ratios.log_weights, self.levels)

    def answer(self, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float) -> Answer:
        units = self.units(ratios)
        if found.stationary(units, tolerance) or not isinstance(dual, MixtureDual):
            return super().answer(ratios, dual, found, tolerance)
        if ratios.grouped:
            mixtures = self.mixtures(ratios)
            found = leave_false_faces(dual, units, found, lambda log_p: beyond_signed(ratios, mixtures, log_p))
            return super().answer(ratios, dual, found, tolerance)
        return settle(ratios, self.levels, dual, units, found)

    def shown(self, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray) -> Shown:
        if ratios.grouped:
            proved = beyond_signed(ratios, self.mixtures(ratios), log_weights)
            return Shown(proved.bound, proved.wrong(multipliers))
        alone = beyond(ratios, self.levels, log_weights)
        return Shown(alone.bound, alone.wrong(multipliers))


@dataclass(frozen=True, eq=False)
class Likelihood(Problem):
    """min KL(p‖q) subject to E_p[l_i] ≤ b_i: bound the likelihood that p gives to what is unwanted.

    The optimal target is q exp(-sum_i lam_i l_i)/Z.

    Args:
        levels: b, a number for all constraints or `(m,)`, in the unit of l.
        kind: which likelihood l_i is:
            "posterior" (default), Pr(i|x) = priors_i e^{rho_i(x)}, a probability;
            "density", q_i(x) itself (the ratios must carry `log_densities`, which `log_weight` then reads);
            "log-ratio", rho_i(x) in nats;
            "detector", what detector i says of x (the ratios must carry `detectors`, which `log_weight` then reads).
        priors: `(m,)` Pr(i) under q; left out, those that the ratios carry. Posterior only.

    Raises:
        ValueError: for an unknown kind, levels that are not finite, priors outside (0, 1) or with another kind.

    Source: problem LU of arXiv:2605.30825 (density kind); the posterior and its closure, docs/theory.
    """

    kind: str = "posterior"
    priors: Any = None  # given as a number or a vector; kept as a frozen float64 vector (m,), or None
    rule: Kind = field(init=False, repr=False)
    direction: ClassVar[int] = -1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise ValueError(f"kind: {self.kind!r} given, one of {', '.join(map(repr, KINDS))} is needed")
        object.__setattr__(self, "rule", KINDS[self.kind])
        if self.priors is not None:
            if not self.rule.needs_priors:
                raise ValueError(f"priors: given, but kind={self.kind!r} has no use for them")
            object.__setattr__(self, "priors", check_priors(self.priors))

    def bind(self, ratios: LogRatios) -> Self:
        self.rule.check(ratios)
        bound = super().bind(ratios)
        if not self.rule.needs_priors:
            return bound
        priors = ratios.priors if self.priors is None else check_priors(self.priors, self.count(ratios))
        if priors is None:
            raise ValueError("priors: neither the problem nor the ratios carry any; a posterior needs Pr(i) in (0, 1)")
        return replace(bound, priors=priors)

    def _prior(self, values: Array) -> Array:
        if not self.rule.needs_priors:
            return None
        if self.priors is None:
            raise ValueError("priors: this problem carries none; give Likelihood(levels, priors=...)")
        return beside(values, self.priors)

    def likelihoods(self, values: Array) -> Array:
        """l_i(x) from what `log_weight` reads, `(..., m)` -> `(..., m)`."""
        _, values = namespace(values)
        return self.rule.likelihood(values, self._prior(values))

    def inputs(self, ratios: LogRatios) -> np.ndarray:
        return self.rule.inputs(ratios)

    def units(self, ratios: LogRatios) -> np.ndarray:
        """min(size of the level, max(|E_q[l] - b|, standard deviation of l under q), b - min l), `(m,)`.

        What can be gained or lost is the distance of q from its level, or the spread of l, which may be a billionth of
        the level (a posterior that hardly varies), and at most the room below the level: near the least level the value
        grows as -log(b - min l). A miss is measured against the smallest of these.
        """
        kept = np.isfinite(ratios.log_weights)
        q = np.exp(ratios.log_weights[kept])
        miss = self._table(ratios)[kept] - self.levels
        miss = np.where(np.isfinite(miss), miss, 0.0)
        reach = np.abs(miss).max(axis=0)
        scaled = miss / np.where(reach > 0, reach, 1.0)
        mean = q @ scaled
        unit = reach * np.maximum(np.abs(mean), np.sqrt(q @ (scaled - mean) ** 2))
        room = -miss.min(axis=0)
        unit = np.where(room > 0, np.minimum(unit, room), unit)
        size = self.rule.size(self.levels)
        return np.minimum(np.where(unit > 0, unit, np.where(np.isfinite(size), size, 1.0)), size)

    def tilt(self, values: Array, natural: Array) -> Array:
        return -pick(array_namespace(values), natural, self.likelihoods(values))

    def noised_tilt(self, values: Array, natural: Array) -> Array:
        return self.rule.noised_tilt(values, natural, self._prior(values))

    def strengths(self, values: Array, natural: Array) -> Array:
        return self.rule.strengths(values, natural, self._prior(values))

    def cost(self, ratios: LogRatios, log_weights: np.ndarray) -> float:
        return divergence(log_weights, ratios.log_weights)

    def levels_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        return expectation(np.exp(log_weights), self._table(ratios))

    def slack_of(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # E_p[b - l], not b - E_p[l]: where l hardly varies the digits of the difference are in the terms.
        return -expectation(np.exp(log_weights), self._table(ratios) - self.levels)

    def resolution(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        # Masses are known to eps |log p|, and the sum over them is rounded.
        held = np.isfinite(log_weights)
        miss = self._table(ratios)[held] - self.levels
        known = np.exp(log_weights[held]) * EPS * (4.0 + np.abs(log_weights[held]))
        return np.asarray(known @ np.abs(np.where(np.isfinite(miss), miss, 0.0)))

    def level_influence(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        omega, _ = _odds(ratios, log_weights)
        miss = np.where(omega[:, None] > 0, self._table(ratios) - self.levels, 0.0)
        finite = np.isfinite(miss).all(axis=0)
        miss = np.where(finite, miss, 0.0)
        return np.where(finite, omega[:, None] * (miss - ratios.mean_within(np.exp(log_weights), miss)), np.nan)

    def level_terms(self, ratios: LogRatios, log_weights: np.ndarray) -> np.ndarray:
        p = np.exp(log_weights)[:, None]
        return np.where(p > 0, p * np.where(p > 0, self._table(ratios), 0.0), 0.0)

    def out_of_reach(self, ratios: LogRatios) -> bool:
        # E_p[l_i] > ess inf l_i for every density, unless l_i is constant on a set: the level must be above it.
        return bool((self.levels <= least_each(self._table(ratios), ratios.partition)).any())

    @property
    def source(self) -> str:
        return self.rule.source

    def statistics(self, ratios: LogRatios) -> Statistics:
        return Statistics(self._table(ratios), self.levels, np.zeros(self.levels.size))

    def _table(self, ratios: LogRatios) -> np.ndarray:
        """l_i at the nodes, `(n, m)`."""
        return np.asarray(self.likelihoods(self.inputs(ratios)))

    def least_levels(self, ratios: LogRatios) -> np.ndarray:
        return least_levels(self._table(ratios), ratios.log_weights, self.levels, ratios.partition)

    def conflict(self, ratios: LogRatios) -> np.ndarray:
        return conflicting(self._table(ratios), ratios.log_weights, self.levels, ratios.partition)

    def dual(self, ratios: LogRatios) -> Dual:
        if ratios.grouped:
            return FamilyDual(*self.statistics(ratios), ratios.partition, ratios.log_weights)
        return ExponentialDual(self._table(ratios), ratios.log_weights, self.levels, shared=False)
