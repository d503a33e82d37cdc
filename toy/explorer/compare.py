"""RU, FU and LU at matched removal: the three targets that leave the same share of every concept, side by side.

What is left of concept i in a density p is E_p[Pr(i|x)], which for p = q is the prior pi_i. Each family of targets is
taken to the member with E_p[Pr(i|x)] = kept · pi_i; that member is optimal for the levels that it reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

import duality as du
from toy.explorer.compute import Board, View
from toy.explorer.state import EntryError
from toy.mixtures import Array
from toy.solving import ToySolution, TruncationError, check_truncation

_MET = 1e-6  # relative miss of the share that still counts as matched


@dataclass(frozen=True, eq=False)
class Matched:
    """One family at the asked removal.

    answer : None where the family cannot go so far, ``why`` says it. left : E_p[Pr(i|x)]/pi_i, (m,). reverse, forward :
    KL(p‖q) and KL(q‖p), nats, the yardsticks that all three share.
    """

    name: str
    answer: ToySolution | None
    left: Array
    reverse: float
    forward: float
    why: str = ""


def compare(view: View, kept: float) -> tuple[Matched, ...]:
    """RU, FU and LU (posterior) on the view's mixtures, in this order.

    kept : share of each concept to be left, in (0, 1). Raises ``EntryError`` where a concept is no part of q, so that
    nothing says what is left of it.
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
    shares = kept * np.array(board.scene.priors)
    return _reverse(board, shares), _forward(board, shares), _likelihood(board, shares)


def _likelihood(board: Board, shares: Array) -> Matched:
    """LU bounds the share itself."""
    try:
        solution = du.solve(du.Likelihood(shares, priors=np.array(board.scene.priors)), board.ratios)
    except du.InfeasibleError as error:
        return Matched("LU", None, np.full(len(shares), np.nan), np.nan, np.nan, str(error))
    return _matched("LU", board, solution)


def _forward(board: Board, shares: Array) -> Matched:
    """p = (q - sum_j lam_j q_j)/(1 - L) leaves (pi_i - sum_j lam_j E_{q_j}[post_i])/(1 - L), linear in lam."""
    ratios, q, posteriors = _tables(board)
    under = q[:, None] * np.exp(ratios.values)
    means = posteriors.T @ under  # (i, j) = E_{q_j}[post_i]
    lam = np.linalg.solve(means - shares[:, None], q @ posteriors - shares)
    lam = np.maximum(lam, 0.0)
    # At the very end of the domain rounding decides the sign; the last digits of lam are given up for it.
    top = float((np.exp(ratios.values) @ lam).max())
    problem = du.ForwardKL(np.ones(len(shares)))
    if top > 1 - 1e-13:
        lam = lam * (1 - 1e-13) / top
        found = _at(board, problem, lam, "FU")
        if np.abs(found.left * np.array(board.scene.priors) - shares).max() > 1e-4 * shares.max():
            left = ", ".join(f"{100 * share:.3g} %" for share in found.left)
            why = f"no FU target removes so much: at the end of its dual domain {left} of the concept is left"
            return Matched("FU", found.answer, found.left, found.reverse, found.forward, why)
        return found
    return _at(board, problem, lam, "FU")


def _reverse(board: Board, shares: Array) -> Matched:
    """a with E_{p_a}[post_i] = share_i, by least squares on the logs; Jacobian -Cov_p(post_i, rho_j)/E_p[post_i]."""
    ratios, _, posteriors = _tables(board)

    def tilted(a: Array) -> Array:
        exponent = ratios.log_weights - ratios.values @ a
        p = np.exp(exponent - exponent.max())
        return np.asarray(p / p.sum())

    def miss(a: Array) -> Array:
        return np.log(np.maximum(tilted(a) @ posteriors, 1e-300) / shares)

    def slope(a: Array) -> Array:
        p = tilted(a)
        mean = p @ posteriors
        centred = ratios.values - p @ ratios.values
        return np.asarray(-(posteriors * p[:, None]).T @ centred / np.maximum(mean, 1e-300)[:, None])

    start = np.full(len(shares), 0.05)
    found = least_squares(miss, start, slope, bounds=(0.0, np.inf), x_scale=0.05, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    a = np.asarray(found.x)
    matched = _at(board, du.ReverseKL(np.ones(len(shares))), a / (1 + a.sum()), "RU")
    if np.abs(found.fun).max() > _MET:
        left = ", ".join(f"{100 * share:.3g} %" for share in matched.left)
        why = f"no RU target leaves exactly this share of every concept: the nearest leaves {left}"
        return Matched("RU", matched.answer, matched.left, matched.reverse, matched.forward, why)
    return matched


def _at(board: Board, problem: du.Problem, lam: Array, name: str) -> Matched:
    """The member of a family at given multipliers, solved for the very levels that it reaches."""
    reached = du.fixed_weights(problem, board.ratios, [lam])[0][1]
    kind = du.ReverseKL if name == "RU" else du.ForwardKL
    return _matched(name, board, du.solve(kind(np.maximum(reached, 0.0)), board.ratios))


def _matched(name: str, board: Board, solution: du.Solution) -> Matched:
    ratios, q, posteriors = _tables(board)
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
        (p @ posteriors) / np.array(board.scene.priors),
        float(p[held] @ (log_p - ratios.log_weights)[held]),
        float(q[held] @ (ratios.log_weights - log_p)[held]),
        why,
    )


def _tables(board: Board) -> tuple[du.LogRatios, Array, Array]:
    """Ratios, masses of q (n,), posteriors (n, m)."""
    ratios = board.ratios
    return ratios, np.exp(ratios.log_weights), np.array(board.scene.priors) * np.exp(ratios.values)
