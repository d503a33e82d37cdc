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
"""

from __future__ import annotations

import warnings

import numpy as np

from duality._arrays import stack_level
from duality.ratios import EPS, LogRatios

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
    """

    def __init__(self, ratios: LogRatios, errors: np.ndarray, wrong: np.ndarray) -> None:
        self.masses, self.errors, self.wrong = ratios.masses, errors, wrong
        said = []
        for i in np.flatnonzero(wrong):
            error = f" ± {errors[i]:.2g}" if ratios.is_draws else ""
            said.append(f"{self.masses[i]:.7g}{error} for constraint {i}")
        above = bool((ratios.log_masses[wrong] > 0).any())
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


def lawless(ratios: LogRatios, below: bool = True) -> np.ndarray:
    """Which of the m masses are above 1, or with `below` not 1, by the rule of this module, `(m,)`."""
    with np.errstate(over="ignore", under="ignore"):
        masses = ratios.masses
        if ratios.is_draws:
            allowed = DEVIATIONS * standard_errors(ratios)
            lower = UNSEEN / ratios.n * masses
            upper = UNSEEN / ratios.n * np.exp(ratios.values.max(axis=0))
            relative = np.exp(ratios.values - ratios.values.max(axis=0))
            enough = relative.sum(axis=0) ** 2 >= ENOUGH * (relative**2).sum(axis=0)
            return np.asarray((masses - 1 > allowed + lower) | (below & enough & (1 - masses > allowed + upper)))
        share = np.exp(ratios.values + ratios.log_weights[:, None] - ratios.log_masses)
        held = share > 0
        logs = np.abs(np.where(held, ratios.values, 0.0)), np.abs(np.where(held, ratios.log_weights[:, None], 0.0))
        stated, stored = ((share * each).sum(axis=0) for each in logs)
        rounding = 8 * (ratios.precision * (1 + stated) + EPS * (ratios.n + stored))
        off = masses - 1
        return np.asarray(np.where(below, np.abs(off), off) > TOLERANCE + rounding)


def check_masses(ratios: LogRatios, below: bool = True) -> None:
    """MassWarning where `lawless` says that some constraint's ratios belong to no law."""
    wrong = lawless(ratios, below)
    if wrong.any():
        warnings.warn(MassWarning(ratios, standard_errors(ratios), wrong), stacklevel=stack_level())
