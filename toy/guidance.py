"""The four guidance rules against the exact score of the noised target, over alpha_bar.

Every rule is score_q + sum_i k_i (score_q - score_i) at the noised state; rules differ in the strengths k_i(rho_t).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

import duality as du
from toy.mixtures import Array, GaussianMixture
from toy.noised import TiltedLaw, noised_target
from toy.solving import ToySolution, log_ratios_at

Strengths = Callable[[Array], Array]


class GuidanceError(NamedTuple):
    """One rule at one noise level, both in units of 1/x: root mean square over the noised target.

    Attributes:
        error: `|guided - exact score|`.
        correction: `|exact score - score_q|`, what guidance has to supply.
    """

    rule: str
    alpha_bar: float
    error: float
    correction: float


def guided_score(
    pretrained: GaussianMixture,
    unlearn: Sequence[GaussianMixture],
    strengths: Strengths,
    x: ArrayLike,
    alpha_bar: float,
) -> Array:
    """score_q,t + sum_i k_i(rho_t) (score_q,t - score_i,t), (..., d) -> (..., d).

    Args:
        strengths: (..., m) noised log ratios -> (..., m) strengths.
    """
    base = pretrained.noised(alpha_bar)
    parts = [part.noised(alpha_bar) for part in unlearn]
    scores = np.stack([part.score(x) for part in parts], axis=-2)
    return away(base.score(x), scores, strengths(log_ratios_at(base, parts, x)))


def away(score: Array, scores: Array, strengths: Array) -> Array:
    """score_q + sum_i k_i (score_q - score_i), from (..., d), (..., m, d) and (..., m)."""
    return np.asarray(score + np.einsum("...m,...md->...d", strengths, score[..., None, :] - scores))


def rules(answer: ToySolution) -> dict[str, Strengths]:
    """The strengths that belong to a solution's problem, by name.

    ::

        RU                       a_i = lam_i/(1 - L), constant: ESD's rule at the solved strength
        FU                       lam_i r_i/(1 - sum lam r)
        LU, first order          lam_i pi_i r_i
        LU, two-valued closure   c_i pi_i r_i/(1 - sum c pi r), c = 1 - e^-lam

    Raises ``ValueError`` for likelihoods other than the posterior, which have no such rule here.
    """
    solution = answer.solution
    problem = solution.problem

    def solved(rho: Array) -> Array:
        return np.asarray(solution.guidance(rho))

    if isinstance(problem, du.ReverseKL):
        return {"RU: constant": solved}
    if isinstance(problem, du.ForwardKL):
        return {"FU: λr/(1-λr)": solved}
    if not isinstance(problem, du.Likelihood) or problem.kind != "posterior":
        raise ValueError(f"answer: RU, FU or LU with posteriors is needed, given {problem!r}")
    lam = np.asarray(solution.multipliers)

    def first_order(rho: Array) -> Array:
        return lam * np.asarray(problem.likelihoods(rho))

    return {"LU: first order": first_order, "LU: two-valued closure": solved}


def guidance_errors(answer: ToySolution, alpha_bars: Sequence[float], per_axis: int = 41) -> list[GuidanceError]:
    """Root-mean-square errors of a solution's rules under its noised target, by a trapezoid rule over x_t.

    Deterministic. Raises what ``rules`` and ``noised_target`` raise.

    Args:
        per_axis: nodes per coordinate of the lattice over which errors are averaged; they are smooth, so that three
            digits of the averages need no more.
    """
    target = noised_target(answer)
    out = []
    for alpha_bar in alpha_bars:
        x = _lattice(answer, alpha_bar, per_axis)
        if isinstance(target, TiltedLaw):
            log_density, exact = target.log_prob_and_score(x, alpha_bar)
        else:
            log_density, exact = target.log_prob(x, alpha_bar), target.score(x, alpha_bar)
        mass = np.exp(log_density - log_density.max())
        mass /= mass.sum()
        base = answer.pretrained.noised(alpha_bar).score(x)
        correction = np.sqrt(mass @ np.square(exact - base).sum(axis=1))
        for name, strengths in rules(answer).items():
            found = guided_score(answer.pretrained, answer.unlearn, strengths, x, alpha_bar)
            error = np.sqrt(mass @ np.square(found - exact).sum(axis=1))
            out.append(GuidanceError(name, float(alpha_bar), float(error), float(correction)))
    return out


def guidance_table(errors: Sequence[GuidanceError]) -> str:
    """Rules down, noise levels across: error, and in the last line of each rule the size of the correction."""
    levels = sorted({one.alpha_bar for one in errors}, reverse=True)
    head = f"{'rms error (correction)':<26}" + "".join(f"{f'alpha_bar {level:g}':>20}" for level in levels)
    lines = [head]
    for rule in dict.fromkeys(one.rule for one in errors):
        found = {one.alpha_bar: one for one in errors if one.rule == rule}
        cells = [f"{found[level].error:.2e} ({found[level].correction:.2f})" for level in levels]
        lines.append(f"{rule:<26}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def _lattice(answer: ToySolution, alpha_bar: float, per_axis: int) -> Array:
    """Points that cover the noised target: those of its grid that carry mass, moved and widened by the noise."""
    kept = answer.nodes.points[np.asarray(answer.solution.log_weights) > np.log(1e-12)]
    spread = 5 * np.sqrt(1 - alpha_bar)
    lower = np.sqrt(alpha_bar) * kept.min(axis=0) - spread
    upper = np.sqrt(alpha_bar) * kept.max(axis=0) + spread
    axes = [np.linspace(a, b, per_axis) for a, b in zip(lower, upper, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
