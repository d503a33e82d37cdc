"""Whether log ratios belong to laws: E_q[e^{rho_i}] against 1, and the warning where it is not.

q_i has mass one, so E_q[e^{rho_i}] = 1 wherever the points see all of q_i. A factor M on q_i moves KL(p‖q_i) by -log M,
and so a level of `ReverseKL`, and, as dV/db_i = lam_i, the value by lam_i log M; it scales the measure under which
`ForwardKL` integrates. `Likelihood` bounds the expectation of whatever function it is given, and asks for no law.
Above one, the ratios belong to no law. Below one, part of q_i may lie beyond the points (a grid around q, or draws of
q, when q_i is elsewhere). `ReverseKL` needs q_i only where p lives and is right as it is; `ForwardKL` misses that part.

**Quadrature.** Masses are sums that should be exact. Their own rounding is eps (1 + E|rho_i| + E|log weight|) under
q_i, with eps that of the type in which the ratios came, and the factor 8 for the logarithms that went into them. Beyond
it a mass is tolerated to `TOLERANCE` = 1e-8: what it moves a level by is then less than what counts as met.

**Draws.** The mass is a mean M of n terms r_j = e^{rho_j} ≥ 0 with the standard error s/sqrt(n), which is allowed five
times over. That is not all: a set of mass `UNSEEN`/n, UNSEEN = 15, is missed by all n draws with probability e^{-15} =
3e-7 (five deviations of a normal law). On such a set r may be 0, which lowers the mass by UNSEEN/n · M, or as large as
the largest r that was drawn, which raises it by UNSEEN/n · max r. Only what these do not explain is reported, and a
mass below one only where the equivalent of `ENOUGH` = 100 draws carries it, (sum r)²/sum r²: sample means of heavy
tails nearly always fall short (tests/duality/test_masses.py tries many laws). A ratio larger than any that was drawn,
on a set that no draw has hit, cannot be told from a wrong factor: the mass then says how much of q_i the draws show.

**Groups.** `q_{i,c}` has mass one under every prompt, and every group is looked at like this, by itself: factors that
make up for each other between groups are wrong in each. Where constraints weigh groups by shares a_i(c) of their own,
its mass is a_i(c)/P(c). Among C groups the deviations and UNSEEN are what leaves C looks together the chances of
one.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.special import ndtr, ndtri

from duality._arrays import stack_level
from duality.ratios import EPS, LogRatios
from duality.shards import shared, total

TOLERANCE = 1e-8
DEVIATIONS = 5.0
UNSEEN = 15.0
ENOUGH = 100.0


class MassWarning(UserWarning):
    """Log ratios that belong to no law: E_q[e^{rho_i}] is not 1.

    Attributes:
        masses: E_q[e^{rho_i}] `(m,)`.
        errors: their standard errors `(m,)`; 0 on quadrature.
        wrong: `(m,)`, the constraints that are meant.
        by_group: `E_{q_c}[e^{rho_i}]` `(C, m)`, relative to the shares of the constraint's own where it has such.
        wrong_groups: `(C, m)`, which of these are meant.
    """

    def __init__(self, ratios: LogRatios, errors: np.ndarray, wrong: np.ndarray) -> None:
        self.masses, self.errors = ratios.masses, standard_errors(ratios)
        self.wrong, self.wrong_groups = wrong.any(axis=0), wrong
        self.by_group = np.exp(_log_masses(ratios))
        said = []
        for i in np.flatnonzero(self.wrong):
            with np.errstate(divide="ignore"):  # none of q_i in a group: the farthest off there is
                c = int(np.where(wrong[:, i], np.abs(np.log(self.by_group[:, i])), -1.0).argmax())
            error = f" ± {errors[c, i]:.2g}" if ratios.is_draws else ""
            where = ""
            if ratios.grouped:
                others = int(wrong[:, i].sum()) - 1
                where = f" in group {c}" + (f" and {others} more" if others else "")
            said.append(f"{self.by_group[c, i]:.7g}{error} for constraint {i}{where}")
        above = bool((self.by_group[wrong] > 1).any())
        why = (
            "no law has such ratios"
            if above
            else "part of q_i lies where q or these points do not reach, or the ratios are off by a factor"
        )
        super().__init__(
            f"log ratios of mass E_q[e^rho] = {', '.join(said)}, where a law has 1: {why}. KL levels are off by the"
            " logarithm; mend the ratios, or take LogRatios.normalise()"
        )


def standard_errors(ratios: LogRatios) -> np.ndarray:
    """Standard errors `(m,)` of the masses: s/sqrt(n) for draws, 0 for quadrature."""
    if not ratios.is_draws:
        return np.zeros(ratios.m)
    top = ratios.values.max(axis=0)
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.exp(ratios.values - top).std(axis=0) * np.exp(top) / np.sqrt(ratios.n))


def _group_errors(ratios: LogRatios) -> np.ndarray:
    """Standard errors `(C, m)` of the masses of the groups: s/sqrt(n_c) for draws, 0 for quadrature."""
    partition = ratios.partition
    if not ratios.is_draws:
        return np.zeros((partition.count, ratios.m))
    if _plain(ratios):
        (first, second), points = ratios.log_powers, total(ratios.n)
        with np.errstate(over="ignore", under="ignore"):
            # n sum r²/(sum r)² - 1 is the variance over the square of the mean.
            spread = np.maximum(np.exp(second - 2 * first + np.log(points)) - 1.0, 0.0)
            return np.asarray(np.sqrt(spread / points) * np.exp(first - np.log(points)))[None]
    values = ratios.values[partition.order] - partition.spread(_log_shares(ratios))
    top = np.maximum.reduceat(values, partition.starts, axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    sizes = partition.sizes[:, None]
    with np.errstate(over="ignore", under="ignore"):
        relative = np.exp(values - partition.spread(top))
        means = partition.total(relative) / sizes
        squares = partition.total((relative - partition.spread(means)) ** 2) / sizes
        return np.asarray(np.sqrt(squares / sizes) * np.exp(top))


def _plain(ratios: LogRatios) -> bool:
    """Whether there are no groups, and no shares of a constraint's own."""
    return ratios.partition.count == 1 and ratios.constraint_shares is None


def _log_shares(ratios: LogRatios) -> np.ndarray:
    """log a_i(c)/P(c) `(C, m)`, the masses that ratios are to have; 0 where constraints have no shares of their own."""
    if ratios.constraint_shares is None or ratios.group_weights is None:
        return np.zeros((ratios.partition.count, ratios.m))
    held = ratios.constraint_shares > 0
    logs = np.log(np.where(held, ratios.constraint_shares, 1.0)) - np.log(ratios.group_weights)[:, None]
    return np.where(held, logs, 0.0)


def _log_masses(ratios: LogRatios) -> np.ndarray:
    """log masses of the groups `(C, m)` relative to what they are to be; 0 where a constraint has no share in one."""
    if ratios.constraint_shares is None:
        return ratios.group_log_masses
    return np.where(ratios.constraint_shares > 0, ratios.group_log_masses - _log_shares(ratios), 0.0)


def lawless(ratios: LogRatios, below: bool = True) -> np.ndarray:
    """Which masses are above 1, or with `below` not 1, by the rule of this module, `(C, m)`; C = 1 without groups."""
    partition, count = ratios.partition, ratios.partition.count
    with np.errstate(over="ignore", under="ignore"):
        log_masses = _log_masses(ratios)
        masses = np.exp(log_masses)
        if not ratios.is_draws and (np.abs(masses - 1) <= TOLERANCE).all():
            return np.zeros(masses.shape, dtype=bool)  # whatever rounding adds to what is allowed
        if shared() and not ratios.is_draws:  # without what rounding adds: it warns a little earlier
            off = masses - 1
            return np.asarray(np.where(below, np.abs(off), off) > TOLERANCE)
        if ratios.is_draws and _plain(ratios):
            first, second = ratios.log_powers
            errors, missed = DEVIATIONS * _group_errors(ratios), UNSEEN / total(ratios.n)
            above = masses - 1 > errors + missed * masses
            low = 1 - masses > errors + missed * np.exp(np.where(np.isfinite(ratios.ends[1]), ratios.ends[1], 0.0))
            return np.asarray(above | (below & (2 * first - second >= np.log(ENOUGH)) & low))
        values = ratios.values[partition.order] - partition.spread(_log_shares(ratios))
        top = np.maximum.reduceat(values, partition.starts, axis=0)
        top = np.where(np.isfinite(top), top, 0.0)
        if ratios.is_draws:
            deviations, unseen = -float(ndtri(ndtr(-DEVIATIONS) / count)), UNSEEN + float(np.log(count))
            allowed = deviations * _group_errors(ratios)
            part = unseen / partition.sizes[:, None]
            relative = np.exp(values - partition.spread(top))
            sums, squares = partition.total(relative), partition.total(relative**2)
            enough = sums**2 >= ENOUGH * squares
            high = masses - 1 > allowed + part * masses
            return np.asarray(high | (below & enough & (1 - masses > allowed + part * np.exp(top))))
        log_q = ratios.log_weights[partition.order, None] - partition.spread(np.log(partition.shares))[:, None]
        share = np.exp(values + log_q - partition.spread(np.where(np.isfinite(log_masses), log_masses, 0.0)))
        held = share > 0
        logs = np.abs(np.where(held, values, 0.0)), np.abs(np.where(held, log_q, 0.0))
        stated, stored = (partition.total(share * each) for each in logs)
        rounding = 8 * (ratios.precision * (1 + stated) + EPS * (partition.sizes[:, None] + stored))
        off = masses - 1
        return np.asarray(np.where(below, np.abs(off), off) > TOLERANCE + rounding)


def check_masses(ratios: LogRatios, below: bool = True) -> None:
    """MassWarning where `lawless` says that some constraint's ratios belong to no law."""
    wrong = lawless(ratios, below)
    if wrong.any():
        warnings.warn(MassWarning(ratios, _group_errors(ratios), wrong), stacklevel=stack_level())
