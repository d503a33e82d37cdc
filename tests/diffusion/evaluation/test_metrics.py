import numpy as np
import pytest

from diffusion.evaluation.metrics import frequency
from diffusion.ratios.calibration import calibration


def test_frequency_has_its_binomial_error():
    f = frequency([True] * 20 + [False] * 80)
    assert (f.value, f.stderr) == (0.2, pytest.approx(0.04))
    assert str(f) == "20.00 ± 4.00 %"
    with pytest.raises(ValueError, match="at least one"):
        frequency([])


def test_perfect_posterior_is_calibrated():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=200_000)
    seen = calibration(p, rng.uniform(size=p.size) < p)
    # ECE of a calibrated posterior is sampling noise: 10 bins of 20,000 samples, each off by about .003 at most
    assert seen.ece < 0.005
    assert seen.brier == pytest.approx(1 / 6, abs=0.005)  # E p (1 - p)
    assert seen.coverage == pytest.approx(1, abs=0.01)


def test_overconfident_posterior_is_not():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=20_000)
    seen = calibration((p > 0.5).astype(float), rng.uniform(size=p.size) < p)
    assert seen.ece == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("p", "y", "words"),
    [([0.5], [True, False], "alike"), ([1.5, 0.0], [True, False], r"\[0, 1\]"), ([0.5, 0.5], [True, True], "others")],
)
def test_calibration_refuses(p, y, words):
    with pytest.raises(ValueError, match=words):
        calibration(p, y)
