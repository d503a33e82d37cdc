"""The dual function of a problem, refused where it has one normaliser and the ratios have several groups."""

from __future__ import annotations

from duality.dual_protocol import Dual
from duality.exponential_dual import ExponentialDual
from duality.mixture_dual import MixtureDual
from duality.problems import Problem
from duality.ratios import LogRatios


def dual_of(problem: Problem, ratios: LogRatios) -> Dual:
    """`problem.dual(ratios)`.

    Args:
        problem: bound to the ratios.
        ratios: the nodes.

    Raises:
        ValueError: for a dual function with one normaliser for all nodes where these are in several groups: its
            maximum would be the answer to another problem.
    """
    dual = problem.dual(ratios)
    if ratios.grouped and isinstance(dual, (ExponentialDual, MixtureDual)) and not hasattr(dual, "log_mean_bias"):
        raise ValueError(
            f"groups: {ratios.partition.count} given, but the dual function of {type(problem).__name__} is"
            f" {type(dual).__name__}, which has one normaliser for all of them; state the constraints as `statistics`"
            " and return `FamilyDual`, which has one for each, or leave the groups out"
        )
    return dual
