"""Along the student's own chain, with detectors that are asked about predicted images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion.methods.guided_tilt import DECIDED
from diffusion.methods.own_chain import FORESEEN, affordable, doob
from diffusion.pipelines import denoiser_of, rows
from diffusion.ratios.classifier import log_snr
from diffusion.ratios.foreseen import KNOTS, Foreseen
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.methods.test_guided_tilt import data_of, fresh, noised_detector_of
from tests.diffusion.methods.test_own_chain import some


@pytest.fixture(scope="module")
def denoiser():
    return denoiser_of(build(families.sd))


def ahead():
    """Half of what predicted images show of brightness, at all noise levels."""
    coefficients = torch.zeros(1, len(KNOTS), 3)
    coefficients[..., 0] = 0.5
    return Foreseen((lambda images: 8 * images.mean((1, 2, 3)),), coefficients)


def test_what_detectors_foresee_is_part_of_the_slope(denoiser):
    fresh(denoiser)
    head, foreseen = noised_detector_of(denoiser), ahead()
    every = log_snr(denoiser, torch.arange(1, denoiser.levels))
    # Where the noised detector alone asks for nothing any more, and where neither does.
    t = torch.stack([((every - DECIDED[1] - 1).abs()).argmin(), (every > FORESEEN[1]).nonzero().min()]) + 1
    x = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(3))
    c, data = torch.tensor([0, 1]), data_of(denoiser, [1.0, 1.0], False)
    seen = []

    def log_h(eta, asked):
        seen.append(some(eta, asked))
        return seen[-1]

    def change_at(x):
        return doob(denoiser, head, log_h, x, t, rows(data.anchors, c), c, foreseen)[1]

    change = change_at(x)
    assert not change[1].any()
    assert not doob(denoiser, head, some, x, t, rows(data.anchors, c), c)[1].any()
    signal, noise = denoiser.schedule(t)
    slope = (change * signal / noise**2)[:1]
    size = float(slope.norm())
    step = torch.cat([0.05 * slope / size, torch.zeros_like(slope)])
    seen.clear()
    change_at(x + step), change_at(x - step)
    found = float((seen[0] - seen[1])[0].detach()) / 0.1
    assert found == pytest.approx(size, rel=0.05)


@given(st.lists(st.tuples(st.floats(-6, 1e-6), st.floats(0, 30), st.floats(0.01, 100)), min_size=1, max_size=5))
def test_no_step_costs_more_than_what_is_left_to_be_had(given_rows):
    value, size, apart = (torch.tensor(column, dtype=torch.float64) for column in zip(*given_rows, strict=True))
    change = torch.randn(len(value), 3, 2, 2, generator=torch.Generator().manual_seed(0))
    change = change / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * size.float().view(-1, 1, 1, 1)
    found = affordable(change, value, apart / 2)

    def cost(some):
        return apart / 2 * some.double().square().flatten(1).sum(1)

    left = -value.clamp_max(0)
    assert (cost(found) <= left * (1 + 1e-5) + 1e-30).all()
    within = cost(change) <= left * (1 - 1e-5)
    torch.testing.assert_close(found[within], change[within], rtol=1e-6, atol=0)
    # It is shortened, and not turned.
    flat = found.flatten(1), change.flatten(1)
    along = (flat[0] * flat[1]).sum(1)
    torch.testing.assert_close(along, flat[0].norm(dim=1) * flat[1].norm(dim=1), rtol=1e-4, atol=1e-6)


def test_a_chain_of_two_valued_states_pays_no_more_a_step_than_is_left():
    """The bound itself: kernels of a random chain, tilted by h at its end."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        states, steps = int(rng.integers(2, 6)), int(rng.integers(1, 6))
        kernels = rng.dirichlet(np.ones(states), (steps, states))
        h = [rng.uniform(0.01, 1, states)]
        for kernel in kernels[::-1]:
            h.insert(0, kernel @ h[0])
        for kernel, now, after in zip(kernels, h, h[1:], strict=False):
            tilted = kernel * after / now[:, None]
            paid = (tilted * np.log(tilted / kernel)).sum(1)
            assert (paid <= -np.log(now) + 1e-12).all()
