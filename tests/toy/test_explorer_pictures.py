"""What the explorer draws: shapes, noised fields, reverse processes, the comparison, saved figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import duality as du
import toy
from toy.explorer.compare import compare
from toy.explorer.compute import Engine
from toy.explorer.export import compare_figure, image, noise_figure, target_figure
from toy.explorer.links import from_example
from toy.explorer.noise import LATTICE, NO_GUIDANCE, chains, exact_law, noise_view, rules
from toy.explorer.shapes import (
    HANDLE,
    Window,
    contour_lines,
    dragged,
    draws,
    ellipse,
    handles,
    on_lattice,
    shade,
    window,
)
from toy.explorer.state import EntryError, Mode, State
from toy.explorer.views import View

WORKED = from_example("worked")


def viewed(state: State) -> View:
    view = Engine().view(state)
    assert view.answer is not None, view.errors
    return view


def test_the_window_holds_the_modes_and_the_target() -> None:
    state = replace(from_example("gaussians"), problem="RU")  # its target leaves for N((-1.46, 0), I)
    view = viewed(state)
    square = window(state.modes, view.answer)
    assert square.x - square.half < -1.46 - 3
    assert square.x + square.half > 2.0 + 3.2
    assert window(state.modes, None).half < square.half


def test_densities_from_the_grid_are_those_of_the_mixtures() -> None:
    view = viewed(WORKED)
    square = window(WORKED.modes, view.answer)
    assert view.answer is not None
    exact = np.exp(view.answer.log_target(square.lattice()))
    found = on_lattice(view, np.asarray(view.answer.solution.log_weights), square)
    # A picture: a thousandth of the top is less than a line's width.
    np.testing.assert_allclose(found / found.sum(), exact / exact.sum(), atol=1e-3 * float((exact / exact.sum()).max()))


def test_contours_of_a_gaussian_are_circles_that_enclose_what_they_say() -> None:
    square = Window(0.0, 0.0, 4.0)
    x = square.lattice()
    lines = contour_lines(np.exp(-0.5 * np.square(x).sum(axis=-1)), square)
    assert len(lines.xs) == 3
    radii = [float(np.hypot(xs, ys).mean()) for xs, ys in zip(lines.xs, lines.ys, strict=True)]
    np.testing.assert_allclose(radii, np.sqrt(-2 * np.log([0.05, 0.2, 0.5])), rtol=0.03)
    steps = shade(np.exp(-0.5 * np.square(x).sum(axis=-1)))
    assert steps.dtype == np.uint8
    assert sorted(np.unique(steps)) == [0, 1, 2, 3]


def test_draws_follow_the_density() -> None:
    view = viewed(WORKED)
    assert view.answer is not None
    axes = view.answer.nodes.axes
    assert axes is not None
    uniforms = np.random.default_rng(0).random((4000, 2))
    q = draws((axes[0], axes[1]), view.answer.ratios.log_weights, uniforms)
    p = draws((axes[0], axes[1]), np.asarray(view.answer.solution.log_weights), uniforms)
    # Shares of the three modes .3 .4 .3; the first keeps about 1 %. Five standard errors of 4,000 draws: .04.
    assert np.mean(q[:, 0] < -1.5) == pytest.approx(0.3, abs=0.04)
    assert np.mean(p[:, 0] < -1.5) < 0.02
    np.testing.assert_allclose(q.mean(axis=0), [0.0, 1.2], atol=0.2)


@pytest.mark.parametrize("covariance", [(0.5, 0.0, 0.5), (2.0, 0.9, 0.6), (0.3, -0.4, 1.5)])
def test_handles_give_the_covariance_back(covariance: tuple[float, float, float]) -> None:
    mode = Mode(1.0, -2.0, *covariance, 0.5, (0.0,))
    at = handles(mode)
    assert dragged(mode, 0, at[0], at[1]) == pytest.approx(covariance, abs=1e-4)
    assert dragged(mode, 1, at[1], at[0]) == pytest.approx(covariance, abs=1e-4)
    distance = np.linalg.solve(mode.covariance, (ellipse(mode) - [1.0, -2.0]).T)
    np.testing.assert_allclose(((ellipse(mode) - [1.0, -2.0]).T * distance).sum(axis=0), HANDLE**2, rtol=1e-9)


def test_a_handle_on_its_own_mode_is_refused() -> None:
    mode = WORKED.modes[0]
    with pytest.raises(ValueError, match="standard deviation of 0"):
        dragged(mode, 0, np.array([mode.x, mode.y]), handles(mode)[1])


@pytest.mark.parametrize("alpha_bar", [0.3, 0.97])
@pytest.mark.parametrize("problem", ["RU", "LU"])
def test_the_quick_exact_score_is_the_exact_score(problem: str, alpha_bar: float) -> None:
    view = viewed(replace(WORKED, problem=problem))
    assert view.answer is not None
    x = np.array([[0.0, 2.5], [2.0, 0.3], [1.0, 1.0]])
    slow = toy.noised_target(view.answer)
    quick = exact_law(view.answer, alpha_bar)
    np.testing.assert_allclose(quick.score(x, alpha_bar), slow.score(x, alpha_bar), atol=2e-4)
    gap = quick.log_prob(x, alpha_bar) - slow.log_prob(x, alpha_bar)
    np.testing.assert_allclose(gap - gap[0], 0.0, atol=2e-4)  # up to a constant, which no picture shows


def test_errors_of_the_rules_are_those_of_the_library() -> None:
    view = viewed(replace(WORKED, alpha_bar=0.5))
    assert view.answer is not None
    found = noise_view(view, window(WORKED.modes, view.answer))
    shown = {rule.name: rule.rms for rule in found.rules}
    for one in toy.guidance.guidance_errors(view.answer, [0.5]):
        # The library's lattice is finer and reaches farther.
        assert shown[one.rule] == pytest.approx(one.error, rel=0.05)
        assert found.correction == pytest.approx(one.correction, rel=0.05)
    assert shown[NO_GUIDANCE] == pytest.approx(found.correction)
    assert found.exact.shape == (LATTICE, LATTICE, 2)


@pytest.mark.parametrize(
    ("state", "rule", "least", "most"),
    [
        (replace(WORKED, problem="FU"), "FU: λr/(1-λr)", 0.0, 1e-9),  # exact always
        (replace(from_example("gaussians"), problem="RU"), "RU: constant", 0.0, 1e-4),  # exact for equal covariances
        (replace(from_example("unequal"), problem="RU"), "RU: constant", 0.05, 5.0),
        (WORKED, "LU: two-valued closure", 0.0, 0.02),
        (replace(WORKED, kind="density"), "LU: first order", 0.1, 5.0),
        (replace(from_example("gaussians"), kind="log-ratio"), "LU: constant λ", 0.0, 1e-4),
    ],
)
def test_which_rules_are_exact(state: State, rule: str, least: float, most: float) -> None:
    view = viewed(replace(state, alpha_bar=0.5))
    found = noise_view(view, window(state.modes, view.answer))
    (one,) = [one for one in found.rules if one.name == rule]
    assert least <= one.rms <= most


def test_at_the_data_the_first_order_is_exact() -> None:
    view = viewed(replace(WORKED, alpha_bar=1.0))
    found = noise_view(view, window(WORKED.modes, view.answer))
    assert {rule.name: rule.rms for rule in found.rules}["LU: first order"] < 1e-9


def test_exact_and_guided_chains_from_the_same_noise() -> None:
    forward = viewed(replace(WORKED, problem="FU"))
    found = chains(forward, "FU: λr/(1-λr)", np.random.default_rng(1), n=400)
    np.testing.assert_allclose(found.exact, found.guided, atol=1e-6)
    # q shows the concept in 30 %; p* in (pi - lam)/(1 - lam) = 1.8 %.
    assert np.mean(found.exact[-1][:, 0] < -1.5) < 0.05
    pushed = viewed(replace(from_example("gaussians"), problem="RU"))
    found = chains(pushed, "RU: constant", np.random.default_rng(1), n=400)
    a = np.sqrt(12.0) / 2 - 1
    assert found.exact[-1].mean(axis=0) == pytest.approx([-2 * a, 0.0], abs=0.2)
    again = chains(pushed, "RU: constant", np.random.default_rng(1), n=400)
    np.testing.assert_array_equal(found.exact, again.exact)
    with pytest.raises(ValueError, match="rule"):
        chains(pushed, "magic", np.random.default_rng(1))


@pytest.mark.parametrize("name", ["worked", "several", "disjoint"])
def test_compared_targets_leave_the_same_share(name: str) -> None:
    view = viewed(from_example(name))
    found = compare(view, 0.05)
    assert [one.name for one in found] == ["RU", "FU", "LU"]
    for one in found:
        assert one.answer is not None
        np.testing.assert_allclose(one.left, 0.05, rtol=1e-5)
        # It is optimal for the levels that it reaches.
        assert one.answer.solution.gap < 1e-8
        assert one.answer.solution.status in (du.Status.OPTIMAL, du.Status.NOT_ATTAINED)
    # LU is the cheapest way in KL(p‖q) to leave no more than a share: that is what it minimises.
    assert found[2].reverse <= min(one.reverse for one in found) + 1e-9


def test_what_cannot_be_matched_says_so() -> None:
    view = viewed(from_example("overlapping"))
    found = {one.name: one for one in compare(view, 0.05)}
    assert "no FU target removes so much" in found["FU"].why
    assert found["FU"].left[0] == pytest.approx(0.372, abs=0.01)
    assert not found["LU"].why
    apart = viewed(replace(from_example("gaussians"), problem="RU"))
    with pytest.raises(EntryError, match="no part of q"):
        compare(apart, 0.05)


def test_one_density_under_two_names_cannot_be_matched() -> None:
    state = WORKED.with_concepts(2).with_mode(0, shares=(1.0, 1.0)).with_mode(1, shares=(0.0, 0.0))
    with np.errstate(all="raise"):
        found = {one.name: one for one in compare(viewed(replace(state, problem="RU")), 0.05)}
    assert found["FU"].answer is None
    assert "one density" in found["FU"].why


def test_rules_for_every_problem_include_none_at_all() -> None:
    for problem, kind in [("RU", "posterior"), ("FU", "posterior"), ("LU", "posterior"), ("LU", "log-ratio")]:
        view = viewed(replace(WORKED, problem=problem, kind=kind))
        assert view.answer is not None
        x = np.zeros((3, 2))
        found = rules(view.answer)
        assert list(found)[-1] == NO_GUIDANCE
        np.testing.assert_allclose(found[NO_GUIDANCE](x, 0.4), view.answer.pretrained.noised(0.4).score(x))


def test_figures_are_saved_as_png_and_svg() -> None:
    pytest.importorskip("matplotlib")
    view = viewed(replace(from_example("several"), problem="FU"))
    square = window(view.state.modes, view.answer)
    assert image(target_figure(view), "png").startswith(b"\x89PNG")
    for figure in (noise_figure(noise_view(view, square)), compare_figure(view, compare(view, 0.1), square)):
        assert b"<svg" in image(figure, "svg")[:1000]


@pytest.mark.parametrize("level", [4.0, 19.5, 0.5])
def test_legends_cover_no_data(level: float) -> None:
    """Each legend lies outside of every axes, clear of the others, and inside the figure that is saved."""
    figure = target_figure(viewed(replace(WORKED, problem="FU").with_levels((level,))))
    figure.draw_without_rendering()
    boxes = [ax.get_legend().get_window_extent() for ax in figure.axes if ax.get_legend() is not None]
    assert len(boxes) == 2
    assert not boxes[0].overlaps(boxes[1])
    for box in boxes:
        assert not any(box.overlaps(ax.get_window_extent()) for ax in figure.axes)
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
