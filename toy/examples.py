"""Named mixtures to look at, with levels at which each problem has something to do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import duality as du
from toy.mixtures import GaussianMixture

Problem = du.Problem
Levels = float | tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Example:
    """q, the q_i to be unlearned, their priors, and the problems at levels that bind.

    Attributes:
        priors: (m,), the share pi_i of q that shows concept i.
        problems: RU, FU and LU where all three make sense.
    """

    name: str
    title: str
    pretrained: GaussianMixture
    unlearn: tuple[GaussianMixture, ...]
    priors: tuple[float, ...]
    problems: tuple[Problem, ...]


def worked() -> Example:
    """q = .3 N((-3,0), .5 I) + .4 N((0,3), .5 I) + .3 N((3,0), .5 I), q_1 its first component: three modes apart."""
    q = GaussianMixture([0.3, 0.4, 0.3], [[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]], 0.5)
    return Example("worked", "Three modes, one to go", q, (q.component(0),), (0.3,), _three(30.0, 4.0, 0.01, 0.3))


def overlapping() -> Example:
    """The unwanted mode sits on the shoulder of one that must stay: removal and retention pull at the same draws."""
    q = GaussianMixture([0.35, 0.65], [[-0.9, 0.0], [0.9, 0.4]], [0.5, 0.8])
    return Example("overlapping", "Two modes that overlap", q, (q.component(0),), (0.35,), _three(4.0, 1.5, 0.1, 0.35))


def unequal() -> Example:
    """Correlated covariances of different shape: constant-strength guidance is wrong here at every noise level."""
    covariances = [[[0.9, 0.7], [0.7, 0.7]], [[0.25, 0.0], [0.0, 1.6]], [[1.2, -0.4], [-0.4, 0.3]]]
    q = GaussianMixture([0.4, 0.35, 0.25], [[-2.0, -1.0], [1.5, 0.5], [0.0, 3.0]], covariances)
    return Example("unequal", "Modes of unequal shape", q, (q.component(1),), (0.35,), _three(20.0, 2.0, 0.03, 0.35))


def several() -> Example:
    """Three of six modes on a circle must go, to different levels: each has its own multiplier."""
    angle = 2 * np.pi * np.arange(6) / 6
    means = 3.0 * np.column_stack([np.cos(angle), np.sin(angle)])
    q = GaussianMixture([0.1, 0.2, 0.15, 0.2, 0.2, 0.15], means, 0.3)
    gone = (0, 1, 3)
    return Example(
        "several",
        "Three of six modes to go",
        q,
        tuple(q.component(k) for k in gone),
        (0.1, 0.2, 0.2),
        _three((36.0, 35.0, 30.0), (3.5, 3.0, 4.0), (0.02, 0.01, 0.05), (0.1, 0.2, 0.2)),
    )


def disjoint() -> Example:
    """Modes 16 standard deviations apart: the closed forms for disjoint supports hold to rounding."""
    q = GaussianMixture([0.3, 0.7], [[-4.0, 0.0], [4.0, 0.0]], 0.25)
    return Example("disjoint", "Supports apart", q, (q.component(0),), (0.3,), _three(150.0, 3.0, 0.02, 0.3))


def gaussians() -> Example:
    """q = N(0, I), q_1 = N((2, 0), I): the target is N(-a mu, I), which leaves where it came from."""
    q = GaussianMixture([1.0], [[0.0, 0.0]], 1.0)
    away = GaussianMixture([1.0], [[2.0, 0.0]], 1.0)
    # No prior makes q_1 a part of q, and ess inf q/q_1 = 0 leaves FU only lam = 0: RU and its LU counterpart remain.
    problems = (du.ReverseKL(np.array([6.0])), du.Likelihood(np.array([-4.0]), kind="log-ratio"))
    return Example("gaussians", "One Gaussian away from another", q, (away,), (), problems)


EXAMPLES = {make.__name__: make for make in (worked, overlapping, unequal, several, disjoint, gaussians)}


def example(name: str) -> Example:
    """The example of that name. Raises ``ValueError`` with the known names otherwise."""
    if name not in EXAMPLES:
        raise ValueError(f"name: one of {', '.join(EXAMPLES)} is needed, given {name!r}")
    return EXAMPLES[name]()


def _three(reverse: Levels, forward: Levels, posterior: Levels, priors: Levels) -> tuple[Problem, ...]:
    """RU and FU at levels in nats, LU at posterior levels (probabilities)."""
    levels = [np.atleast_1d(np.asarray(given, dtype=np.float64)) for given in (reverse, forward, posterior, priors)]
    return (
        du.ReverseKL(levels[0]),
        du.ForwardKL(levels[1]),
        du.Likelihood(levels[2], kind="posterior", priors=levels[3]),
    )
