"""Every law of the theory, on instances that nobody chose."""

import numpy as np
from hypothesis import assume, example, given
from hypothesis import strategies as st
from instances import finite_space
from kkt import cost_and_levels
from laws import (
    KINDS,
    LAW,
    check,
    feasible,
    names,
    problem_of,
    random_density,
    seeds,
    sizes,
    spreads,
    widths,
)

import duality as du


# q a mixture of the very laws to be forgotten, on as few nodes as laws: the multipliers are its weights, all of q goes.
@LAW
@example("forward", 5238, 2, 2, 0.12288303518731818)
@example("forward", 1, 3, 3, 0.2611147240875003)
@example("forward", 51, 2, 4, 0.0011286154439842785)
@example("forward", 1529, 2, 4, 0.0012172767929745892)
@given(names, seeds, sizes, widths, spreads)
def test_zero_gap_and_kkt(name, seed, n, m, spread):
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, m, spread)
    check(du.solve(feasible(name, rng, ratios), ratios), ratios)


@LAW
@given(names, seeds, sizes, widths, spreads, st.floats(0.0, 5.0))
def test_weak_duality_for_any_density_and_any_multipliers(name, seed, n, m, spread, sharpness):
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, m, spread)
    problem = feasible(name, rng, ratios)
    bound = problem.bind(ratios)
    lam = rng.dirichlet(np.ones(m + 1))[:m]
    if name == "forward":
        lam = lam / np.exp(ratios.values).max()
    elif name != "reverse":
        lam = lam * 10.0 ** rng.uniform(-2, 2)
    bound_below = du.dual_function(problem, ratios, lam)
    assert np.isfinite(bound_below.value)
    cost, levels = cost_and_levels(bound, ratios, random_density(rng, ratios, sharpness))
    lagrangian = cost - lam @ bound.slack(levels)
    # Sums of n terms of the size of the Lagrangian's parts.
    size = 1 + cost + lam @ (np.abs(levels) + np.abs(bound.levels))
    assert lagrangian >= bound_below.value - 1e-13 * size
    solution = du.solve(problem, ratios)
    assert bound_below.value <= solution.dual + 1e-12 * (1 + abs(solution.dual))
    if (bound.slack(levels) >= 0).all():
        assert cost >= solution.dual - 1e-12 * (1 + cost)


@LAW
@given(names, seeds, st.integers(5, 40), st.integers(1, 4), st.floats(-1.0, 0.5).map(lambda e: 10.0**e))
def test_gradient_and_hessian_against_autograd(torch, name, seed, n, m, spread):
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, m, spread)
    problem = feasible(name, rng, ratios).bind(ratios)
    lam = rng.dirichlet(np.ones(m + 1))[:m]
    if name == "forward":
        lam = 0.9 * lam / np.exp(ratios.values).max()
    log_q, values = torch.tensor(ratios.log_weights), torch.tensor(ratios.values)
    inputs, levels = torch.tensor(problem.inputs(ratios)), torch.tensor(problem.levels)

    def g(multipliers):
        """theory: the table of dual functions, from log_weight alone."""
        log_w = problem.log_weight(inputs, multipliers)
        total = multipliers.sum()
        log_z = torch.logsumexp(log_q + log_w, 0)
        if name == "reverse":
            return multipliers @ levels - (1 - total) * log_z
        if name == "forward":
            cost = -(log_q.exp() @ log_w) + log_z
            mass = (log_q[:, None] + values).exp()
            reached = (mass * (values - log_w[:, None])).sum(0) + mass.sum(0) * log_z
            return cost + multipliers @ (levels - reached)
        return -log_z - multipliers @ levels

    at = torch.tensor(lam, requires_grad=True)
    value = g(at)
    (gradient,) = torch.autograd.grad(value, at, create_graph=True)
    hessian = np.array([torch.autograd.grad(gradient[i], at, retain_graph=True)[0].numpy() for i in range(m)])
    ours = du.dual_function(problem, ratios, lam)
    size = 1 + np.abs(problem.levels).max()
    np.testing.assert_allclose(ours.value, value.item(), rtol=1e-11, atol=1e-12 * size)
    np.testing.assert_allclose(ours.gradient, gradient.detach().numpy(), rtol=1e-9, atol=1e-11 * size)
    np.testing.assert_allclose(ours.hessian, hessian, rtol=1e-8, atol=1e-9 * np.abs(hessian).max())
    # And by central differences, which know nothing of automatic differentiation.
    step = 1e-5 * np.maximum(lam, 1e-3 * lam.max())
    for i in range(m):
        shift = step[i] * np.eye(m)[i]
        up, down = (du.dual_function(problem, ratios, lam + s * shift) for s in (1, -1))
        np.testing.assert_allclose(
            (up.value - down.value) / (2 * step[i]), ours.gradient[i], rtol=1e-4, atol=1e-6 * size
        )
    assert np.linalg.eigvalsh(ours.hessian).max() <= 1e-12 * np.abs(ours.hessian).max()


@LAW
@given(names, seeds, st.integers(3, 60), st.integers(2, 5), spreads)
def test_relabelling_constraints_and_nodes(name, seed, n, m, spread):
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, m, spread)
    problem = feasible(name, rng, ratios).bind(ratios)
    solution = du.solve(problem, ratios)
    order, nodes = rng.permutation(m), rng.permutation(n)
    shuffled = du.LogRatios(
        ratios.values[nodes][:, order],
        ratios.log_weights[nodes],
        ratios.log_densities[nodes][:, order],
        ratios.priors[order],
    )
    again = du.solve(problem_of(name, problem.levels[order]), shuffled)
    assert again.status is solution.status
    np.testing.assert_allclose(again.dual, solution.dual, rtol=1e-9, atol=1e-11)
    if solution.attained:
        np.testing.assert_allclose(np.exp(again.log_weights), np.exp(solution.log_weights[nodes]), atol=1e-7)
        # Multipliers are unique where active constraints are independent: more nodes than constraints suffices here.
        if n > 3 * m and spread < 5:
            scale = solution.multipliers.max() + 1e-9
            np.testing.assert_allclose(again.multipliers, solution.multipliers[order], atol=1e-5 * scale)


@LAW
@given(names, seeds, st.integers(3, 60), st.integers(1, 4), spreads)
def test_splitting_a_node_in_two(name, seed, n, m, spread):
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, m, spread)
    problem = feasible(name, rng, ratios).bind(ratios)
    solution = du.solve(problem, ratios)
    assume(solution.attained)  # beyond, finite nodes are atoms, and splitting is exactly what changes them
    share = rng.uniform(0.1, 0.9)
    log_weights = np.append(ratios.log_weights, ratios.log_weights[0] + np.log1p(-share))
    log_weights[0] += np.log(share)
    split = du.LogRatios(
        np.vstack([ratios.values, ratios.values[:1]]),
        log_weights,
        np.vstack([ratios.log_densities, ratios.log_densities[:1]]),
        ratios.priors,
    )
    again = du.solve(problem, split)
    np.testing.assert_allclose(again.dual, solution.dual, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(again.levels, solution.levels, rtol=1e-7, atol=1e-9)
    merged = np.exp(again.log_weights[:-1])
    merged[0] += np.exp(again.log_weights[-1])
    np.testing.assert_allclose(merged, np.exp(solution.log_weights), atol=1e-7)


@LAW
@given(seeds, st.integers(3, 60), st.floats(-20.0, 20.0))
def test_affine_maps_of_space(seed, n, log_det):
    # x -> A x + c divides densities by |det A| and leaves ratios alone: only the density likelihood notices, and it
    # notices as a change of unit.
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, 2, 1.0)
    mapped = du.LogRatios(ratios.values, ratios.log_weights, ratios.log_densities - log_det, ratios.priors)
    for name in KINDS:
        problem = feasible(name, rng, ratios).bind(ratios)
        unit = np.exp(-log_det) if name == "density" else 1.0
        before, after = du.solve(problem, ratios), du.solve(problem_of(name, problem.levels * unit), mapped)
        np.testing.assert_allclose(after.dual, before.dual, rtol=1e-9, atol=1e-11)
        if before.attained:
            np.testing.assert_allclose(np.exp(after.log_weights), np.exp(before.log_weights), atol=1e-7)
            if n > 10:
                scale = before.multipliers.max() + 1e-9
                np.testing.assert_allclose(after.multipliers * unit, before.multipliers, atol=1e-5 * scale)


@LAW
@given(names, seeds, sizes, st.integers(1, 3), spreads)
def test_monotone_convex_and_sensitive_to_levels(name, seed, n, m, spread):
    rng = np.random.default_rng(seed)
    ratios = finite_space(rng, n, m, spread)
    problem = feasible(name, rng, ratios).bind(ratios)
    own = problem.levels_of(ratios, ratios.log_weights)
    a, b = problem.levels, own + 0.5 * (problem.levels - own)  # between q's own levels and those asked: feasible too
    middle = (a + b) / 2
    solutions = [du.solve(problem_of(name, levels), ratios) for levels in (a, middle, b)]
    values = [s.dual for s in solutions]
    noise = 1e-11 * (1 + max(values))
    assert values[1] <= (values[0] + values[2]) / 2 + noise, "V is convex"
    for here, value in zip(solutions, values, strict=True):
        slope = here.problem.direction * here.multipliers
        for other, there in zip((a, middle, b), values, strict=True):
            assert there >= value + slope @ (np.asarray(problem_of(name, other).levels) - here.problem.levels) - noise
    harder = problem_of(name, a + problem.direction * rng.uniform(0, 1, size=m) * 1e-3 * np.abs(a))
    try:
        assert du.solve(harder, ratios).dual >= values[0] - noise, "V rises with what is asked"
    except du.InfeasibleError:
        assert name in ("posterior", "density", "log-ratio")


@LAW
@given(names, seeds, st.integers(1, 4), st.floats(1e-3, 30.0))
def test_guidance_is_minus_the_derivative_by_differences(name, seed, m, size):
    rng = np.random.default_rng(seed)
    priors = rng.dirichlet(np.ones(m + 1))[:m]
    options = {"priors": priors} if name == "posterior" else {}
    kind, base = KINDS[name]
    problem = kind(np.ones(m), **base, **options)
    lam = rng.dirichlet(np.ones(m + 1))[:m] * (1.0 if name in ("reverse", "forward") else size)
    rho = np.log(rng.uniform(0.05, 0.95, size=(20, m)) / (1.0 if name != "posterior" else priors * m))
    natural = np.asarray(problem.natural(lam))
    strengths = problem.guidance(rho, lam)
    assert (strengths >= 0).all()
    step = 1e-5
    for i in range(m):
        shift = step * np.eye(m)[i]
        slope = (problem.noised_tilt(rho + shift, natural) - problem.noised_tilt(rho - shift, natural)) / (2 * step)
        np.testing.assert_allclose(strengths[:, i], -slope, rtol=1e-5, atol=1e-6 * (1 + size))


@LAW
@given(names, seeds, st.integers(1, 4))
def test_numpy_and_torch_agree(torch, name, seed, m):
    rng = np.random.default_rng(seed)
    priors = rng.dirichlet(np.ones(m + 1))[:m]
    kind, base = KINDS[name]
    problem = kind(np.ones(m), **base, **({"priors": priors} if name == "posterior" else {}))
    lam = rng.dirichlet(np.ones(m + 1))[:m]
    rho = np.log(rng.uniform(0.0, 0.9, size=(30, m)))
    rho[rng.uniform(size=rho.shape) < 0.1] = -np.inf if name in ("forward", "posterior", "density") else -3.0
    for method in (problem.log_weight, problem.guidance):
        np.testing.assert_allclose(method(torch.tensor(rho), lam).numpy(), method(rho, lam), rtol=1e-14, atol=1e-14)
