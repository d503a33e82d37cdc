"""Theorems about FU beside bounded expectations, and about levels that conflict: answers known from construction."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq

import duality as du
from toy.mixtures import Array
from toy.verification.table import theorem
from toy.verification.theorems_groups import Space, error, space


def mass_multipliers(made: Space, u: Array, push: Array) -> Array:
    """mu (C,) with `sum_{j in c} q_j u_j / (mu_c + push_j) = P(c)`, by bisection, group by group."""
    found = np.empty(made.shares.size)
    for c, share in enumerate(made.shares):
        inside = made.groups == c
        q, v, lift = made.q[inside] / share, u[inside], push[inside] - push[inside].min()

        def excess(log_distance: float, q: Array = q, v: Array = v, lift: Array = lift) -> float:
            return float(q @ (v / (np.exp(log_distance) + lift))) - 1.0

        at = float(brentq(excess, -80.0, 80.0, xtol=1e-15, rtol=1e-15, maxiter=500))
        found[c] = np.exp(at) - push[inside].min()
    return found


@theorem(
    "quotient",
    "FU beside LU and keep-constraints: p = q u/(mu + nu l), one mass multiplier a group: cost = dual",
    1e-10,
)
def quotient(generator: np.random.Generator) -> float:
    made = space(generator)
    rho, seen, q = made.ratios.values, made.ratios.detectors, made.q
    assert seen is not None
    parts = q[:, None] * np.exp(rho)
    kappa = generator.uniform(0.05, 1.0)
    room = float(((1 + kappa * np.exp(rho[:, 1])) / np.exp(rho[:, 0])).min())
    lam = generator.uniform(0.05, 0.95) * min(room, 1 + kappa)
    u = 1 + kappa * np.exp(rho[:, 1]) - lam * np.exp(rho[:, 0])
    most, least = 10 ** generator.uniform(-1.0, 1.0, size=2)
    push = most * seen[:, 0] - least * seen[:, 1]
    eta = mass_multipliers(made, u, push)[made.groups] + push
    p = q * u / eta
    p *= (made.shares / made.within(p))[made.groups]
    levels = [made.divergence(part, p) for part in parts.T]
    above, below = p @ seen
    mu = eta - push + most * above - least * below
    own = [float(part @ log) for part, log in zip(parts.T, rho.T, strict=True)]
    dual = lam * (levels[0] - own[0]) - kappa * (levels[1] - own[1])
    dual += float(q @ (u - u * np.log(u / eta) - mu))
    problem = du.Joint(
        [
            du.Likelihood(above, kind="detector"),
            du.ForwardKL(levels[0]),
            du.Keep(levels[1], kind="forward-kl"),
            du.Keep(below),
        ],
        columns=[[0], [0], [1], [1]],
    )
    return error(made, problem, made.divergence(q, p), dual, np.log(p))


@theorem(
    "conflict", "levels of several kinds that conflict are refused with the least relaxation, max h(y)", 1e-10, every=5
)
def conflict(generator: np.random.Generator) -> float:
    """The density that attains inf_p y·miss(p), with levels such that it misses each by one part t of what q misses."""
    made = space(generator)
    rho, seen, q = made.ratios.values, made.ratios.detectors, made.q
    assert seen is not None
    forward = bool(generator.random() < 0.5)
    parts = q[:, None] * np.exp(rho)
    for _ in range(50):
        unlearn, keep, most = 10 ** generator.uniform(-1.0, 0.7, size=3)
        if forward:
            unlearn *= 0.9 * keep * float(np.exp(rho[:, 1] - rho[:, 0]).min()) / unlearn
            u, push = keep * np.exp(rho[:, 1]) - unlearn * np.exp(rho[:, 0]), most * seen[:, 0]
            p = q * u / (mass_multipliers(made, u, push)[made.groups] + push)
            p *= (made.shares / made.within(p))[made.groups]
            reached = np.array([made.divergence(part, p) for part in parts.T])
            own = np.array([made.divergence(part, q) for part in parts.T])
        else:
            unlearn = min(unlearn, 0.8 * keep)
            w = np.exp(-(unlearn * rho[:, 0] - keep * rho[:, 1] + most * seen[:, 0]) / (keep - unlearn))
            p = made.normalised(w)
            reached = np.array([made.divergence(p, part) for part in parts.T])
            own = np.array([made.divergence(q, part) for part in parts.T])
        # What each constraint asks p to make small: less the first divergence, the second, and the detector.
        at_p = np.array([-reached[0], reached[1], float(p @ seen[:, 0])])
        at_q = np.array([-own[0], own[1], float(q @ seen[:, 0])])
        t = generator.uniform(0.1, 0.9)
        asked = (at_p - t * at_q) / (1 - t)  # so that at_p - asked = t (at_q - asked)
        # q has to miss all three, or they would not be relaxed alike, and divergences have levels that are positive.
        if (at_q - at_p > 1e-3).all() and asked[0] <= 0 <= asked[1]:
            break
    else:
        return 0.0
    kind = "forward-kl" if forward else "reverse-kl"
    first = du.ForwardKL(-asked[0]) if forward else du.ReverseKL(-asked[0])
    problem = du.Joint([first, du.Keep(asked[1], kind=kind), du.Likelihood(asked[2], kind="detector")], [[0], [1], [0]])
    try:
        du.solve(problem, made.ratios)
    except du.InfeasibleError as error:
        exact = np.array([-at_p[0], at_p[1], at_p[2]])
        return float((np.abs(error.least - exact) / (1 + np.abs(exact))).max())
    return 1.0
