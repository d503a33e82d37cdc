"""Parts that share the cost KL(q‖p): `ForwardKL`, `Keep(kind="forward-kl")`, and bounded expectations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from array_api_compat import array_namespace

from duality._arrays import Array, beside, safe_log
from duality.answers import Answer, read_climb
from duality.dual_protocol import Dual
from duality.joint_family import Family, is_forward
from duality.keep import Keep
from duality.likelihood import Likelihood
from duality.mixture_dual import MixtureDual
from duality.newton import MET, Climb
from duality.problems import Problem, Shown
from duality.quotient_dual import QuotientDual
from duality.quotient_faces import settle_expectations
from duality.ratios import LogRatios
from duality.signed_dual import SignedDual
from duality.signed_faces import Priced, beyond_signed, leave_false_faces


class MixtureFamily(Family):
    """q u/eta with u = 1 - sum_i s_i lam_i e^rho_i and eta = mu + nu·T; eta is constant where no T is bounded.

    mu is the mass multiplier. The target has E_p[eta] = E_q[u], so that nu·(E_p[T] - beta) = 0 makes
    mu = E_q[u] - nu·beta: with ratios of mass one eta = 1 - s·lam + nu·(T - beta), which is what `tilt` reads. With
    other masses a solution's natural nu is scaled to what makes that its own eta. Under groups each has a mu of its
    own, which multipliers alone do not tell: `tilt` then refuses, and `Solution.log_weights` are the target.
    """

    def __init__(self, parts: Sequence[Problem]) -> None:
        super().__init__(parts)
        #: s of the constraints on KL(q_i‖p).
        self.signs = self.each([float(part.direction) for part in parts])[self.mixed]

    def dual(self, joint: Problem, ratios: LogRatios) -> Dual:
        mixtures, statistics = joint.mixtures(ratios), joint.statistics(ratios)
        assert mixtures is not None  # the cost is KL(q‖p)
        if statistics is None:
            return SignedDual(*mixtures, ratios.partition, ratios.log_weights)
        return QuotientDual(mixtures, statistics, self.mixed, ratios.partition, ratios.log_weights)

    def emptied(self, natural: np.ndarray) -> bool:
        # As for `ForwardKL`: u is resolved to RESOLUTION, so that the target keeps no five digits below this.
        return bool(1.0 - self.signs @ natural[self.mixed] < 1e5 * MixtureDual.RESOLUTION)

    def _pieces(self, values: Array, natural: Array) -> tuple[Array, Array, list[Array]]:
        """u `(...)`, eta relative to its share 1 - s·lam `(...)`, and -d u or d eta by each part's columns."""
        if bool(array_namespace(natural).isnan(natural).any()):
            raise ValueError(
                "log_weight: with ForwardKL beside expectations every group has a mass multiplier of its own, which no"
                " weight of the values alone can know; read Solution.log_weights at the points"
            )
        xp = array_namespace(values)
        u, eta, slopes = xp.ones_like(values[..., 0]), xp.ones_like(values[..., 0]), []
        parts = self.split(values, natural)
        share = 1 - sum(part.direction * lam.sum() for part, _, lam in parts if is_forward(part))
        for part, v, lam in parts:
            if is_forward(part):
                slopes.append(part.direction * lam * xp.exp(v))
                u = u - xp.sum(slopes[-1], axis=-1)
                continue
            rule = part.of if isinstance(part, Keep) else part
            assert isinstance(rule, Likelihood)
            theta = -part.direction * lam / share
            eta = eta + xp.sum(theta * (rule.likelihoods(v) - beside(v, part.levels)), axis=-1)
            slopes.append(theta * rule.slopes(v))
        return u, eta, slopes

    def tilt(self, values: Array, natural: Array) -> Array:
        xp = array_namespace(values)
        u, eta, _ = self._pieces(values, natural)
        zero = xp.zeros_like(u)
        return safe_log(xp, xp.maximum(u, zero)) - safe_log(xp, xp.maximum(eta, zero))

    noised_tilt = tilt  # exact without expectations, as mixtures noise linearly; beside them to leading order

    def strengths(self, values: Array, natural: Array) -> Array:
        xp = array_namespace(values)
        u, eta, slopes = self._pieces(values, natural)
        floor = xp.full_like(u, MixtureDual.RESOLUTION)
        u, eta = xp.maximum(u, floor), xp.maximum(eta, floor)
        each = [s / (u if is_forward(part) else eta)[..., None] for part, s in zip(self.parts, slopes, strict=True)]
        return xp.concat(each, axis=-1)

    def answer(
        self, joint: Problem, ratios: LogRatios, dual: Dual, found: Climb, tolerance: float
    ) -> tuple[Climb, Answer | None]:
        units = joint.units(ratios)
        if not found.stationary(units, tolerance) and not found.exhausted:
            found = leave_false_faces(dual, units, found, lambda log_p: self._beyond(joint, ratios, log_p))
            found = settle_expectations(found, units)
        if not isinstance(found.dual, QuotientDual):
            return found, None
        read = read_climb(found)
        return found, replace(read, natural=found.dual.of_target(found.x))

    def shown(self, joint: Problem, ratios: LogRatios, log_weights: np.ndarray, multipliers: np.ndarray) -> Shown:
        proved = self._beyond(joint, ratios, log_weights)
        return Shown(proved.bound, proved.wrong(multipliers))

    def _beyond(self, joint: Problem, ratios: LogRatios, log_weights: np.ndarray) -> Priced:
        """What a density proves: what is bought on null sets raises every KL(q_i‖p), and changes no expectation."""
        mixtures = joint.mixtures(ratios)
        assert mixtures is not None
        proved = beyond_signed(ratios, mixtures, log_weights)
        if self.mixed.all():
            return proved
        missed = -joint.slack_of(ratios, log_weights)
        left, towards = missed.copy(), np.zeros(missed.size)
        left[self.mixed], towards[self.mixed] = proved.left, proved.towards
        met = MET * joint.units(ratios) + joint.resolution(ratios, log_weights)
        bound = proved.bound if not (missed > met)[~self.mixed].any() else float("inf")
        return Priced(bound, left, towards)
