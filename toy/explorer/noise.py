"""The noise part: the noised target, its score, each guidance rule's field with its error, and reverse processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

import duality as du
from toy import guidance
from toy.explorer.posed import parts_of
from toy.explorer.shapes import Window
from toy.explorer.views import View
from toy.mixtures import Array
from toy.noised import NoisedLaw, TiltedLaw, noised_target
from toy.quadrature import Nodes
from toy.samplers import ddpm_step, predicted_clean
from toy.schedules import squaredcos_cap_v2
from toy.solving import ToySolution, log_ratios_at

# The exact score is a sum over a grid that must resolve the kernel. Above this level the kernel is narrower than any
# grid affordable here, and the data's own score is the better picture.
MOST_ALPHA_BAR = 0.995
LATTICE, EVERY = 37, 3  # points per axis where errors are measured; every third of them gets an arrow
_LARGEST_GRID = 401
NO_GUIDANCE, USUAL = "no guidance", "constant k = 1"

ScoreOf = Callable[[Array, float], Array]


@dataclass(frozen=True, eq=False)
class RuleField:
    """One rule on the lattice: its field (n, n, 2), the size of its error (n, n), and that error's root mean square
    under the noised target, all in 1/(unit of x)."""

    name: str
    field: Array
    error: Array
    rms: float


@dataclass(frozen=True, eq=False)
class NoiseView:
    """The noised target on a square: density (n, n), exact field (n, n, 2), root mean square of the
    correction `|exact - score of q|`, which guidance has to supply, and the rules."""

    alpha_bar: float
    square: Window
    density: Array
    exact: Array
    correction: float
    rules: tuple[RuleField, ...]


@dataclass(frozen=True, eq=False)
class Chains:
    """Two reverse processes from the same noise: levels (s,), states (s, n, 2) of each; the last are the draws."""

    levels: Array
    exact: Array
    guided: Array
    rule: str


@dataclass(frozen=True, eq=False)
class _Refined(ToySolution):
    """A solution on other nodes than it was solved on: log Z, which was known there, comes along."""

    known: float

    @cached_property
    def log_normaliser(self) -> float:
        return self.known


class Noised(NamedTuple):
    """q and the q_i at points (...) and one noise level, which all rules share: score of q (..., 2), scores of the q_i
    (..., m, 2), log ratios and log densities (..., m)."""

    base: Array
    scores: Array
    rho: Array
    log_densities: Array

    def guided(self, strengths: Array) -> Array:
        """score_q + sum_i k_i (score_q - score_i), (..., m) -> (..., 2)."""
        return guidance.away(self.base, self.scores, strengths)

    def minus(self, factors: Array) -> Array:
        """score_q - sum_i f_i score_i: the density likelihood is no function of the ratio, so this is no k(rho).

        With f_i = lam_i q_i,t it is grad(log q_t - sum_i lam_i q_i,t).
        """
        return np.asarray(self.base - np.einsum("...m,...md->...d", factors, self.scores))


@dataclass(frozen=True, eq=False)
class Rule:
    """A guided score (x, alpha_bar) -> (..., 2); ``field`` is the same from what all rules of an answer share."""

    answer: ToySolution
    field: Callable[[Noised], Array]

    def __call__(self, x: Array, alpha_bar: float) -> Array:
        return self.field(noised(self.answer, x, alpha_bar))


def noised(answer: ToySolution, x: Array, alpha_bar: float) -> Noised:
    """Scores and log ratios of q and the q_i at x (..., 2), noised."""
    base = answer.pretrained.noised(alpha_bar)
    parts = [part.noised(alpha_bar) for part in answer.unlearn]
    return Noised(
        base.score(x),
        np.stack([part.score(x) for part in parts], axis=-2),
        log_ratios_at(base, parts, x),
        np.stack([part.log_prob(x) for part in parts], axis=-1),
    )


def rules(answer: ToySolution) -> dict[str, Rule]:
    """Guided scores (x, alpha_bar) -> (..., 2) by name: those of the problem, the usual constant, and none at all."""
    problem = answer.solution.problem
    first, *kept = parts_of(problem)
    m = first.levels.size  # of what is to be unlearned; what is to be kept comes after
    strengths: dict[str, guidance.Strengths] = {}
    found: dict[str, Rule] = {}
    if kept and getattr(first, "kind", "") == "density":
        pass  # neither a function of the ratios alone, nor of the densities
    elif kept:
        # For FU this is exact, as its ratios are; posteriors are closed as if they had two values.
        strengths["FU and keep" if isinstance(first, du.ForwardKL) else f"{name_of(first)} and keep: closure"] = (
            lambda rho: np.asarray(answer.solution.guidance(rho))
        )
    elif isinstance(problem, du.Likelihood) and problem.kind == "density":
        lam = np.asarray(answer.solution.multipliers)
        found["LU: first order"] = Rule(answer, lambda at: at.minus(lam * np.exp(at.log_densities)))
    elif isinstance(problem, du.Likelihood) and problem.kind == "log-ratio":
        strengths["LU: constant λ"] = lambda rho: np.asarray(answer.solution.guidance(rho))
    else:
        strengths.update(guidance.rules(answer))
    # What is commonly done without solving anything: every concept is pushed away with strength one, spread evenly.
    usual = np.append(np.full(m, 1.0 / m), np.zeros(len(answer.unlearn) - m))
    strengths[USUAL] = lambda rho: np.broadcast_to(usual, rho.shape)
    strengths[NO_GUIDANCE] = np.zeros_like
    for name, rule in strengths.items():
        found[name] = Rule(answer, _guided(rule))
    return found


def name_of(problem: du.Problem) -> str:
    """RU or LU, whose targets have the cost KL(p‖q)."""
    return "RU" if isinstance(problem, du.ReverseKL) else "LU"


def noise_view(view: View, square: Window) -> NoiseView:
    """Fields and errors at the view's noise level. The view must have an answer."""
    assert view.answer is not None
    answer = view.answer
    alpha_bar = usable(view.state.alpha_bar)
    target = exact_law(answer, alpha_bar)
    x = square.lattice(LATTICE)
    if isinstance(target, TiltedLaw):
        log_density, exact = target.on_lattice(square.axes(LATTICE), alpha_bar)
    else:
        log_density, exact = target.log_prob(x, alpha_bar), target.score(x, alpha_bar)
    density = np.exp(log_density - log_density.max())
    mass = density / density.sum()
    shared = noised(answer, x, alpha_bar)
    correction = float(np.sqrt((mass * np.square(exact - shared.base).sum(axis=-1)).sum()))
    found = []
    for name, rule in rules(answer).items():
        field = rule.field(shared)
        error = np.sqrt(np.square(field - exact).sum(axis=-1))
        found.append(RuleField(name, field, error, float(np.sqrt((mass * error**2).sum()))))
    return NoiseView(alpha_bar, square, density, exact, correction, tuple(found))


def exact_law(answer: ToySolution, alpha_bar: float) -> NoisedLaw:
    """The noised target, on a grid as fine as this noise level asks for (FU needs none)."""
    if isinstance(answer.solution.problem, du.ForwardKL) or alpha_bar == 1 or answer.nodes.axes is None:
        return noised_target(answer)
    width = np.sqrt((1 - alpha_bar) / alpha_bar)
    parts = (answer.pretrained, *answer.unlearn)
    narrowest = min(float(np.linalg.eigvalsh(part.covariances)[:, 0].min()) for part in parts) ** 0.5
    # The rule of TiltedLaw: kernel times target must span 1.4 spacings, or it falls back on a sum at each point.
    spacing = width * narrowest / np.hypot(width, narrowest) / 1.45
    if max(float(axis[1] - axis[0]) for axis in answer.nodes.axes) <= spacing:
        return noised_target(answer)
    # Only where the target lives: a box that may leave out the concept itself.
    axes = []
    for low, high in zip(*_support(answer), strict=True):
        count = min(int(np.ceil((high - low) / spacing)) + 1, _LARGEST_GRID)
        axes.append(np.linspace(low, high, max(count, 31)))
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log_masses = answer.log_target(points)
    log_masses = log_masses - log_masses.max()
    log_masses -= np.log(np.exp(log_masses).sum())
    solution = replace(answer.solution, log_weights=log_masses)
    nodes = Nodes(points, axes=(axes[0], axes[1]))
    return noised_target(
        _Refined(solution, answer.ratios, nodes, answer.pretrained, answer.unlearn, answer.log_normaliser)
    )


def chains(view: View, rule: str, generator: np.random.Generator, n: int = 250, steps: int = 48) -> Chains:
    """DDPM from the same noise with the exact score of the target and with a guided one.

    The levels are those of the squared-cosine schedule up to the finest that the exact score has; one step to the
    posterior mean ends both. Raises ``ValueError`` for a rule that the problem does not have.
    """
    assert view.answer is not None
    known = rules(view.answer)
    if rule not in known:
        raise ValueError(f"rule: one of {', '.join(known)} is needed, given {rule!r}")
    levels = squaredcos_cap_v2().levels(steps)
    levels = np.append(levels[levels <= MOST_ALPHA_BAR], 1.0)
    start = generator.standard_normal((n, 2))
    noises = generator.standard_normal((len(levels) - 2, n, 2))
    laws = _laws(view.answer, levels)
    exact = _chain(lambda x, level: laws(level).score(x, level), levels, start, noises)
    guided = _chain(known[rule], levels, start, noises)
    return Chains(levels, exact, guided, rule)


def usable(alpha_bar: float) -> float:
    """The level at which fields are shown: as given up to ``MOST_ALPHA_BAR``, from there on the data itself."""
    return 1.0 if alpha_bar > MOST_ALPHA_BAR else alpha_bar


def _laws(answer: ToySolution, levels: Array) -> Callable[[float], NoisedLaw]:
    """Grids for a whole chain: one for the finer half of the levels, the solver's own for the rest."""
    if isinstance(answer.solution.problem, du.ForwardKL):
        law = noised_target(answer)
        return lambda level: law
    finest, middle = exact_law(answer, float(levels[-2])), exact_law(answer, 0.9)
    return lambda level: finest if level > 0.9 else middle


def _chain(score: ScoreOf, levels: Array, start: Array, noises: Array) -> Array:
    states = [start]
    x = start
    for (now, after), noise in zip(itertools.pairwise(levels[:-1].tolist()), noises, strict=True):
        x = ddpm_step(x, score(x, now), now, after, noise)
        states.append(x)
    last = float(levels[-2])
    states.append(predicted_clean(x, score(x, last), last))
    return np.array(states)


def _guided(strengths: guidance.Strengths) -> Callable[[Noised], Array]:
    return lambda at: at.guided(strengths(at.rho))


def _support(answer: ToySolution, least: float = 1e-12) -> tuple[Array, Array]:
    """The corners of the box that holds the target's mass but for about 1e-9."""
    kept = answer.nodes.points[np.asarray(answer.solution.log_weights) > np.log(least)]
    return kept.min(axis=0), kept.max(axis=0)
