"""The linear program of `ReverseKL` at the end of its dual domain, where the multipliers add up to one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from duality.linear_program import tightest
from duality.ratios import EPS

ENTERING = 50  # nodes that join the restricted program in one round
ROUNDS = 200


@dataclass(frozen=True)
class Saddle:
    """The two sides of max_lam min_j lam·v_j = min_p max_i E_p[v_i].

    Attributes:
        multipliers: lam `(m,)`, ≥ 0, adding up to one.
        value: min_j lam·v_j, the lower bound that they prove.
        nodes: `(k,)` the nodes that carry p.
        masses: `(k,)` p there, adding up to one.
        least: max_i E_p[v_i], the upper bound that it proves.
    """

    multipliers: np.ndarray
    value: float
    nodes: np.ndarray
    masses: np.ndarray
    least: float


def saddle(table: np.ndarray) -> Saddle:
    """`max_{lam ≥ 0, sum lam = 1} min_j lam·v_j = min_p max_i E_p[v_i]` for v `(n, m)`, finite: a matrix game.

    With v = rho + b the left side is the maximum of the dual function of `ReverseKL` over sum lam = 1, and the right
    side the least c for which some density has E_p[rho_i] ≤ c - b_i for all i. Solved by HiGHS on a working set of
    nodes, which the most violated ones join until none is (column generation): exact, and a million nodes stay out of
    the simplex. HiGHS stops at tolerances of 1e-10 of the table's size; solving the equations that hold with equality
    at its answer leaves rounding only.
    """
    n, m = table.shape
    if m == 1:
        node = int(table[:, 0].argmin())
        least = float(table[node, 0])
        return Saddle(np.ones(1), least, np.array([node]), np.ones(1), least)
    working = np.unique(np.append(table.argmin(axis=0), table.max(axis=1).argmin()))
    lam, value, nodes, masses, least = np.zeros(m), -np.inf, working, np.zeros(working.size), np.inf
    for _ in range(ROUNDS):
        part = table[working]
        worst = np.empty(0)
        for multipliers, density in _restricted(part):
            across = table @ multipliers
            if across.min() > value:
                lam, value = multipliers, float(across.min())
            reached = float((density @ part).max())
            if reached < least:
                held = density > 0
                nodes, masses, least = working[held], density[held], reached
            if worst.size == 0 or across.min() > worst.min():
                worst = across
        noise = 4 * m * EPS * float(np.abs(part).max())
        violated = np.argpartition(worst, min(ENTERING, n - 1))[:ENTERING]
        entering = np.setdiff1d(violated[worst[violated] < least - noise], working)
        if entering.size == 0:
            break
        working = np.append(working, entering)
    return Saddle(lam, value, nodes, masses, least)


def _restricted(part: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Answers (lam, p) of the game on a few nodes: as HiGHS finds it, and sharpened."""
    k, m = part.shape
    centre = float(part.max(axis=1).min())
    size = max(float(np.abs(part - centre).max()), np.finfo(float).tiny)
    scaled = (part - centre) / size
    program = tightest(
        c=np.append(np.zeros(k), 1.0),
        A_ub=np.hstack([scaled.T, -np.ones((m, 1))]),
        b_ub=np.zeros(m),
        A_eq=np.append(np.ones(k), 0.0)[None, :],
        b_eq=[1.0],
        bounds=[(0, None)] * k + [(None, None)],
    )
    if program is None:  # numbers of a kind that HiGHS gives up on: one constraint alone is an answer, if a poor one
        return [(np.eye(m)[int(part.min(axis=0).argmax())], np.eye(k)[int(part.max(axis=1).argmin())])]
    lam, p = _onto_simplex(-np.asarray(program.ineqlin.marginals)), _onto_simplex(np.asarray(program.x)[:-1])
    answers = [(lam, p)]
    used, carrying = np.flatnonzero(lam > 1e-9), np.flatnonzero(p > 1e-9)
    basis = scaled[np.ix_(carrying, used)]
    sharp_lam, sharp_p = np.zeros(m), np.zeros(k)
    sharp_lam[used], sharp_p[carrying] = _equalised(basis), _equalised(basis.T)
    answers.append((_onto_simplex(sharp_lam), _onto_simplex(sharp_p)))
    return answers


def _equalised(rows: np.ndarray) -> np.ndarray:
    """x with rows·x = c for all rows and some c, and sum x = 1; by least squares where that is too much to ask."""
    k, m = rows.shape
    system = np.block([[rows, -np.ones((k, 1))], [np.ones((1, m)), np.zeros((1, 1))]])
    right = np.append(np.zeros(k), 1.0)
    return np.asarray(np.linalg.lstsq(system, right, rcond=None)[0])[:m]


def _onto_simplex(x: np.ndarray) -> np.ndarray:
    """x ≥ 0 with sum 1, from one that is so up to rounding."""
    x = np.maximum(x, 0.0)
    total = float(x.sum())
    return x / total if total > 0 else np.full(x.size, 1.0 / x.size)
