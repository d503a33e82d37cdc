"""The terms of forgetting images on a line: one sample for both expectations, gradients, convexity, minimiser."""

import numpy as np
import pytest
import torch

from diffusion.methods.images.importance_mixture import Mixed, mixed
from diffusion.methods.images.primal_dual import image_terms
from tests.diffusion.methods.conftest import numeric_gradient


class Line:
    """A denoiser on the line, for its noising alone: signal and noise by level, output epsilon."""

    def schedule(self, t):
        signal = torch.tensor([0.95, 0.6, 0.05], dtype=torch.float64)[t].view(-1, 1)
        return signal, (1 - signal**2).sqrt()

    def target(self, x0, eps, t):
        return eps


@pytest.mark.parametrize("level", [0, 1, 2])
def test_one_sample_serves_both_expectations(level):
    n = 200_000
    a, u = torch.full((n, 1), 0.7, dtype=torch.float64), torch.full((n, 1), -0.4, dtype=torch.float64)
    t = torch.full((n,), level)
    generator = torch.Generator().manual_seed(level)
    states = mixed(Line(), a, u, t, torch.full((n,), 0.3), generator)
    assert float(states.kept_weight.max()) <= 1 / 0.7 + 1e-6
    assert float(states.forgotten_weight.max()) <= 1 / 0.3 + 1e-6
    signal, noise = (float(v[0]) for v in Line().schedule(t[:1]))
    for sample_latents, weight, target in (
        (0.7, states.kept_weight, states.kept_target),
        (-0.4, states.forgotten_weight, states.forgotten_target),
    ):
        # E[x], E[x²] and E[eps] of N(signal sample, noise²), and the identity x = signal sample + noise eps
        for seen, exact in (
            (states.x, signal * sample_latents),
            (states.x**2, (signal * sample_latents) ** 2 + noise**2),
            (target, 0.0),
        ):
            value = weight[:, None] * seen
            assert float(value.mean()) == pytest.approx(exact, abs=4 * float(value.std()) / n**0.5)
        np.testing.assert_allclose(states.x, signal * sample_latents + noise * target, atol=1e-12)


def test_far_apart_is_stratified_and_nothing_to_forget_is_plain_noising():
    far = mixed(
        Line(), *(torch.full((50, 1), v, dtype=torch.float64) for v in (1e4, -1e4)), torch.zeros(50).long(),
        torch.full((50,), 0.5), torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert set(far.kept_weight.tolist()) <= {0.0, 2.0} or float((far.kept_weight * (2 - far.kept_weight)).max()) < 1e-9
    assert torch.isfinite(far.forgotten_target * far.forgotten_weight[:, None]).all()
    none = mixed(
        Line(), *(torch.full((50, 1), v, dtype=torch.float64) for v in (1.0, 2.0)), torch.zeros(50).long(),
        torch.zeros(50), torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert (none.kept_weight == 1).all()
    assert (none.forgotten_weight == 0).all()


@pytest.mark.parametrize("term", [0, 1])
def test_gradient_of_each_term(term):
    """2 ((1 - Pi) w_a + Pi w_u)(f - T) and -2 Pi rho w_u (f - y_u), over the entries; by finite differences too.

    Above rho = 1 the second is that at rho = 1, less 2 Pi (rho - 1) w_u (T - y_u): the rest of it at f = T.
    """
    generator = torch.Generator().manual_seed(0)
    f, said, y_a, y_u = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(4))
    w_a, w_u, share, ratio = (torch.rand(4, generator=generator, dtype=torch.float64) for _ in range(4))
    ratio[2:] += 1
    states = Mixed(f, y_a, y_u, w_a, w_u)
    f = f.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(image_terms(f, said, states, share, ratio)[term], f)
    everywhere = (1 - share) * w_a + share * w_u
    to_image = (
        -2
        * (share * w_u)[:, None]
        * torch.where(ratio[:, None] <= 1, ratio[:, None] * (f - y_u), (f - y_u) + (ratio[:, None] - 1) * (said - y_u))
    )
    formula = (2 * everywhere[:, None] * (f - said), to_image)[term]
    np.testing.assert_allclose(gradient, formula.detach() / f.numel(), rtol=1e-12)
    numeric = numeric_gradient(lambda at: image_terms(at, said, states, share, ratio)[term], f.detach())
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


def test_the_sum_is_convex_at_every_state():
    """Second differences along any line are never negative, and zero where only images with lam_i >= pi_i are met."""
    generator = torch.Generator().manual_seed(1)
    said, y_a, y_u, at, step = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(5))
    w_a, w_u, share, ratio = (torch.rand(6, generator=generator, dtype=torch.float64) for _ in range(4))
    for row in range(6):
        one = slice(row, row + 1)

        def value(k, one=one, ratio=ratio, w_a=w_a):
            states = Mixed(at[one], y_a[one], y_u[one], w_a[one], w_u[one])
            return sum(image_terms((at + k * step)[one], said[one], states, share[one], ratio[one]))

        assert float(value(1) - 2 * value(0) + value(-1)) > 0
        for above in (1.0, 3.0):
            last = {"ratio": torch.full((6,), above).double(), "w_a": torch.zeros(6, dtype=torch.float64)}
            assert float(value(1, **last) - 2 * value(0, **last) + value(-1, **last)) == pytest.approx(0, abs=1e-12)


def test_the_minimiser_is_the_score_of_what_is_left():
    """On one state: f = (q T - sum lam_i q_i y_i)/(q - sum lam_i q_i) with q = (1 - Pi) r + sum pi_i q_i."""
    r, q_u, share, ratio, said, y = 0.3, 1.7, 0.2, 0.6, 0.4, -1.1
    tensor = lambda value: torch.tensor([[value]], dtype=torch.float64)  # noqa: E731
    f, terms = tensor(0.0).requires_grad_(), (tensor(share)[0], tensor(ratio)[0])
    states = Mixed(f, f, tensor(y), tensor(r)[0], tensor(q_u)[0])
    for _ in range(200):
        (gradient,) = torch.autograd.grad(sum(image_terms(f, tensor(said), states, *terms)), f)
        f = (f - 0.5 * gradient).detach().requires_grad_()
    q, lam = (1 - share) * r + share * q_u, share * ratio
    assert float(f.detach()) == pytest.approx((q * said - lam * q_u * y) / (q - lam * q_u), abs=1e-9)
