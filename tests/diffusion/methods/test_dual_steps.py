"""Dual steps for networks: rest, scale, limit, decay, and a late player that they have to bring to rest."""

import numpy as np
import pytest

from diffusion.methods.dual_steps import Scaled
from duality.primal_dual import Ascent, NuPI


def test_a_step_is_the_formula():
    rule = Scaled(Ascent(0.5), np.array([2.0, 3.0]), warmup=1, limit=np.array([1.0, 9.0]), decays=(1.0, 1.0, 0.1))
    lam, misses = np.array([0.2, 0.3]), np.array([4.0, -2.0])
    np.testing.assert_array_equal(rule.update(lam, misses), lam)  # rests
    np.testing.assert_allclose(rule.update(lam, misses), lam + 0.5 * np.array([1.0, -6.0]))
    np.testing.assert_allclose(rule.update(lam, misses), lam + 0.1 * 0.5 * np.array([1.0, -6.0]))
    again = Scaled(Ascent(0.5), np.ones(2), warmup=5)
    again.load_state_dict(rule.state_dict())
    assert again.calls == 3


@pytest.mark.parametrize("late", [4, 8])
def test_damping_brings_a_late_network_to_rest(late):
    """Surprise follows b · lam/pi with a delay of `late` rounds (first order): ascent swings, the damped rule less."""

    def swing(rule):
        lam, level, found = np.ones(1), np.zeros(1), []
        for _ in range(80):
            level = level + (1.5 * lam - level) / late
            found.append(float(level[0]))
            lam = np.clip(rule.update(lam, 1.0 - level), 0, 10)
        return np.abs(np.array(found[20:]) - 1).max()

    pytest.importorskip("cooper")
    plain = swing(Scaled(Ascent(0.4), np.ones(1), warmup=1, limit=1.0))
    damped = swing(Scaled(NuPI(0.4, proportional=4.0), np.ones(1), warmup=1, limit=1.0))
    assert damped < 0.02 < plain
