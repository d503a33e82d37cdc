"""Random problems of several kinds in groups, each held against CVXPY and the definitions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from grouped import divergences, grouped_space

import duality as du

Maker = Callable[[np.random.Generator, np.ndarray], du.Problem]
MAKERS: dict[str, Maker] = {
    "keep": lambda rng, own: du.Keep(np.clip(own * rng.uniform(0.8, 1.9, 3), 0, 0.98)),
    "likelihood, keep": lambda rng, own: du.Joint(
        [du.Likelihood(own[0] * rng.uniform(0.1, 1.0), kind="detector"), du.Keep(own[1:] * rng.uniform(0.8, 1.4, 2))]
    ),
    "reverse, likelihoods, keep": lambda rng, own: du.Joint(
        [
            du.ReverseKL(rng.uniform(0.1, 2.5, 2)),
            du.Likelihood(rng.uniform(0.06, 0.31)),
            du.Likelihood(own[0] * rng.uniform(0.3, 1.0), kind="detector"),
            du.Keep(own[1:] * rng.uniform(0.8, 1.3, 2)),
        ]
    ),
    "reverse, keep reverse": lambda rng, own: du.Joint(
        [du.ReverseKL(rng.uniform(0.1, 2.5)), du.Keep(rng.uniform(0.1, 0.8, 2), kind="reverse-kl")]
    ),
    # Levels far out, where the multipliers leave S = 0: the target is a limit, and the value is that of the least cost.
    "far: reverse, likelihood, keep reverse": lambda rng, own: du.Joint(
        [
            du.ReverseKL(rng.uniform(0.5, 6.0, 2)),
            du.Likelihood(own * rng.uniform(0.6, 1.2, 3), kind="detector"),
            du.Keep(rng.uniform(0.5, 8.0), kind="reverse-kl"),
        ]
    ),
    "forward, keep forward": lambda rng, own: du.Joint(
        [du.ForwardKL(rng.uniform(0.1, 1.5)), du.Keep(rng.uniform(0.05, 0.8, 2), kind="forward-kl")]
    ),
    "forward, likelihood": lambda rng, own: du.Joint(
        [
            du.Likelihood(own[0] * rng.uniform(0.1, 1.0), kind="detector"),
            du.ForwardKL(rng.uniform(0.1, 1.5, 3)),
            du.Keep(own[1:] * rng.uniform(0.8, 1.4, 2)),
        ]
    ),
    "forward, keep forward, likelihood, keep": lambda rng, own: du.Joint(
        [
            du.ForwardKL(rng.uniform(0.1, 1.5)),
            du.Likelihood(rng.uniform(0.06, 0.31)),
            du.Keep(rng.uniform(0.05, 0.8), kind="forward-kl"),
            du.Keep(own * rng.uniform(0.7, 1.15, 3)),
        ]
    ),
    "keep reverse": lambda rng, own: du.Keep(rng.uniform(0.05, 0.8, 3), kind="reverse-kl"),
    "keep forward": lambda rng, own: du.Keep(rng.uniform(0.05, 0.8, 3), kind="forward-kl"),
}


def reached(problem: du.Problem, ratios: du.LogRatios, log_p: np.ndarray) -> tuple[float, list[float]]:
    """Cost and levels of any density by their definitions, group by group; parts read columns in order."""
    parts = problem.problems if isinstance(problem, du.Joint) else (problem,)
    p, q = np.exp(log_p), np.exp(ratios.log_weights)
    parts_of_q = q[:, None] * np.exp(ratios.values)
    levels: list[float] = []
    column = {"values": 0, "detectors": 0}
    forward = False
    for part in parts:
        kind = getattr(part, "kind", {"ReverseKL": "reverse-kl", "ForwardKL": "forward-kl"}.get(type(part).__name__))
        source = "detectors" if kind == "detector" else "values"
        for _ in range(part.levels.size):
            i = column[source]
            column[source] += 1
            if kind == "detector":
                levels.append(float(p @ ratios.detectors[:, i]))
            elif kind == "posterior":
                levels.append(float(p @ (0.3 * np.exp(ratios.values[:, i]))))
            else:
                pair = (p, parts_of_q[:, i]) if kind == "reverse-kl" else (parts_of_q[:, i], p)
                levels.append(divergences(*pair, ratios.groups, ratios.group_weights))
        forward = forward or kind == "forward-kl"
    pair = (q, p) if forward else (p, q)
    return divergences(*pair, ratios.groups, ratios.group_weights), levels


def agree(kind: str, seed: int) -> str:
    """One random instance against CVXPY and the definitions; its status, or "INFEASIBLE"."""
    rng = np.random.default_rng(seed)
    ratios = grouped_space(rng, detectors=3, m=3)
    problem = MAKERS[kind](rng, np.exp(ratios.log_weights) @ ratios.detectors)
    try:
        ours = du.solve(problem, ratios)
    except du.InfeasibleError as error:
        with pytest.raises(ValueError, match="CVXPY"):
            du.reference.solve(problem, ratios)
        relaxed_is_least(problem, ratios, error)
        return "INFEASIBLE"
    theirs = du.reference.solve(problem, ratios)
    assert abs(ours.dual - theirs.value) <= 1e-7 * (1 + abs(theirs.value)), (seed, str(ours), theirs.value)
    assert ours.gap <= 1e-9, (seed, str(ours))
    cost, levels = reached(ours.problem, ratios, ours.log_weights)
    assert ours.primal == pytest.approx(cost, rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(ours.levels, levels, rtol=1e-8, atol=1e-10)
    if ours.status is du.Status.OPTIMAL:
        side = np.asarray(ours.problem.direction) * (ours.levels - ours.problem.levels)
        assert (side >= -1e-7).all()
        np.testing.assert_allclose(side[ours.multipliers > 0], 0, atol=1e-7)
        # The target is the tilt that `log_weight` says, with one normaliser for each group.
        if np.isnan(ours.natural).any():
            with pytest.raises(ValueError, match="every group has a mass multiplier"):
                ours.log_weight(ours.problem.inputs(ratios))
            return ours.status.name
        log_w = ratios.log_weights + ours.log_weight(ours.problem.inputs(ratios))
        p = np.exp(log_w)
        p *= (ratios.group_weights / np.bincount(ratios.groups, weights=p))[ratios.groups]
        np.testing.assert_allclose(p, np.exp(ours.log_weights), atol=1e-9)
    return ours.status.name


def relaxed_is_least(problem: du.Problem, ratios: du.LogRatios, error: du.InfeasibleError) -> None:
    """The least relaxation by CVXPY, and that the constraints named conflict, and without any one of them do not."""
    from relaxed import forms, least_share  # it needs CVXPY

    bound = problem.bind(ratios)
    kinds = forms(bound)
    gaps = np.maximum(-bound.slack_of(ratios, ratios.log_weights), 0)
    if not any(kind.startswith("keep-") for kind in kinds):  # what is to be unlearned by KL can always be had
        gaps[[kind in ("ru", "fu") for kind in kinds]] = 0
    least = least_share(bound, ratios, gaps, np.ones(gaps.size, dtype=bool))
    assert 0 < least <= 1 + 1e-7
    np.testing.assert_allclose(error.least, bound.levels - bound.direction * least * gaps, atol=3e-7)
    named = np.isin(np.arange(gaps.size), error.conflict)
    # By how much they conflict depends on the unit; whether, does not.
    assert least_share(bound, ratios, np.ones(gaps.size), named) > -1e-8
    for one in error.conflict:
        rest = named & (np.arange(gaps.size) != one)
        assert not rest.any() or least_share(bound, ratios, np.ones(gaps.size), rest) < 1e-7
