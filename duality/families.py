"""The two forms that constraints of all kinds take, one for each cost: what lets them be joined."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """T `(n, m)`, beta `(m,)` and s `(m,)` of constraints E_p[T_i] - s_i KL(p‖q) ≤ beta_i; s is 0, 1 or -1."""

    table: np.ndarray
    limits: np.ndarray
    sharing: np.ndarray


class Mixtures(NamedTuple):
    """rho `(n, m)`, b `(m,)` and s `(m,)` of constraints s_i KL(q_i‖p) ≥ s_i b_i; s is 1 or -1."""

    values: np.ndarray
    levels: np.ndarray
    signs: np.ndarray
