"""Both terms of every Lagrangian have the gradient that their formula has, and its minimiser is the tilt."""

import numpy as np
import pytest
import torch

import duality as du
from diffusion.methods.lagrangians import ForwardLagrangian, Seen, lagrangian_of
from tests.diffusion.methods.conftest import numeric_gradient

N, M = 5, 2
LAM = np.array([0.07, 0.05])


def seen_at(seed=0):
    generator = torch.Generator().manual_seed(seed)
    said, y, one, two = (torch.randn(N, 3, generator=generator, dtype=torch.float64) for _ in range(4))
    rho, rho_t = (torch.randn(N, M, generator=generator, dtype=torch.float64) for _ in range(2))
    f = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    return f, Seen(said, y, rho, lambda: rho_t, lambda: [one, two])


PRIORS = {"priors": [0.1, 0.2]}
KINDS = [du.ForwardKL([1.0, 1.0]), du.ReverseKL([1.0, 1.0]), du.Likelihood([0.1, 0.1], **PRIORS)]


@pytest.mark.parametrize("term", ["retention", "constraint"])
@pytest.mark.parametrize("problem", KINDS, ids=lambda p: type(p).__name__)
def test_gradient_is_that_of_finite_differences(problem, term):
    f, seen = seen_at()
    lagrangian, index = lagrangian_of(problem), ["retention", "constraint"].index(term)
    f.requires_grad_()
    value = lagrangian.terms(f, seen, LAM)[index]
    (gradient,) = torch.autograd.grad(value, f)
    assert gradient.abs().max() > 1e-4
    numeric = numeric_gradient(lambda at: lagrangian.terms(at, seen, LAM)[index], f.detach())
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_gradients_by_formula():
    """ForwardKL: 2 (f - T) and -2 sum lam [r (f - T) - (r - rbar) (y - T)]; ReverseKL: 2 (f-T), -2 sum lam (f-T_i)."""
    f, seen = seen_at()
    f.requires_grad_()
    size = f.numel()
    lam = torch.tensor(LAM)
    r, rbar = seen.rho.exp() @ lam, seen.rho_t().exp() @ lam
    forward = [
        2 * (f - seen.said),
        -2 * (r[:, None] * (f - seen.said) - (r - rbar)[:, None] * (seen.y - seen.said)),
    ]
    reverse = [
        2 * (f - seen.said),
        -2 * sum(lam * (f - goal) for lam, goal in zip(LAM, seen.towards(), strict=True)),
    ]
    assert float(rbar.max()) < 1  # inside the domain, so that nothing was cut
    for problem, formulas in ((KINDS[0], forward), (KINDS[1], reverse)):
        for value, formula in zip(lagrangian_of(problem).terms(f, seen, LAM), formulas, strict=True):
            (gradient,) = torch.autograd.grad(value, f)
            np.testing.assert_allclose(gradient, formula.detach() / size, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("problem", [KINDS[0], KINDS[2]], ids=lambda p: type(p).__name__)
def test_minimiser_is_the_denoiser_of_the_tilt(problem):
    """At one x_t with finitely many x_0 ~ q: f* = E[w y]/E[w], with an exact T and with whatever rbar."""
    rng = np.random.default_rng(0)
    n = 6
    y = torch.tensor(rng.normal(size=(n, 1)))
    rho = torch.tensor(rng.normal(size=(n, M)))
    rbar = torch.tensor(rng.normal(size=(1, M)) - 1).expand(n, M)
    seen = Seen(y.mean().expand(n, 1), y, rho, lambda: rbar, lambda: [])
    w = problem.log_weight(rho.numpy(), LAM)
    w = np.exp(w)
    optimum = float(w @ y[:, 0].numpy() / w.sum())
    f = torch.tensor(optimum, dtype=torch.float64, requires_grad=True)
    sum(lagrangian_of(problem).terms(f.expand(n, 1), seen, LAM)).backward()
    assert abs(float(f.grad)) < 1e-12


def test_minimiser_of_reverse_is_constant_guidance():
    """(1 - L) f* = T - sum lam_i T_i, that is f* = T + sum a_i (T - T_i) with a = lam / (1 - L)."""
    _, seen = seen_at()
    a = LAM / (1 - LAM.sum())
    optimum = seen.said + sum(k * (seen.said - goal) for k, goal in zip(a, seen.towards(), strict=True))
    optimum = optimum.clone().requires_grad_()
    sum(lagrangian_of(KINDS[1]).terms(optimum, seen, LAM)).backward()
    assert optimum.grad.abs().max() < 1e-14


def test_without_multipliers_nothing_but_retention_is_left():
    f, seen = seen_at()
    f.requires_grad_()
    for problem in KINDS:
        (gradient,) = torch.autograd.grad(sum(lagrangian_of(problem).terms(f, seen, np.zeros(M))), f)
        np.testing.assert_allclose(gradient, 2 * (f - seen.said).detach() / f.numel(), rtol=1e-12)


def test_densities_are_refused():
    with pytest.raises(ValueError, match="densities not"):
        lagrangian_of(du.Likelihood(0.1, kind="density"))
    assert isinstance(lagrangian_of(KINDS[0]), ForwardLagrangian)


@pytest.mark.parametrize(
    ("problem", "states", "levels", "integrals"),
    [(KINDS[0], "q", "q", True), (KINDS[1], "student", "student", True), (KINDS[2], "q", "student", False)],
    ids=["forward", "reverse", "likelihood"],
)
def test_a_lagrangian_says_whose_states_and_levels_are_meant(problem, states, levels, integrals):
    lagrangian = lagrangian_of(problem)
    assert lagrangian.on_student == (states == "student")
    assert lagrangian.of_q == (levels == "q")
    assert lagrangian.integrated == integrals
