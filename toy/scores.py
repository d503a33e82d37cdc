"""The score of a target at the data: what its tilt adds to the score of q, for every kind of constraint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import duality as du
from toy.mixtures import Array
from toy.solving import Problem, ToySolution


def score_of_target(toy: ToySolution, x: ArrayLike) -> Array:
    """grad log p*(x) = score_q + sum_i k_i (score_q - score_i), k_i = -d log w/d rho_i, (..., d) -> (..., d).

    For the density likelihood l_i = q_i(x), which is no function of the ratio, its term is -lam_i q_i score_i.
    """
    base = toy.pretrained.score(x)
    scores = np.stack([part.score(x) for part in toy.unlearn], axis=-2)
    inputs = toy.inputs(x)
    out = base
    for part in _parts(toy.solution):
        held, score = inputs[..., part.columns], scores[..., part.columns, :]
        if part.problem is None:  # FU, one mixture of all
            away = np.asarray(toy.solution.guidance(inputs))
        elif isinstance(part.problem, du.ReverseKL):
            away = np.broadcast_to(part.natural, held.shape)
        elif part.problem.kind == "density":
            factors = part.sign * part.natural * np.asarray(part.problem.likelihoods(held))
            out = out - np.einsum("...m,...md->...d", factors, score)
            continue
        elif part.problem.kind == "log-ratio":
            away = np.broadcast_to(part.sign * part.natural, held.shape)
        else:
            # At the data the derivative of exp(-lam l) is lam l; Solution.guidance is the closure for noised states.
            away = part.sign * part.natural * np.asarray(part.problem.likelihoods(held))
        out = out + np.einsum("...m,...md->...d", away, base[..., None, :] - score)
    return out


class _Part(NamedTuple):
    """Columns that share one kind of tilt; sign : -1 for what is to be kept. problem : None for FU."""

    problem: du.ReverseKL | du.Likelihood | None
    columns: slice
    natural: Array
    sign: float


def _parts(solution: du.Solution) -> Iterator[_Part]:
    problem, natural = solution.problem, np.asarray(solution.natural)
    parts: tuple[Problem, ...] = problem.problems if isinstance(problem, du.Joint) else (problem,)
    if isinstance(parts[0], du.ForwardKL):
        yield _Part(None, slice(None), natural, 1.0)
        return
    begin = 0
    for part in parts:
        columns = slice(begin, begin + part.levels.size)
        begin = columns.stop
        inner, sign = (part.of, -1.0) if isinstance(part, du.Keep) else (part, 1.0)
        if not isinstance(inner, du.ReverseKL | du.Likelihood) or (sign < 0 and isinstance(inner, du.ReverseKL)):
            raise ValueError(f"toy: the score of {part!r} is not known")
        yield _Part(inner, columns, natural[columns], sign)
