"""Lattices integrate what they claim to, and refuse what they cannot see."""

from __future__ import annotations

import numpy as np
import pytest

from toy.mixtures import GaussianMixture, moments
from toy.quadrature import Nodes, component_nodes, draws, grid

WORKED = GaussianMixture([0.3, 0.4, 0.3], [[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]], 0.5)
SKEW = GaussianMixture([0.6, 0.4], [[0.0, 0.0], [2.0, 1.0]], [[[1.0, 0.9], [0.9, 1.0]], [[0.5, 0.0], [0.0, 2.0]]])


def _moments(nodes: Nodes) -> tuple[np.ndarray, np.ndarray]:
    assert nodes.log_weights is not None
    weights = np.exp(nodes.log_weights)
    mean = weights @ nodes.points
    centred = nodes.points - mean
    return mean, np.einsum("n,ni,nj->ij", weights, centred, centred)


@pytest.mark.parametrize("q", [WORKED, SKEW], ids=["worked", "skew"])
@pytest.mark.parametrize("rule", [grid, component_nodes])
def test_moments_are_exact(q: GaussianMixture, rule: object) -> None:
    mean, covariance = _moments(rule(q))  # type: ignore[operator]
    exact = moments(q)
    # Rounding of 1e4 terms; aliasing and truncation are below 1e-16.
    np.testing.assert_allclose(mean, exact.mean, atol=1e-12)
    np.testing.assert_allclose(covariance, exact.covariance, atol=1e-12)


def test_rules_agree_on_a_smooth_function() -> None:
    def f(x: np.ndarray) -> np.ndarray:
        return np.log(np.cosh(x[:, 0] + 0.5 * x[:, 1]))

    one, two = grid(SKEW, per_axis=241), component_nodes(SKEW, per_axis=161)
    values = [np.exp(nodes.log_weights) @ f(nodes.points) for nodes in (one, two)]
    assert abs(values[0] - values[1]) < 1e-12


def test_thin_ridge_needs_component_nodes() -> None:
    r = 1 - 1e-9
    thin = GaussianMixture([0.5, 0.5], [[-50.0, 0.0], [50.0, 0.0]], [[[1.0, r], [r, 1.0]]] * 2)
    with pytest.raises(ValueError, match="component_nodes"):
        grid(thin)
    mean, covariance = _moments(component_nodes(thin))
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    np.testing.assert_allclose(covariance, moments(thin).covariance, rtol=1e-12)


def test_too_few_nodes_say_how_many() -> None:
    with pytest.raises(ValueError, match=r"per_axis: (\d+) nodes per coordinate are needed") as error:
        grid(WORKED, per_axis=21)
    needed = int(str(error.value).split("per_axis: ")[1].split()[0])
    mean, _ = _moments(grid(WORKED, per_axis=needed))
    np.testing.assert_allclose(mean, moments(WORKED).mean, atol=1e-12)
    with pytest.raises(ValueError, match="nodes per coordinate are needed"):
        grid(WORKED, per_axis=needed - 2)


def test_aliasing_bound_is_sharp() -> None:
    """The rule's error for N(0, 1) at spacing h is 2 exp(-2 pi^2/h^2): what the resolution check rests on."""
    for h in (1.5, 1.8, 2.1):
        x = h * np.arange(-20, 21)
        error = h * np.exp(-0.5 * x**2).sum() / np.sqrt(2 * np.pi) - 1
        assert abs(error / (2 * np.exp(-2 * np.pi**2 / h**2)) - 1) < 1e-3


def test_short_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="a larger reach is needed"):
        grid(WORKED, per_axis=101, reach=4.0)
    with pytest.raises(ValueError, match="a larger reach is needed"):
        component_nodes(WORKED, reach=4.0)


def test_box_covers_what_is_unlearned() -> None:
    far = GaussianMixture([1.0], [[20.0, 0.0]], 0.5)
    assert grid(WORKED, far).points[:, 0].max() > 20
    assert grid(WORKED).points[:, 0].max() < 20


def test_edge_and_coarse_mark_the_lattice() -> None:
    nodes = grid(WORKED, per_axis=101)
    assert nodes.edge is not None
    assert nodes.coarse is not None
    assert nodes.edge.sum() == 101**2 - 91**2
    assert nodes.coarse.sum() == 51**2
    assert nodes.edge.reshape(101, 101)[:5].all()
    assert not nodes.edge.reshape(101, 101)[5:-5, 5:-5].any()


def test_draws_are_draws() -> None:
    nodes = draws(WORKED, 100, np.random.default_rng(0))
    assert nodes.log_weights is None
    np.testing.assert_array_equal(nodes.points, WORKED.sample(100, np.random.default_rng(0)))


def test_bad_arguments_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="dimension 1 to 3"):
        grid(GaussianMixture([1.0], [[0.0] * 4], 1.0))
    with pytest.raises(ValueError, match="dimension 1 to 3"):
        component_nodes(GaussianMixture([1.0], [[0.0] * 4], 1.0))
    with pytest.raises(ValueError, match="per_axis: a number"):
        grid(WORKED, per_axis=2)
    with pytest.raises(ValueError, match="reach: a number"):
        grid(WORKED, reach=-1)
    with pytest.raises(ValueError, match="dimension of the pretrained"):
        grid(WORKED, GaussianMixture([1.0], [0.0], 1.0))
    with pytest.raises(ValueError, match="per_axis: 27 nodes"):
        component_nodes(WORKED, per_axis=11)
