"""Statements of the theory pages that have no test elsewhere, checked in numbers that do not use their proofs."""

from __future__ import annotations

import numpy as np
import pytest
from finite_spaces import divergence, space
from scipy.optimize import minimize_scalar

import duality as du


@pytest.mark.parametrize("kind", ["reverse", "forward", "likelihood"])
def test_lagrangian_is_the_dual_plus_a_divergence_to_the_tilt(kind: str) -> None:
    q, parts, ratios = space(1)
    generator = np.random.default_rng(2)
    lam = np.array([0.05, 0.08]) if kind == "forward" else np.array([0.2, 0.3])
    b = np.array([0.7, 0.4])
    for p in generator.dirichlet(np.full(len(q), 1.5), size=20):
        if kind == "reverse":
            w = np.exp(-(ratios.values @ lam) / (1 - lam.sum()))
            cost, levels, sign = divergence(p, q), np.array([divergence(p, part) for part in parts.T]), -1.0
            g = lam @ b - (1 - lam.sum()) * np.log(q @ w)
            rest = (1 - lam.sum()) * divergence(p, q * w / (q @ w))
        elif kind == "forward":
            w = 1 - (parts / q[:, None]) @ lam
            target = q * w / (q @ w)
            cost, levels, sign = divergence(q, p), np.array([divergence(part, p) for part in parts.T]), -1.0
            g = divergence(q, target) + lam @ (b - np.array([divergence(part, target) for part in parts.T]))
            rest = (1 - lam.sum()) * divergence(target, p)
        else:
            likelihood = 0.45 * parts / q[:, None]
            w = np.exp(-(likelihood @ lam))
            cost, levels, sign = divergence(p, q), p @ likelihood, 1.0
            g = -np.log(q @ w) - lam @ b
            rest = divergence(p, q * w / (q @ w))
        np.testing.assert_allclose(cost + sign * lam @ (levels - b), g + rest, rtol=1e-12, atol=1e-14)


def test_reverse_beyond_the_level_where_the_normaliser_turns_infinite() -> None:
    # q ∝ e^{-|x|}/(1 + x^4), q_1 ∝ q e^{-|x|}: Z(a) is finite exactly for a ≤ 1, and the level at a = 1 is finite.
    x = np.linspace(0.0, 700.0, 70_001)
    h = x[1] - x[0]
    log_q = -x - np.log1p(x**4)
    log_1 = -2 * x - np.log1p(x**4)
    weights = np.full(x.size, h)
    weights[[0, -1]] *= 0.5
    q_mass, one_mass = weights @ np.exp(log_q), weights @ np.exp(log_1)
    rho = -x - np.log(one_mass) + np.log(q_mass)
    p = weights / (1 + x**4)
    p /= p.sum()
    critical = float(p @ (-np.log1p(x**4) - np.log(np.sum(weights / (1 + x**4))) - log_1 + np.log(one_mass)))
    cost = critical + float(p @ rho)
    kept = log_q > -600
    log_w = (log_q + np.log(weights) - np.log(q_mass))[kept]
    log_w -= np.log(np.exp(log_w).sum())
    # On a lattice that ends where q is e^-600 the normaliser is finite for every a, but it explodes beyond a = 1:
    solution = du.solve(du.ReverseKL(critical + 2.0), du.LogRatios(rho[kept], log_w))
    np.testing.assert_allclose(solution.multipliers, 0.5, atol=0.01)
    np.testing.assert_allclose(solution.dual, cost + 0.5 * 2.0, atol=0.03)
    assert solution.dual > cost + 0.5 * 2.0 - 1e-3


def test_closure_overestimates_by_at_most_the_spread_of_the_posterior() -> None:
    generator = np.random.default_rng(3)
    for _ in range(200):
        n, lam = 30, 10 ** generator.uniform(-1, 1.5)
        likelihood, given = generator.beta(0.3, 0.6, size=n), generator.dirichlet(np.ones(n))
        exact = given @ np.exp(-lam * likelihood)
        closure = 1 - (1 - np.exp(-lam)) * (given @ likelihood)
        bound = 0.5 * lam**2 * (given @ (likelihood * (1 - likelihood)))
        assert -1e-14 <= closure - exact <= bound + 1e-14


def test_tilted_denoising_with_control_variates_has_the_gradient_it_claims() -> None:
    # At one state: draws x_0 with weights, targets y, a teacher T, an estimate wbar. The minimiser of
    #   E[w |f - T|² - 2 (w - wbar)(f - T)(y - T)]  is  T + Cov(w, y)/E[w] + (1 - wbar/E[w]) (E[y] - T).
    generator = np.random.default_rng(4)
    n = 4000
    w, y = generator.uniform(0, 1, n), generator.normal(size=n)
    y = y + 2 * w
    tilted, mean, change = (w @ y) / w.sum(), y.mean(), np.cov(w, y, bias=True)[0, 1] / w.mean()

    def fitted(teacher: float, wbar: float) -> float:
        def loss(f: float) -> float:
            return float(np.mean(w * (f - teacher) ** 2 - 2 * (w - wbar) * (f - teacher) * (y - teacher)))

        return float(minimize_scalar(loss, tol=1e-12).x)

    np.testing.assert_allclose(tilted, mean + change, rtol=1e-12)
    # 1. A teacher that is q's denoiser: the optimum is that of tilted denoising whatever wbar is.
    np.testing.assert_allclose([fitted(mean, wbar) for wbar in (0.0, 0.3, 0.9)], tilted, atol=1e-6)
    # 2. An exact wbar: the *change* made to the teacher is exact whatever the teacher is.
    exact = w.mean()
    np.testing.assert_allclose([fitted(t, exact) - t for t in (-1.0, 0.2, 3.0)], change, atol=1e-6)
    # 3. Neither: the error of the change is the product of the two errors.
    teacher, wbar = 0.4, 0.35
    product = (1 - wbar / exact) * (mean - teacher)
    np.testing.assert_allclose(fitted(teacher, wbar) - teacher, change + product, atol=1e-6)


def test_path_problem_may_not_buy_its_level_with_a_changed_kernel() -> None:
    # A path law with the right x_0-law and another kernel has a higher KL to every Q_i and meets levels more easily;
    # it still costs more than the lifted tilt, by (1 - L) KL(P‖P_lam).
    q, parts, ratios = space(5, n=6, m=1)
    generator = np.random.default_rng(6)
    kernel = generator.dirichlet(np.ones(4), size=6)
    base, other = q[:, None] * kernel, parts * kernel
    level = 1.5 * divergence(q, parts[:, 0])
    solution = du.solve(du.ReverseKL(level), ratios)
    target = np.exp(solution.log_weights)[:, None] * kernel
    lam = float(solution.multipliers[0])
    np.testing.assert_allclose(divergence(target.ravel(), other.ravel()), level, rtol=1e-9)
    met = 0
    for _ in range(400):
        p = generator.dirichlet(30 * np.exp(solution.log_weights) + 1e-3)[:, None] * generator.dirichlet(np.ones(4), 6)
        if divergence(p.ravel(), other.ravel()) >= level:
            met += 1
            cost = divergence(p.ravel(), base.ravel())
            assert cost >= solution.dual + (1 - lam) * divergence(p.ravel(), target.ravel()) - 1e-12
    assert met > 50


@pytest.mark.parametrize("kind", ["reverse", "forward", "likelihood"])
def test_hessian_is_a_covariance_of_the_derivative_of_log_weight(kind: str) -> None:
    q, parts, ratios = space(7)
    b, rho = np.array([0.6, 0.5]), ratios.values
    lam = np.array([0.06, 0.05]) if kind == "forward" else np.array([0.25, 0.3])
    likelihood = 0.45 * np.exp(rho)

    def log_w(x: np.ndarray) -> np.ndarray:
        if kind == "reverse":
            return -(rho @ x) / (1 - x.sum())
        return np.log(1 - np.exp(rho) @ x) if kind == "forward" else -(likelihood @ x)

    def g(x: np.ndarray) -> float:
        w, left = np.exp(log_w(x)), 1 - x.sum()
        if kind == "reverse":
            return float(x @ b - left * np.log(q @ w))
        if kind == "forward":
            own = np.array([divergence(part, q) for part in parts.T])
            return float(x @ (b - own) - q @ (w * np.log(w)) + left * np.log(left))
        return float(-np.log(q @ w) - x @ b)

    step, eye = 1e-4, np.eye(2)
    hessian = np.array(
        [[(g(lam + step * (e + f)) - g(lam + step * (e - f)) - g(lam - step * (e - f)) + g(lam - step * (e + f)))
          / (4 * step**2) for f in eye] for e in eye]
    )  # fmt: skip
    slopes = np.array([(log_w(lam + step * e) - log_w(lam - step * e)) / (2 * step) for e in eye])
    target = q * np.exp(log_w(lam))
    target /= target.sum()
    scale = 1.0 if kind == "likelihood" else 1 - lam.sum()
    covariance = np.cov(slopes, aweights=target, ddof=0)
    np.testing.assert_allclose(hessian, -scale * covariance, rtol=1e-5, atol=1e-6)


def test_what_is_wrong_with_one_family_where_the_constraint_is_inactive() -> None:
    q, _, ratios = space(3, m=1)
    idle = du.solve(du.ReverseKL(0.5 * divergence(q, q * np.exp(ratios.values[:, 0]))), ratios)
    assert idle.inactive
    assert q @ ratios.values[:, 0] < idle.dual - idle.problem.levels[0] - 1e-3
    active = du.solve(du.ReverseKL(1.2 * divergence(q, q * np.exp(ratios.values[:, 0]))), ratios)
    mean = np.exp(active.log_weights) @ ratios.values[:, 0]
    np.testing.assert_allclose(mean, active.dual - active.problem.levels[0], atol=1e-10)


@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")
@pytest.mark.parametrize("problem", [du.ReverseKL(1.2), du.ForwardKL(0.8), du.Likelihood(0.12)], ids=["ru", "fu", "lu"])
def test_draws_overstate_the_price(problem: du.Problem) -> None:
    q, _, ratios = space(8, n=30, m=1)
    value = du.solve(problem, ratios).dual
    generator = np.random.default_rng(9)
    found = []
    for _ in range(200):
        chosen = generator.choice(len(q), size=150, p=q)
        drawn = du.LogRatios(ratios.values[chosen], priors=ratios.priors)
        found.append(du.solve(problem, drawn).dual)
    # The bias is of order 1/n and positive; three standard errors of its estimate leave no doubt about the sign.
    stderr = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) > value - stderr
    assert np.mean(found) < value + 0.1


def test_signed_denoising_has_the_noised_target_as_its_optimum() -> None:
    # q = .3 N(-2, .4) + .7 N(1, .6), q_1 its first component, lam = .2: minimise the signed loss pointwise, by
    # quadrature over x_0, and compare with the score of the noised signed mixture.
    import toy

    q = toy.GaussianMixture([0.3, 0.7], [-2.0, 1.0], [0.4, 0.6])
    lam, alpha_bar = 0.2, 0.5
    x0 = np.linspace(-8, 8, 4001)[:, None]
    density = np.exp(q.log_prob(x0)) - lam * np.exp(q.component(0).log_prob(x0))
    law = toy.SignedMixture(q, q.component(0), [lam])
    for x in (-2.5, -1.0, 0.3, 2.0):
        noise = (x - np.sqrt(alpha_bar) * x0[:, 0]) / np.sqrt(1 - alpha_bar)
        joint = density * np.exp(-0.5 * noise**2)
        epsilon = (joint @ noise) / joint.sum()
        exact = -np.sqrt(1 - alpha_bar) * law.score(np.array([[x]]), alpha_bar)[0, 0]
        np.testing.assert_allclose(epsilon, exact, rtol=1e-8)


def test_levels_moved_by_the_error_are_safe_for_all_ratios_within_it() -> None:
    q, _, ratios = space(21)
    generator = np.random.default_rng(22)
    known, delta = ratios.values, np.array([0.1, 0.05])
    b = np.array([0.6, 0.5])
    robust = du.solve(du.ReverseKL(b + delta), ratios)
    p = np.exp(robust.log_weights)
    cost = divergence(p, q)
    for _ in range(50):
        rho = known + generator.uniform(-1, 1, size=known.shape) * delta
        assert (cost - p @ rho >= b - 1e-12).all()
    active = robust.multipliers > 0
    np.testing.assert_allclose((cost - p @ (known + delta))[active], b[active], rtol=1e-9)  # the worst of them just is
    plain = np.exp(du.solve(du.ReverseKL(b), ratios).log_weights)
    assert (divergence(plain, q) - plain @ (known + delta) < b).any()  # and without moving the levels it is not
    bound = 0.85 * q @ (ratios.priors * np.exp(known))
    p = np.exp(du.solve(du.Likelihood(bound * np.exp(-delta)), ratios).log_weights)
    for _ in range(50):
        rho = known + generator.uniform(-1, 1, size=known.shape) * delta
        assert (p @ (ratios.priors * np.exp(rho)) <= bound * (1 + 1e-12)).all()
    np.testing.assert_allclose(p @ (ratios.priors * np.exp(known + delta)), bound, rtol=1e-8)
