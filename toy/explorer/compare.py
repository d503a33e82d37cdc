"""RU, FU and LU at matched removal: the three targets that leave the same share of every concept, side by side.

What is left of concept i in a density p is E_p[Pr(i|x)], which for p = q is the prior pi_i. Each family of targets is
taken to the member with E_p[Pr(i|x)] = kept · pi_i; that member is optimal for the levels that it reaches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

import duality as du
from toy.explorer.boards import Stage
from toy.explorer.compute import solved
from toy.explorer.state import EntryError
from toy.explorer.views import View
from toy.mixtures import Array
from toy.solving import ToySolution, TruncationError, check_truncation

_MET = 1e-6  # relative miss of the share that still counts as matched


@dataclass(frozen=True, eq=False)
class Matched:
    """One family at the asked removal.

    Attributes:
        answer: None where the family cannot go so far, ``why`` says it.
        left: E_p[Pr(i|x)]/pi_i, (m,); empty without an answer.
        reverse, forward: KL(p‖q) and KL(q‖p), nats, the yardsticks that all three share.
    """

    name: str
    answer: ToySolution | None
    left: Array
    reverse: float
    forward: float
    why: str = ""


def compare(view: View, kept: float) -> tuple[Matched, ...]:
    """RU, FU and LU (posterior) on the view's mixtures, in this order.

    Args:
        kept: share of each concept to be left, in (0, 1).

    Raises:
        EntryError: a concept is no part of q, so that nothing says what is left of it.
    """
    board = view.board
    if board is None:
        raise EntryError("problem", "; ".join(view.errors.values()))
    for i, prior in enumerate(board.scene.priors):
        if not 0 < prior < 1 - 1e-12:
            raise EntryError(
                f"concept {i + 1}",
                f"q_{i + 1} is no part of q, so no share of q is concept {i + 1} and removals cannot be matched",
            )
    tables = _Tables(board.alone)
    shares = kept * tables.priors
    return _reverse(tables, shares), _forward(tables, shares), _likelihood(tables, shares)


class _Tables:
    """What the three families share: masses ``q`` (n,), and ``posteriors`` Pr(i|x) at the nodes, (n, m)."""

    def __init__(self, stage: Stage, ratios: du.LogRatios | None = None) -> None:
        self.stage = stage
        self.priors = np.array(stage.boards[0].scene.priors)
        self.ratios = stage.ratios if ratios is None else ratios
        self.q = np.exp(self.ratios.log_weights)
        self.posteriors = self.priors * np.exp(self.ratios.values)

    def tilted(self, a: Array) -> Array:
        """Masses (n,) of q e^(-a·rho)/Z."""
        exponent = self.ratios.log_weights - self.ratios.values @ a
        p = np.exp(exponent - exponent.max())
        return np.asarray(p / p.sum())


def _none(name: str, why: str) -> Matched:
    return Matched(name, None, np.array([]), np.nan, np.nan, why)


def _likelihood(tables: _Tables, shares: Array) -> Matched:
    """LU bounds the share itself."""
    try:
        solution = solved(du.Likelihood(shares, priors=tables.priors), tables.stage)
    except du.InfeasibleError as error:
        return _none("LU", str(error))
    return _matched("LU", tables, solution)


def _forward(tables: _Tables, shares: Array) -> Matched:
    """p = (q - sum_j lam_j q_j)/(1 - L) leaves `(pi_i - sum_j lam_j E_{q_j}[post_i])/(1 - L)`, linear in lam."""
    ratio = np.exp(tables.ratios.values)
    means = tables.posteriors.T @ (tables.q[:, None] * ratio)  # (i, j) = E_{q_j}[post_i]
    try:
        lam = np.linalg.solve(means - shares[:, None], tables.q @ tables.posteriors - shares)
    except np.linalg.LinAlgError:
        return _none("FU", "two of the concepts are one density, so the multipliers of FU cannot be told apart")
    lam = np.maximum(lam, 0.0)
    # At the very end of the domain rounding decides the sign; the last digits of lam are given up for it.
    top = float((ratio @ lam).max())
    problem = du.ForwardKL(np.ones(len(shares)))
    if top > 1 - 1e-13:
        lam = lam * (1 - 1e-13) / top
        found = _at(tables, problem, lam, "FU")
        if np.abs(found.left * tables.priors - shares).max() > 1e-4 * shares.max():
            left = ", ".join(f"{100 * share:.3g} %" for share in found.left)
            why = f"no FU target removes so much: at the end of its dual domain {left} of the concept is left"
            return replace(found, why=why)
        return found
    return _at(tables, problem, lam, "FU")


def _reverse(tables: _Tables, shares: Array) -> Matched:
    """a with `E_{p_a}[post_i] = share_i`: on a quarter of the nodes first, then all of them confirm it."""
    a, _ = _matching(_Tables(tables.stage, tables.stage.coarse), shares, np.full(len(shares), 0.05))
    a, miss = _matching(tables, shares, np.maximum(a, 1e-9))
    matched = _at(tables, du.ReverseKL(np.ones(len(shares))), a / (1 + a.sum()), "RU")
    if miss > _MET:
        left = ", ".join(f"{100 * share:.3g} %" for share in matched.left)
        return replace(
            matched, why=f"no RU target leaves exactly this share of every concept: the nearest leaves {left}"
        )
    return matched


def _matching(tables: _Tables, shares: Array, start: Array) -> tuple[Array, float]:
    """Least squares on the logs, and what is missed; Jacobian -Cov_p(post_i, rho_j)/E_p[post_i]."""

    def miss(a: Array) -> Array:
        return np.log(np.maximum(tables.tilted(a) @ tables.posteriors, 1e-300) / shares)

    def slope(a: Array) -> Array:
        p = tables.tilted(a)
        mean = p @ tables.posteriors
        centred = tables.ratios.values - p @ tables.ratios.values
        return np.asarray(-(tables.posteriors * p[:, None]).T @ centred / np.maximum(mean, 1e-300)[:, None])

    found = least_squares(miss, start, slope, bounds=(0.0, np.inf), x_scale=0.05, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    return np.asarray(found.x), float(np.abs(found.fun).max())


def _at(tables: _Tables, problem: du.Problem, lam: Array, name: str) -> Matched:
    """The member of a family at given multipliers, solved for the very levels that it reaches."""
    reached = du.fixed_weights(problem, tables.ratios, [lam])[0][1]
    kind = du.ReverseKL if name == "RU" else du.ForwardKL
    return _matched(name, tables, du.solve(kind(np.maximum(reached, 0.0)), tables.ratios, lam))


def _matched(name: str, tables: _Tables, solution: du.Solution) -> Matched:
    board, ratios, q = tables.stage.boards[0], tables.ratios, tables.q
    log_p = np.asarray(solution.log_weights)
    p = np.exp(log_p)
    held = (p > 0) & (q > 0)
    answer = ToySolution(solution, ratios, board.nodes, board.scene.pretrained, board.scene.unlearn)
    why = ""
    try:
        check_truncation(solution, board.nodes)
    except TruncationError:
        why = f"the {name} target has left the neighbourhood of q: what is shown is its best on this grid"
    return Matched(
        name,
        answer,
        (p @ tables.posteriors) / tables.priors,
        float(p[held] @ (log_p - ratios.log_weights)[held]),
        float(q[held] @ (ratios.log_weights - log_p)[held]),
        why,
    )
