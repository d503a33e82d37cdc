"""Half precision, and what torch hands over: widened before anything is computed, narrowed at the end."""

import numpy as np
import pytest

import duality as du

torch = pytest.importorskip("torch")

from tests.duality.test_problems import CASES, IDS, values


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("total", [0.999, 1 - 1e-7, 1 - 1e-12])
def test_natural_parameters_do_not_pass_through_the_type_of_the_values(dtype, total):
    # 1/(1 - L) of an L that has been rounded to half precision is infinite from L = 0.998 on, and wrong before.
    rng = np.random.default_rng(0)
    lam = total * np.array([0.25, 0.75])
    rho = torch.tensor(rng.normal(size=(50, 2)) * (1 - total)).to(dtype)
    problem = du.ReverseKL([1.0, 1.0])
    exact = problem.log_weight(rho.double(), lam)
    # The result is a sum of two products, each rounded in the type that it is computed in, and then to the input's.
    eps = torch.finfo(dtype).eps
    for given in (lam, torch.tensor(lam), torch.tensor(lam, requires_grad=True)):
        found = problem.log_weight(rho, given)
        assert found.dtype == dtype
        size = (rho.double().abs() * torch.tensor(lam)).sum(-1) / (1 - total) + torch.finfo(dtype).smallest_normal
        assert ((found.double() - exact).abs() <= 4 * eps * size).all()
        strengths = problem.guidance(rho, given)
        end = torch.finfo(dtype).max
        expected = torch.tensor(lam / (1 - lam.sum())).clamp(max=end).expand(50, 2)
        torch.testing.assert_close(strengths.double(), expected, rtol=2 * eps, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "problem", [du.ForwardKL(1.0), du.Likelihood(0.1, priors=0.3), du.Likelihood(0.1, kind="log-ratio")]
)
def test_half_precision_is_computed_in_more(problem, dtype):
    rho = torch.linspace(-6, 1, 40).to(dtype)[:, None]
    for method in (problem.log_weight, problem.guidance):
        found, exact = method(rho, [0.3]), method(rho.double(), [0.3])
        assert found.dtype == dtype
        assert torch.isfinite(found).all()
        torch.testing.assert_close(found.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_strengths_that_half_precision_cannot_hold_end_where_it_does():
    # ForwardKL's floor makes strengths of 1e14 where a network's ratio leaves the domain: large, never infinite.
    strengths = du.ForwardKL(1.0).guidance(torch.tensor([[3.0]], dtype=torch.float16), [0.5])
    assert strengths.item() == torch.finfo(torch.float16).max


def test_whole_numbers_are_computed_as_reals():
    whole = np.array([[1], [2]])
    np.testing.assert_array_equal(du.ReverseKL(1.0).log_weight(whole, 0.5), [-1.0, -2.0])
    found = du.ReverseKL(1.0).log_weight(torch.tensor(whole), 0.5)
    np.testing.assert_array_equal(found.numpy(), [-1.0, -2.0])


@pytest.mark.parametrize(("problem", "lam"), CASES, ids=IDS)
def test_torch_agrees_with_numpy_on_any_shape(torch, problem, lam):
    rho = values(np.random.default_rng(1)).reshape(4, 50, 2)
    for method in (problem.log_weight, problem.guidance):
        ours, theirs = method(rho, lam), method(torch.tensor(rho), torch.tensor(lam))
        assert theirs.dtype == torch.float64
        # Both evaluate the same formula; exp and log of the two libraries may differ in the last place.
        np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-14, atol=1e-14)
        assert method(torch.tensor(rho, dtype=torch.float32), lam).dtype == torch.float32


@pytest.mark.parametrize(("problem", "lam"), CASES, ids=IDS)
def test_guidance_is_minus_the_derivative_of_the_noised_log_weight(torch, problem, lam):
    rho = torch.tensor(values(np.random.default_rng(2)), requires_grad=True)
    natural = problem.natural(torch.tensor(lam))
    (slope,) = torch.autograd.grad(problem.noised_tilt(rho, natural).sum(), rho)
    np.testing.assert_allclose(problem.guidance(rho.detach(), lam).numpy(), -slope.numpy(), rtol=1e-12, atol=1e-14)


def test_tensors_are_accepted(torch):
    values = torch.tensor(np.random.default_rng(0).normal(size=(5, 2)), requires_grad=True)
    np.testing.assert_array_equal(du.LogRatios(values).values, values.detach().numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_widened(dtype):
    values = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    ratios = du.LogRatios(values, priors=0.1)
    assert ratios.values.dtype == np.float64
    np.testing.assert_array_equal(ratios.values, values.detach().double().numpy())
    assert ratios.precision == torch.finfo(dtype).eps
    assert du.solve(du.Likelihood(0.12), ratios).status is du.Status.OPTIMAL
