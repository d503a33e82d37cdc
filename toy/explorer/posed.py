"""The problem of a view, on all prompts at once and under one of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import duality as du
from toy import prompts
from toy.explorer.boards import Stage
from toy.explorer.scenes import Scene
from toy.explorer.state import EntryError, State


def check_concepts(state: State, places: tuple[Scene, ...]) -> None:
    """``EntryError`` at the concept that the chosen problem cannot be posed on."""
    for i in range(state.m):
        for one in places:
            part = one.unlearn[i]
            if len(part) == len(one.pretrained) and repr(part) == repr(one.pretrained):
                raise EntryError(f"concept {i + 1}", f"q_{i + 1} is q itself: there is nothing to tell them apart by")
        if state.key == "LU posterior" and all(one.priors[i] <= 0 for one in places):
            raise EntryError(
                f"concept {i + 1}",
                f"q_{i + 1} has a mode that q lacks, so no share of q is concept {i + 1} and its posterior means "
                "nothing: take the density or the log ratio, or give that mode a weight in q",
            )


def check_levels(state: State, levels: tuple[float, ...]) -> None:
    """``EntryError`` at the level that makes no sense."""
    for i, level in enumerate(levels):
        if not np.isfinite(level):
            raise EntryError(f"level {i + 1}", f"level {i + 1}: a finite number is needed")
        if level < 0 and state.key in ("RU", "FU"):
            raise EntryError(
                f"level {i + 1}",
                f"level {i + 1}: a Kullback-Leibler divergence is never negative; ask for 0 nats or more",
            )
        if level > 1 and state.key == "LU posterior":
            raise EntryError(
                f"level {i + 1}",
                f"level {i + 1}: a mean posterior lies between 0 and 1, given {level:g}; ask for 1 or less",
            )
        if level <= 0 and state.key in ("LU posterior", "LU density"):
            what = "a mean posterior lies between 0 and 1" if state.kind == "posterior" else "a density is above 0"
            raise EntryError(
                f"level {i + 1}",
                f"level {i + 1}: {what}, so no target has {level:g}; the least is 0, in the limit: ask for more than 0",
            )


def problem_of(state: State, stage: Stage, levels: tuple[float, ...]) -> du.Problem:
    """The problem of a view, to be solved on ``stage.ratios``.

    Raises ``EntryError`` at the level, the mode or the concept that makes no sense.
    """
    check_levels(state, levels)
    for k, shares in zip(state.keeping, np.transpose([board.scene.shares for board in stage.boards]), strict=True):
        if not shares.any():
            raise EntryError(f"mode {k + 1}", f"mode {k + 1}: q has none of it, so there is nothing to keep")
    values = np.array(levels)
    if state.problem == "RU":
        first: du.Problem = du.ReverseKL(values)
    elif state.problem == "FU":
        first = du.ForwardKL(values)
    elif state.kind != "posterior":
        first = du.Likelihood(values, kind=state.kind)
    elif stage.plain:
        first = du.Likelihood(values, priors=np.array(stage.boards[0].scene.priors))
    else:
        first = du.Likelihood(values, kind="detector")
    return joint(first, state, stage, state.keeping)


def joint(first: du.Problem, state: State, stage: Stage, keeping: tuple[int, ...]) -> du.Problem:
    """The problem that unlearns beside the constraints that keep some of the modes of ``state.keeping``.

    E_c E_p[Pr(mode|x)] is to be at least a part of what q has. FU, whose constraints are divergences, asks for E_c
    KL(mode‖p) of at most KL(mode‖q) less the logarithm of that part, which is the same where modes are far apart.
    """
    if not state.keeping:
        return first
    own = np.arange(state.m)
    if not keeping:
        return du.Joint([first], columns=[own])
    columns = state.m + np.array([state.keeping.index(k) for k in keeping])
    parts = np.array([state.modes[k].keep for k in keeping])
    if state.problem == "FU":
        rho = stage.ratios.values[:, columns]
        under = np.exp(rho + stage.ratios.log_weights[:, None])
        kept = du.Keep((under * rho).sum(axis=0) - np.log(parts), kind="forward-kl")
    else:
        assert stage.ratios.detectors is not None
        kept = du.Keep(parts * (np.exp(stage.ratios.log_weights) @ stage.ratios.detectors[:, columns]))
    return du.Joint([first, kept], columns=[own, columns])


def under(solution: du.Solution, stage: Stage, prompt: int) -> du.Solution:
    """The solution as one of the law under one prompt: its masses there, and a problem that reads log ratios alone."""
    if stage.plain:
        return solution
    board = stage.boards[prompt]
    priors, begin, parts = np.clip(board.priors, 1e-12, 1 - 1e-12), 0, []
    for part in parts_of(solution.problem):
        own = priors[begin : begin + part.levels.size]
        begin += part.levels.size
        if isinstance(part, du.Likelihood) and part.kind == "detector":
            part = du.Likelihood(part.levels, priors=own)
        elif isinstance(part, du.Keep) and part.kind == "detector":
            part = du.Keep(part.levels, kind="posterior", priors=own)
        parts.append(part)
    alone = parts[0] if len(parts) == 1 else du.Joint(parts)
    masses = prompts.under(solution.log_weights, stage.ratios, prompt)
    return replace(solution, problem=alone.bind(board.all_ratios), log_weights=masses)


def parts_of(problem: du.Problem) -> tuple[du.Problem, ...]:
    """What unlearns, and what keeps, if anything does."""
    return problem.problems if isinstance(problem, du.Joint) else (problem,)


def direction(problem: du.Problem, index: int) -> float:
    """+1 where the level of a constraint is to be reached at least, -1 where at most."""
    return float(np.broadcast_to(problem.direction, problem.levels.shape)[index])
