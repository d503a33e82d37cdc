"""Unlearning as constrained optimisation over densities: stated, solved exactly, and certified.

ratios = LogRatios(values)                  # log q_i/q at draws or quadrature nodes of q
solution = solve(ReverseKL(30.0), ratios)   # multipliers, target, cost, certificate
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from duality import confidence, point_masses, primal_dual, two_sample
from duality.checks import atoms, gaussians
from duality.forward_kl import ForwardKL
from duality.frontier import fixed_weights, frontier
from duality.joint import Joint
from duality.keep import Keep
from duality.likelihood import Likelihood
from duality.masses import MassWarning
from duality.problems import Problem
from duality.ratios import LogRatios
from duality.renyi import Renyi
from duality.reverse_kl import ReverseKL
from duality.shards import Shards
from duality.solution import FewDrawsWarning, InfeasibleError, SmallGroupsWarning, Solution, Status
from duality.solve import DualPoint, dual_function, solve
from duality.tail import TailLikelihood

if TYPE_CHECKING:
    from duality.checks import reference as reference

__all__ = [
    "DualPoint",
    "FewDrawsWarning",
    "ForwardKL",
    "InfeasibleError",
    "Joint",
    "Keep",
    "Likelihood",
    "LogRatios",
    "MassWarning",
    "Problem",
    "Renyi",
    "ReverseKL",
    "Shards",
    "SmallGroupsWarning",
    "Solution",
    "Status",
    "TailLikelihood",
    "atoms",
    "confidence",
    "dual_function",
    "fixed_weights",
    "frontier",
    "gaussians",
    "point_masses",
    "primal_dual",
    "reference",
    "solve",
    "two_sample",
]


def __getattr__(name: str) -> Any:
    if name == "reference":  # loaded on first use: it needs CVXPY, which the core does not
        return importlib.import_module("duality.checks.reference")
    raise AttributeError(f"module 'duality' has no attribute {name!r}")
