import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion.evaluation.metrics import energy_distance, energy_noise, frequency
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


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**31))
def test_energy_distance_against_its_definition(n, k, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 3)), rng.normal(1.0, 2.0, size=(k, 3))
    cross = np.mean([np.linalg.norm(a - b) for a in x for b in y])
    within = [
        np.mean([np.linalg.norm(z[i] - z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)
    ]
    assert energy_distance(x, y) == pytest.approx(2 * cross - sum(within), abs=1e-10)


def test_energy_distance_is_unbiased_under_equal_laws_and_sees_a_shift():
    rng = np.random.default_rng(1)
    values = [energy_distance(rng.normal(size=(40, 2)), rng.normal(size=(40, 2))) for _ in range(200)]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    x, y = rng.normal(size=(400, 2)), rng.normal(0.5, 1, size=(400, 2))
    assert energy_distance(x, y) > energy_noise(x, y, 20, rng)[1]


def test_related_samples_are_left_out_of_the_energy_distance():
    """One law, row j of both from one noise: unbiased without those pairs, clearly negative with them."""
    rng = np.random.default_rng(3)
    naive, mended = [], []
    for _ in range(200):
        x = rng.normal(size=(40, 2))
        y = 0.8 * x + 0.6 * rng.normal(size=(40, 2))
        naive.append(energy_distance(x, y))
        mended.append(energy_distance(x, y, np.column_stack([np.arange(40)] * 2)))
    error = np.std(mended) / 200**0.5
    assert abs(np.mean(mended)) < 4 * error
    assert np.mean(naive) < -4 * error


def test_noise_floor_is_that_of_dealing_by_hand():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 2)), rng.normal(0.3, 1, size=(20, 2))
    pool, again = np.concatenate([x, y]), np.random.default_rng(5)
    values = []
    for _ in range(7):
        order = again.permutation(50)
        first = np.isin(np.arange(50), order[:30])
        values.append(energy_distance(pool[first], pool[~first]))
    mean, high = energy_noise(x, y, 7, np.random.default_rng(5))
    assert mean == pytest.approx(np.mean(values), abs=1e-12)
    assert high == pytest.approx(np.quantile(values, 0.95), abs=1e-12)
