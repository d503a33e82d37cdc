"""Problems on nodes in groups through CVXPY, with one normaliser for each group: for checking, not for use.

::

    KL(p‖q)   constraints E_p[T_i] - s_i KL(p‖q) ≤ beta_i, s_i in {0, 1, -1}: where all s_i = 0 the convex program
              over p,
              else  max -lam·beta - sum_c P_c t_c  with  sum_{j in c} q_cj exp((-lam·T_j - t_c)/S) ≤ 1,  S = 1 - s·lam
    KL(q‖p)   constraints s_i (b_i - KL(q_i‖p)) ≤ 0:
              max -sum_j q_j u_j log(u_j/Z_c(j)) + sum_i s_i lam_i (b_i - KL(q_i‖q)),
              u = 1 - sum_i s_i lam_i e^rho_i ≥ 0,  Z_c = E_{q_c}[u]
    both      with E_p[T_j] ≤ beta_j besides, over the mass multipliers mu_c as well:
              max -sum_j q_j u_j log(u_j/eta_j) + sum_j q_j u_j - sum_c P_c mu_c + sum_i s_i lam_i (b_i - KL(q_i‖q)),
              eta_j = mu_c(j) + nu·(T_j - beta) ≥ 0
"""

from __future__ import annotations

from dataclasses import dataclass

import cvxpy as cp
import numpy as np

from duality.ratios import LogRatios


@dataclass(frozen=True)
class Nodes:
    """q `(k,)` joint masses of the nodes of positive weight, which those are, their groups `(k,)`, P `(C,)`."""

    q: np.ndarray
    kept: np.ndarray
    labels: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, ratios: LogRatios) -> Nodes:
        """The nodes as they were given, in their own order."""
        kept = np.isfinite(ratios.log_weights)
        q = np.exp(ratios.log_weights[kept])
        groups = np.zeros(q.size, dtype=int) if ratios.groups is None else np.asarray(ratios.groups)[kept]
        return cls(q, kept, groups, np.bincount(groups, weights=q))

    @property
    def sums(self) -> np.ndarray:
        """`(C, k)`, which node belongs to which group."""
        return np.asarray(np.equal.outer(np.arange(self.shares.size), self.labels), dtype=float)


def convex(nodes: Nodes, table: np.ndarray, levels: np.ndarray) -> tuple[cp.Problem, cp.Variable, cp.Constraint]:
    """min KL(p‖q) subject to E_p[T] ≤ levels and `sum_{j in c} p_j = P_c`, in w = p/q; constraints in unit size."""
    size = np.abs(table - levels).max(axis=0)
    size[size == 0] = 1.0
    w = cp.Variable(nodes.q.size, nonneg=True)
    meets = ((table - levels) / size * nodes.q[:, None]).T @ w <= 0
    whole = (nodes.sums * nodes.q) @ w == nodes.shares
    return cp.Problem(cp.Minimize(-nodes.q @ cp.entr(w)), [meets, whole]), w, meets


def perspective(
    nodes: Nodes, table: np.ndarray, levels: np.ndarray, sharing: np.ndarray
) -> tuple[cp.Problem, cp.Variable]:
    """The dual in lam, with the node masses in the exponent: q_j S exp(z/S) = S exp((z + S log q_j)/S)."""
    lam, t, bound = cp.Variable(levels.size, nonneg=True), cp.Variable(nodes.shares.size), cp.Variable(nodes.q.size)
    s = 1 - sharing @ lam
    ones = np.ones(nodes.q.size)
    log_q = np.log(nodes.q / nodes.shares[nodes.labels])
    cone = cp.ExpCone(-table @ lam - nodes.sums.T @ t + s * log_q, s * ones, bound)
    objective = cp.Maximize(-levels @ lam - nodes.shares @ t)
    return cp.Problem(objective, [cone, nodes.sums @ bound <= s * np.ones(nodes.shares.size), s >= 0]), lam


def mixture(nodes: Nodes, values: np.ndarray, levels: np.ndarray, signs: np.ndarray) -> tuple[cp.Problem, cp.Variable]:
    """The dual of KL(q‖p) with KL(q_i‖p) on the side that the sign says."""
    ratio = np.exp(values)
    own = np.array([(nodes.q * r) @ np.where(r > 0, v, 0.0) for r, v in zip(ratio.T, values.T, strict=True)])
    lam, u, z = cp.Variable(levels.size, nonneg=True), cp.Variable(nodes.q.size), cp.Variable(nodes.shares.size)
    objective = -nodes.q @ cp.rel_entr(u, nodes.sums.T @ z) + (signs * (levels - own)) @ lam
    within = nodes.sums * nodes.q / nodes.shares[:, None]
    return cp.Problem(cp.Maximize(objective), [u == 1 - (ratio * signs) @ lam, z == within @ u]), lam


def quotient(
    nodes: Nodes, values: np.ndarray, levels: np.ndarray, signs: np.ndarray, table: np.ndarray
) -> tuple[cp.Problem, cp.Variable, cp.Variable]:
    """The dual of KL(q‖p) with KL(q_i‖p) on the side that the sign says, and E_p[T] ≤ 0 for the table."""
    ratio = np.exp(values)
    own = np.array([(nodes.q * r) @ np.where(r > 0, v, 0.0) for r, v in zip(ratio.T, values.T, strict=True)])
    lam, nu = cp.Variable(levels.size, nonneg=True), cp.Variable(table.shape[1], nonneg=True)
    mu, u = cp.Variable(nodes.shares.size), cp.Variable(nodes.q.size)
    objective = -nodes.q @ cp.rel_entr(u, nodes.sums.T @ mu + table @ nu) + nodes.q @ u - nodes.shares @ mu
    objective += (signs * (levels - own)) @ lam
    return cp.Problem(cp.Maximize(objective), [u == 1 - (ratio * signs) @ lam]), lam, nu
