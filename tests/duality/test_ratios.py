"""What LogRatios accepts and what it refuses."""

import numpy as np
import pytest

import duality as du


def test_a_vector_is_one_constraint():
    ratios = du.LogRatios([0.1, -0.2, 0.3])
    assert ratios.values.shape == (3, 1)
    assert (ratios.n, ratios.m, ratios.is_draws) == (3, 1, True)
    np.testing.assert_allclose(np.exp(ratios.log_weights), 1 / 3)


def test_minus_infinity_is_ordinary():
    ratios = du.LogRatios([[0.0, -np.inf], [1.0, 0.0]], np.log([0.5, 0.5]))
    assert not ratios.is_draws
    np.testing.assert_allclose(ratios.masses, [0.5 + 0.5 * np.e, 0.5])


def test_frozen_and_apart_from_its_source():
    source = np.zeros((4, 1))
    ratios = du.LogRatios(source)
    source[0] = 7.0
    assert ratios.values[0, 0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        ratios.values[0] = 1.0
    with pytest.raises(AttributeError, match="frozen"):
        ratios.values = source


def test_a_column_without_mass_is_named():
    values = np.zeros((3, 2))
    values[:, 1] = -np.inf
    with pytest.raises(ValueError, match="values: constraint 1 is -inf at every point that has weight"):
        du.LogRatios(values)
    values[2, 1] = 0.0  # but that point has no weight
    with pytest.raises(ValueError, match="values: constraint 1 is -inf"):
        du.LogRatios(values, [np.log(0.5), np.log(0.5), -np.inf])
    du.LogRatios(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": ["1", "2"]}, r"values: an array of real numbers is needed, got list \(text\)"),
        ({"values": np.array(["１"])}, r"values: an array of real numbers is needed, got ndarray \(text\)"),
        ({"values": [b"1"]}, r"values: .*bytes"),
        ({"values": [10**400]}, r"values: .*too large to convert"),
        ({"values": [1.0, None]}, "values: .*NoneType among its entries"),
        ({"values": np.array(["2020-01-01"], dtype="M8[D]")}, "values: .*dates"),
        ({"values": np.ma.masked_array([1.0, 2.0], [0, 1])}, "values: .*masked"),
        ({"values": np.array([1j])}, "values: .*complex"),
        ({"values": np.zeros(2), "priors": "０.５"}, "priors: .*text"),
        ({"values": [0.0, np.nan]}, "values: nan at point 1"),
        ({"values": [0.0, np.inf]}, r"values: inf at point 1"),
        ({"values": []}, "values: empty"),
        ({"values": np.zeros((3, 0))}, "values: empty"),
        ({"values": np.zeros((2, 2, 2))}, "values: shape"),
        ({"values": 1.0}, "values: shape"),
        ({"values": ["a"]}, "values: an array of real numbers"),
        ({"values": [1j]}, "values: an array of real numbers"),
        ({"values": np.zeros(3), "log_weights": np.zeros(2)}, r"log_weights: shape \(2,\) given"),
        ({"values": np.zeros(2), "log_weights": np.log([0.5, 0.4])}, "log_weights: they sum to"),
        ({"values": np.zeros(2), "log_weights": [-np.inf, -np.inf]}, "log_weights: all are -inf"),
        ({"values": np.zeros(2), "log_weights": [np.nan, 0.0]}, "log_weights: nan at point 0"),
        ({"values": np.zeros(2), "log_weights": [np.inf, 0.0]}, "log_weights: inf at point 0"),
        ({"values": np.zeros(2), "log_densities": np.zeros(3)}, r"log_densities: shape \(3, 1\)"),
        ({"values": np.zeros(2), "log_densities": [0.0, np.nan]}, "log_densities: nan at point 1"),
        ({"values": np.zeros(2), "priors": 0.0}, "priors: 0.0 given"),
        ({"values": np.zeros(2), "priors": 1.0}, "priors: 1.0 given"),
        ({"values": np.zeros(2), "priors": np.nan}, "priors: NaN"),
        ({"values": np.zeros((2, 3)), "priors": [0.1, 0.2]}, "priors: 2 given for 3"),
    ],
)
def test_refused_with_a_name_and_a_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        du.LogRatios(**arguments)


def test_weights_normalised_in_double_precision_pass_and_in_single_precision_do_not():
    rng = np.random.default_rng(0)
    log_weights = 100 * rng.normal(size=10_000)
    log_weights -= log_weights.max()
    log_weights -= np.log(np.exp(log_weights).sum())
    du.LogRatios(np.zeros(10_000), log_weights)
    with pytest.raises(ValueError, match="log_weights: they sum to"):
        du.LogRatios(np.zeros(10_000), np.asarray(log_weights + 1e-6))


def test_a_node_without_weight_changes_nothing():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(50, 2))
    lone = du.solve(du.Likelihood(-0.1, kind="log-ratio"), du.LogRatios(values, np.full(50, -np.log(50))))
    more = du.LogRatios(np.vstack([values, [[-300.0, 700.0]]]), np.append(np.full(50, -np.log(50)), -np.inf))
    padded = du.solve(du.Likelihood(-0.1, kind="log-ratio"), more)
    np.testing.assert_array_equal(padded.multipliers, lone.multipliers)
    assert padded.log_weights[-1] == -np.inf
