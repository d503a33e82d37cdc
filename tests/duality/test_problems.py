"""The one function of each problem: log weight and guidance, in NumPy and torch, at ordinary and extreme arguments."""

import numpy as np
import pytest

import duality as du

PRIORS = np.array([0.2, 0.3])
CASES = [
    (du.ReverseKL([1.0, 2.0]), np.array([0.2, 0.3])),
    (du.ForwardKL([1.0, 2.0]), np.array([0.1, 0.2])),
    (du.Likelihood([0.1, 0.1], priors=PRIORS), np.array([0.7, 3.0])),
    (du.Likelihood([0.1, 0.1], kind="density"), np.array([0.7, 3.0])),
    (du.Likelihood([0.1, 0.1], kind="log-ratio"), np.array([0.7, 3.0])),
]
IDS = ["reverse", "forward", "posterior", "density", "log-ratio"]


def values(rng, n=200):
    return np.log(rng.uniform(1e-3, 1.6, size=(n, 2)))


def test_log_weight_is_its_formula():
    rho = values(np.random.default_rng(0))
    expected = [
        -(rho @ np.array([0.2, 0.3])) / 0.5,
        np.log(1 - np.exp(rho) @ np.array([0.1, 0.2])),
        -(np.exp(rho) * PRIORS) @ np.array([0.7, 3.0]),
        -np.exp(rho) @ np.array([0.7, 3.0]),
        -rho @ np.array([0.7, 3.0]),
    ]
    for (problem, lam), formula in zip(CASES, expected, strict=True):
        np.testing.assert_allclose(problem.log_weight(rho, lam), formula, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("index", [0, 1, 3, 4])
def test_where_there_is_no_closure_the_noised_log_weight_is_the_log_weight(index):
    problem, lam = CASES[index]
    rho = values(np.random.default_rng(3))
    np.testing.assert_array_equal(problem.noised_tilt(rho, problem.natural(lam)), problem.log_weight(rho, lam))


def test_the_closure_is_exact_for_two_valued_posteriors():
    # Three x_0 classes (none, concept 1, concept 2) seen through a noisy channel: E[w | x_t] by enumeration.
    rng = np.random.default_rng(4)
    lam = np.array([0.7, 3.0])
    problem = du.Likelihood(0.1, priors=PRIORS)
    posterior = rng.dirichlet([1.0, 1.0, 1.0], size=100)  # Pr(class | x_t); columns 1, 2 are the concepts
    enumerated = np.log(posterior @ np.array([1.0, *np.exp(-lam)]))
    rho_t = np.log(posterior[:, 1:] / PRIORS)
    np.testing.assert_allclose(problem.noised_tilt(rho_t, lam), enumerated, rtol=1e-13)


def test_the_closure_keeps_its_digits_where_almost_nothing_is_left():
    # One concept that is all there is: w̄ = e^{-lam}, k = (1 - e^{-lam}) e^{lam}, up to lam = 600.
    problem = du.Likelihood(0.1, priors=0.25)
    for lam in (1e-12, 1.0, 50.0, 600.0):
        k = problem.guidance(np.array([[np.log(4.0)]]), [lam])
        np.testing.assert_allclose(k, [[np.expm1(lam)]], rtol=1e-12)
    # And where the concept is absent, nothing happens.
    np.testing.assert_array_equal(problem.guidance(np.array([[-np.inf]]), [5.0]), [[0.0]])


def test_posteriors_that_sum_to_more_than_one_are_shared_out():
    problem = du.Likelihood([0.1, 0.1], priors=PRIORS)
    lam = np.array([2.0, 1.0])
    rho = np.log(np.array([[4.0, 8.0]]))  # posteriors 0.8 and 2.4
    share = np.array([0.25, 0.75])
    c = -np.expm1(-lam)
    np.testing.assert_allclose(problem.guidance(rho, lam)[0], c * share / (1 - c @ share), rtol=1e-13)


def test_forward_guidance_stays_finite_where_a_network_oversteps():
    k = du.ForwardKL(1.0).guidance(np.array([[0.0], [np.log(10.0)]]), [0.3])
    np.testing.assert_allclose(k[0], 0.3 / 0.7, rtol=1e-14)
    assert np.isfinite(k).all()
    assert k[1] > 1e14


@pytest.mark.parametrize(("problem", "lam"), CASES, ids=IDS)
def test_a_concept_that_is_absent(problem, lam):
    rho = np.array([[-np.inf, -np.inf]])
    log_w = problem.log_weight(rho, lam)
    assert log_w[0] == (np.inf if problem.direction == 1 and not isinstance(problem, du.ForwardKL) else 0.0) or (
        getattr(problem, "kind", "") == "log-ratio" and log_w[0] == np.inf
    )
    # Without a multiplier it does not count, whatever the ratio.
    assert problem.log_weight(rho, np.zeros(2))[0] == 0.0


def test_reverse_strengths_are_constant():
    np.testing.assert_allclose(
        du.ReverseKL(1.0).guidance(np.zeros((3, 2)), [0.2, 0.3]), np.tile([0.4, 0.6], (3, 1)), rtol=1e-15
    )


def test_zero_multipliers_are_the_identity():
    rho = values(np.random.default_rng(5))
    for problem, _ in CASES:
        np.testing.assert_array_equal(problem.log_weight(rho, np.zeros(2)), np.zeros(200))
        np.testing.assert_array_equal(problem.guidance(rho, np.zeros(2)), np.zeros((200, 2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: du.ReverseKL(-1.0), "levels: -1.0 given"),
        (lambda: du.ForwardKL([1.0, -2.0]), "levels: -2.0 given"),
        (lambda: du.ReverseKL(np.inf), "levels: inf given"),
        (lambda: du.ReverseKL(np.nan), "levels: NaN"),
        (lambda: du.ReverseKL([]), "levels: a number or a vector"),
        (lambda: du.ReverseKL([[1.0]]), "levels: a number or a vector"),
        (lambda: du.Likelihood(0.1, kind="odds"), "kind: 'odds' given"),
        (lambda: du.Likelihood(0.1, kind="density", priors=0.1), "priors: given, but"),
        (lambda: du.Likelihood(0.1, priors=[0.1, 1.5]), "priors: 1.5 given"),
        (lambda: du.Likelihood(0.1).log_weight([[0.0]], [1.0]), "priors: this problem carries none"),
        (lambda: du.ReverseKL(1.0).log_weight([[0.0]], [1.0]), "multipliers: .* outside the dual domain"),
        (lambda: du.ReverseKL(1.0).log_weight([[0.0]], [-0.1]), "multipliers: .* outside the dual domain"),
        (lambda: du.ReverseKL(1.0).log_weight([[0.0]], [0.1, 0.1]), "values: last axis of length 2"),
        (lambda: du.solve(du.ReverseKL([1.0, 2.0]), du.LogRatios(np.zeros((4, 3)))), "levels: 2 given for 3"),
        (lambda: du.solve(du.Likelihood(0.1), du.LogRatios(np.zeros(4))), "priors: neither the problem"),
        (lambda: du.solve(du.Likelihood(0.1, kind="density"), du.LogRatios(np.zeros(4))), "log_densities: the ratios"),
        (lambda: du.solve(du.ForwardKL(1.0), du.LogRatios([0.0, 800.0])), "values: a log ratio of 800"),
        (lambda: du.solve(du.Likelihood(1.0, priors=0.1), du.LogRatios([0.0, 800.0])), "values: a log ratio of 800"),
    ],
)
def test_refused_with_a_name_and_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("problem", "probability"),
    [
        (du.Likelihood(0.1), True),
        (du.Likelihood(0.1, kind="detector"), True),
        (du.Likelihood(0.1, kind="density"), False),
        (du.Likelihood(-3.0, kind="log-ratio"), False),
        (du.ReverseKL(3.0), False),
        (du.ForwardKL(3.0), False),
        (du.Keep(0.9), True),
        (du.Keep(0.9, kind="density"), False),
        (du.Keep(3.0, kind="reverse-kl"), False),
        (du.Joint([du.Likelihood(0.1), du.Keep(0.9)]), True),
        (du.Joint([du.Likelihood(0.1), du.ReverseKL(3.0)]), False),
    ],
)
def test_a_problem_says_whether_its_levels_are_probabilities(problem: du.Problem, probability: bool) -> None:
    assert problem.probability is probability
