"""Every law of the theory, on instances that nobody chose."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from instances import finite_space
from kkt import assert_optimal, bought, cost_and_levels
from scipy.special import logsumexp

import duality as du

LAW = settings(
    max_examples=40,
    phases=[Phase.explicit, Phase.generate],  # instances are seeds: there is nothing to shrink
    suppress_health_check=[HealthCheck.too_slow],
)

KINDS = {
    "reverse": (du.ReverseKL, {}),
    "forward": (du.ForwardKL, {}),
    "posterior": (du.Likelihood, {}),
    "density": (du.Likelihood, {"kind": "density"}),
    "log-ratio": (du.Likelihood, {"kind": "log-ratio"}),
}
names = st.sampled_from(sorted(KINDS))
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(2, 80)
widths = st.integers(1, 5)
spreads = st.floats(-3.0, 1.5).map(lambda e: 10.0**e)


def problem_of(name, levels):
    kind, options = KINDS[name]
    return kind(np.maximum(levels, 0.0) if kind is not du.Likelihood else levels, **options)


def random_density(rng, ratios, sharpness):
    """log masses of some density on the nodes, `sharpness` nats away from q at random."""
    log_p = ratios.log_weights + sharpness * rng.normal(size=ratios.n)
    return log_p - logsumexp(log_p)


def feasible(name, rng, ratios, sharpness=1.0):
    """Levels that some density is known to meet: those of a random one, with a little to spare."""
    base = problem_of(name, np.ones(1)).bind(ratios)
    levels = base.levels_of(ratios, random_density(rng, ratios, sharpness))
    return problem_of(name, levels - base.direction * 0.01 * np.abs(levels))


def reached_by_a_tilt(name, rng, ratios):
    """Levels of a random tilt: attained by construction, however far from q it is."""
    base = problem_of(name, np.ones(1)).bind(ratios)
    share = rng.dirichlet(np.ones(ratios.m + 1))[: ratios.m]
    if name == "forward":
        natural = 0.95 * share / np.exp(ratios.values).max()
    else:
        table = base.likelihoods(ratios.values) if name == "posterior" else ratios.values
        spread = np.ptp(np.where(np.isfinite(table), table, 0.0), axis=0)
        natural = 10.0 ** rng.uniform(-2, 1) * share / np.where(spread > 0, spread, 1.0)
    log_p = ratios.log_weights + base.tilt(ratios.values, natural)
    return problem_of(name, base.levels_of(ratios, log_p - logsumexp(log_p)))


def check(solution, ratios):
    """Optimal, or honestly not attained on these nodes; never inexact."""
    if solution.attained:
        assert_optimal(solution, ratios)
        return
    problem = solution.problem
    assert not isinstance(problem, du.Likelihood), "a feasible convex program is attained"
    if problem.emptied(solution.natural):  # nothing of q is left, but densities prove the value all the same
        proved = bought(problem, ratios, solution.log_weights)
        np.testing.assert_allclose([proved, solution.bound], solution.dual, rtol=1e-8, atol=1e-8)
        assert du.dual_function(problem, ratios, solution.multipliers * (1 - 1e-14)).value <= proved + 1e-12
        return
    missing = problem.levels - solution.levels
    assert (missing > 0).any()
    value = solution.primal + solution.multipliers @ np.where(solution.multipliers > 0, missing, 0.0)
    np.testing.assert_allclose(solution.dual, value, rtol=1e-9, atol=1e-9)


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


# Ratios as Hypothesis likes them: repeated, zero, ten thousand nats apart; different ones by at least a thousandth,
# since levels of a tenth of a nat on ratios that differ in their last digits ask for more digits than there are.
finite = st.integers(-(10**7), 10**7).map(lambda k: k / 1000)
negative = st.integers(-700_000, 0).map(lambda k: k / 1000)


@LAW
@given(arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 3)), elements=finite), seeds)
def test_any_finite_ratios_reverse_and_log_ratio(values, seed):
    rng = np.random.default_rng(seed)
    log_q = rng.normal(size=len(values)) * rng.choice([0.0, 1.0, 3.0])
    log_q -= logsumexp(log_q)
    values = values - logsumexp(values + log_q[:, None], axis=0)
    ratios = du.LogRatios(values, log_q)
    check(du.solve(reached_by_a_tilt("reverse", rng, ratios), ratios), ratios)
    levels = rng.dirichlet(np.ones(len(values))) @ values
    levels = levels + 1e-6 * (np.abs(levels) + np.ptp(values, axis=0) + 1e-3)
    check(du.solve(du.Likelihood(levels, kind="log-ratio"), ratios), ratios)


@LAW
@given(
    arrays(
        np.float64,
        st.tuples(st.integers(2, 12), st.integers(1, 3)),
        elements=st.one_of(negative, st.just(-np.inf)),
    ),
    seeds,
)
# Levels that a whole ray of multipliers attains, up to where all of q would go.
@example(np.array([[-np.inf, 0, -np.inf], [0, 0, -np.inf], [0, -1.475, 0]]), 5)
@example(np.array([[-np.inf, 0, -np.inf], [0, 0, -np.inf], [0, -1.475, 0]]), 8)
def test_any_ratios_forward_and_posterior(values, seed):
    rng = np.random.default_rng(seed)
    log_q = rng.normal(size=len(values)) * rng.choice([0.0, 1.0, 3.0])
    log_q -= logsumexp(log_q)
    values[0] = np.maximum(values[0], -1.0)  # no concept is absent everywhere
    values = values - np.maximum(logsumexp(values + log_q[:, None], axis=0), -650.0)
    assume(values.max() < 30)
    ratios = du.LogRatios(values, log_q, priors=0.5 / values.shape[1])
    check(du.solve(reached_by_a_tilt("forward", rng, ratios), ratios), ratios)
    values = values - max(float(values.max()), 0.0)  # posteriors are probabilities
    ratios = du.LogRatios(values, log_q, priors=0.5 / values.shape[1])
    table = du.Likelihood(1.0).bind(ratios).likelihoods(values)
    levels = rng.dirichlet(np.ones(len(values))) @ table
    levels = levels + 0.01 * np.ptp(table, axis=0) + 1e-3 * levels + 1e-300
    check(du.solve(du.Likelihood(levels), ratios), ratios)


@LAW
@given(seeds, st.floats(0.0, 300.0), st.floats(-12.0, 4.0))
def test_hostile_weights_and_scales(seed, decades, exponent):
    rng = np.random.default_rng(seed)
    n, m = 120, 2
    log_q = -np.log(10) * decades * rng.uniform(size=n) * (np.arange(n) % 2)  # a bulk, and tails as long as they get
    log_q -= logsumexp(log_q)
    values = 10.0**exponent * rng.normal(size=(n, m))
    values -= logsumexp(values + log_q[:, None], axis=0)
    ratios = du.LogRatios(values, log_q, priors=[0.2, 0.3])
    check(du.solve(feasible("log-ratio", rng, ratios, sharpness=0.5), ratios), ratios)
    if values.max() < 1.2:  # a posterior is a probability
        check(du.solve(feasible("posterior", rng, ratios, sharpness=0.5), ratios), ratios)
    # For the KL problems, several q_i that agree with q (and so with each other) to 1e-3 make the split between them a
    # matter of the last digits of the levels: one at a time.
    if exponent < -3:
        ratios = du.LogRatios(values[:, :1], log_q)
    check(du.solve(reached_by_a_tilt("reverse", rng, ratios), ratios), ratios)
    if values.max() < 30:
        check(du.solve(reached_by_a_tilt("forward", rng, ratios), ratios), ratios)


@pytest.mark.parametrize("distance", [1.0, 10.0, 30.0])
@pytest.mark.parametrize("condition", [1.0, 1e6])
def test_far_modes_and_thin_covariances(distance, condition):
    # Two Gaussian modes far apart and thin: ratios of up to condition · distance² nats.
    rng = np.random.default_rng(0)
    scale = np.array([1.0, condition**-0.5])
    centre = np.array([distance, distance * condition**-0.5])
    x = rng.normal(size=(4000, 2)) * scale
    x[::2] += centre
    log_1 = -0.5 * (((x - centre) / scale) ** 2).sum(axis=1)
    log_0 = -0.5 * ((x / scale) ** 2).sum(axis=1)
    log_q = np.logaddexp(log_0, log_1) - np.log(2)
    ratios = du.LogRatios(log_1 - log_q, np.full(4000, -np.log(4000)), priors=0.5).normalise()
    for problem in (du.ReverseKL(0.4 * distance**2 + 2), du.ForwardKL(2.0), du.Likelihood(0.1)):
        check(du.solve(problem, ratios), ratios)
