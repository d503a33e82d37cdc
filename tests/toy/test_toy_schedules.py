"""Schedules against diffusers', and the convention in words."""

from __future__ import annotations

import numpy as np
import pytest

from toy import schedules


@pytest.mark.parametrize("name", list(schedules.SCHEDULES))
def test_alpha_bars_are_diffusers(name: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    betas = {"scaled_linear": (0.00085, 0.012)}.get(name, (1e-4, 0.02))
    peer = diffusers.DDPMScheduler(beta_schedule=name, beta_start=betas[0], beta_end=betas[1])
    ours = schedules.SCHEDULES[name]()
    # diffusers multiplies a thousand float32 factors: relative rounding 1000 x 6e-8 at worst.
    np.testing.assert_allclose(ours.alpha_bars, peer.alphas_cumprod.numpy(), rtol=6e-5)
    peer.set_timesteps(50)
    np.testing.assert_array_equal(ours.timesteps(50), peer.timesteps.numpy())


def test_alpha_bar_is_the_product_of_one_minus_beta() -> None:
    made = schedules.linear(steps=5, beta_start=0.1, beta_end=0.5)
    np.testing.assert_allclose(made.alpha_bars, np.cumprod([0.9, 0.8, 0.7, 0.6, 0.5]), rtol=1e-14)
    assert made.levels(5)[-1] == 1.0
    np.testing.assert_array_equal(made.levels(5)[:-1], made.alpha_bars[::-1])


def test_squared_cosine_before_the_cap() -> None:
    """Products telescope: alpha_bar_t = f((t+1)/T)/f(0) until the cap takes over."""
    made = schedules.squaredcos_cap_v2(1000)
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(made.alpha_bars[:900], f[1:901] / f[0], rtol=1e-11)


def test_bad_schedules_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="steps: at least 1"):
        schedules.linear(0)
    with pytest.raises(ValueError, match="0 < start <= end < 1"):
        schedules.linear(10, 0.5, 0.1)
    with pytest.raises(ValueError, match="strictly decreasing"):
        schedules.Schedule(np.array([0.5, 0.7]))
    with pytest.raises(ValueError, match="strictly decreasing"):
        schedules.Schedule(np.array([1.0, 0.7]))
    with pytest.raises(ValueError, match="betas"):
        schedules.from_betas([0.5, 1.0])
    with pytest.raises(ValueError, match="1 to 1000"):
        schedules.linear().timesteps(1001)
