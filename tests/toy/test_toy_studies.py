"""Pictures of comparisons hold the numbers that they were given."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from legends import assert_legend_lies_outside

import duality as du
import toy
from toy.guidance import GuidanceError

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib.collections import PathCollection

from toy import studies

MADE = toy.example("overlapping")
RATIOS = toy.log_ratios(MADE.pretrained, MADE.unlearn, priors=MADE.priors)


class _Gap(NamedTuple):
    width: int
    steps: int
    divergence: float
    stderr: float


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def test_guidance_errors_are_relative_and_exact_rules_say_so() -> None:
    errors = [
        GuidanceError("good", 0.9, 1e-15, 0.5),
        GuidanceError("good", 0.3, 1e-15, 0.5),
        GuidanceError("poor", 0.3, 0.4, 0.8),
        GuidanceError("poor", 0.9, 0.1, 0.5),
    ]
    ax = studies.plot_guidance_errors(errors)
    assert_legend_lies_outside(ax)
    good, poor = ax.lines[0], ax.lines[1]
    assert "exact" in good.get_label()
    np.testing.assert_allclose(poor.get_xdata(), [0.1, 0.7])
    np.testing.assert_allclose(poor.get_ydata(), [0.2, 0.5])
    with pytest.raises(ValueError, match="errors: at least one"):
        studies.plot_guidance_errors([])


def test_fixed_weights_lie_on_the_frontier_of_one_constraint() -> None:
    """Every weight is some level: interpolating the solved curve at the level reached gives the cost of the sweep."""
    problem, weights = du.Likelihood(0.1), np.array([1.0, 3.0, 9.0])
    solved = du.frontier(problem, RATIOS, np.geomspace(0.3, 0.01, 60))
    ax = studies.plot_weights(solved, du.fixed_weights(problem, RATIOS, list(weights)), weights)
    assert_legend_lies_outside(ax)
    curve, points = ax.lines[0], ax.lines[1]
    x, y = np.asarray(curve.get_xdata())[::-1], np.asarray(curve.get_ydata())[::-1]
    # Linear interpolation of a convex curve between 60 points lies above it by 1e-3 of its rise at most.
    np.testing.assert_allclose(np.interp(points.get_xdata(), x, y), points.get_ydata(), rtol=3e-3)
    with pytest.raises(ValueError, match="weights: 3 numbers"):
        studies.plot_weights(solved, du.fixed_weights(problem, RATIOS, list(weights)), [1.0])


def test_equal_weights_across_concepts_are_off_the_frontier() -> None:
    """The smallest equal weight that keeps every level overshoots some of them and costs more."""
    made = toy.example("several")
    ratios = toy.log_ratios(made.pretrained, made.unlearn, priors=made.priors)
    asked = np.array([0.002, 0.05, 0.15])
    problem = du.Likelihood(asked)
    low, high = 0.1, 50.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        ((_, reached),) = du.fixed_weights(problem, ratios, [middle])
        low, high = (low, middle) if np.all(reached <= asked) else (middle, high)
    ((cost, reached),) = du.fixed_weights(problem, ratios, [high])
    solved = du.solve(problem, ratios)
    assert np.all(reached <= asked * (1 + 1e-9))
    assert cost > 1.2 * solved.primal
    ax = studies.plot_equal_weights(solved, cost, reached)
    assert_legend_lies_outside(ax)
    own, shared = (np.asarray(line.get_ydata()) for line in ax.lines[:2])
    np.testing.assert_allclose(own, asked / solved.levels)
    np.testing.assert_allclose(shared, asked / reached)
    assert shared.max() > 2
    with pytest.raises(ValueError, match="equal_levels: shape"):
        studies.plot_equal_weights(solved, cost, [1.0])


def test_gaps_are_drawn_by_width() -> None:
    gaps = [_Gap(8, 100, 0.5, 0.01), _Gap(64, 100, 0.4, 0.01), _Gap(8, 1000, 0.3, 0.01), _Gap(64, 1000, 0.1, 0.01)]
    ax = studies.plot_parameterisation_gap(gaps)  # type: ignore[arg-type]
    assert_legend_lies_outside(ax)
    np.testing.assert_allclose(np.asarray(ax.containers[0][0].get_ydata(), dtype=float), [0.5, 0.3])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["width 8", "width 64"]
    with pytest.raises(ValueError, match="gaps: at least one"):
        studies.plot_parameterisation_gap([])


def test_score_field_leaves_out_where_nothing_is() -> None:
    axis = np.linspace(-3, 3, 13)
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    q = toy.GaussianMixture([1.0], [[0.0, 0.0]], 0.1)
    ax = studies.plot_score_field(q.score(x), x, np.exp(q.log_prob(x)))
    arrows = ax.collections[0]
    assert 0 < len(arrows.U) < len(x)
    # Every arrow points to the mode.
    assert np.all(arrows.U * arrows.X + arrows.V * arrows.Y <= 1e-12)
    with pytest.raises(ValueError, match="score, x: equal shapes"):
        studies.plot_score_field(q.score(x), x[:5])


def test_reliability_has_frequencies_against_mean_posteriors() -> None:
    p = np.array([0.05, 0.15, 0.9, 0.8, 1.0, 0.95])
    labels = [False, False, True, False, True, True]
    ax = studies.plot_reliability({"head": p, "constant": np.full(6, 0.5)}, labels, bins=2)
    assert_legend_lies_outside(ax)
    head, constant = (one.get_offsets() for one in ax.collections if isinstance(one, PathCollection))
    np.testing.assert_allclose(head, [[0.1, 0.0], [0.9125, 0.75]])
    np.testing.assert_allclose(constant, [[0.5, 0.5]])
    # Wilson's interval of 2 in 2 misses: from 0 to z²/(n + z²) with z = 1.
    bars = ax.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose(bars[0][:, 1], [0.0, 1 / 3], atol=1e-12)
    with pytest.raises(ValueError, match="posteriors: the shape of labels"):
        studies.plot_reliability({"head": p[:3]}, labels)


def test_a_sheet_of_pictures_keeps_their_order_and_frames_the_marked() -> None:
    pictures = np.linspace(-1, 1, 5)[:, None, None] * np.ones((5, 4, 3))
    ax = studies.plot_pictures(pictures, [False, False, False, True, False], columns=2)
    sheet = ax.images[0].get_array()
    assert sheet.shape == (3 * 5 + 1, 2 * 4 + 1)
    np.testing.assert_allclose(sheet[[1, 1, 6, 6, 11], [1, 5, 1, 5, 1]], np.linspace(-1, 1, 5))
    (frame,) = ax.patches
    assert frame.get_x() < 5 < frame.get_x() + frame.get_width()
    assert frame.get_y() < 6 < frame.get_y() + frame.get_height()
    with pytest.raises(ValueError, match="pictures: shape"):
        studies.plot_pictures(pictures[0])
    with pytest.raises(ValueError, match="marked: shape"):
        studies.plot_pictures(pictures, [True])
