"""Pictures show the numbers they claim to: read back from the Axes."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from legends import assert_legend_lies_outside

import duality as du
import toy
from toy.dual import domain_end, dual_value

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from toy import plots

WORKED = toy.example("worked")


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def _solved(problem: du.Problem) -> toy.ToySolution:
    return toy.solve(problem, WORKED.pretrained, WORKED.unlearn)


@pytest.mark.parametrize(
    "problem",
    [
        du.ReverseKL(30.0),
        du.ForwardKL(4.0),
        du.ForwardKL(19.556),
        du.Likelihood(0.01, priors=0.3),
        du.Likelihood(0.001, kind="density"),
        du.ReverseKL(5.0),
    ],
)
def test_dual_curve_peaks_at_the_marked_multiplier(problem: du.Problem) -> None:
    answer = _solved(problem)
    ax = plots.plot_dual(answer)
    curve, dot = ax.lines[0], ax.lines[1]
    x, y = curve.get_xdata(), curve.get_ydata()
    assert dot.get_xdata()[0] == answer.solution.multipliers[0]
    # The curve is drawn from its formula, the dot from the solver: the peak is the dot, to rounding.
    assert np.max(y) <= answer.solution.dual + 1e-9 * (1 + abs(answer.solution.dual))
    assert abs(x[np.argmax(y)] - answer.solution.multipliers[0]) < 1e-6 + 0.02 * (x.max() - x.min())
    low, high = ax.get_ylim()
    assert low < answer.solution.dual < high
    assert "multiplier" in ax.get_xlabel()
    assert "nats" in ax.get_ylabel()


def test_dual_value_is_concave_and_outside_minus_infinity() -> None:
    ratios = toy.log_ratios(WORKED.pretrained, WORKED.unlearn, 81, priors=[0.3])
    for problem, end in ((du.ReverseKL(30.0), 1.0), (du.ForwardKL(4.0), 0.3), (du.Likelihood(0.01), 8.0)):
        grid = np.linspace(0, 0.999 * end, 40)
        values = np.array([dual_value(problem, ratios, [lam]) for lam in grid])
        assert np.all(np.diff(values, 2) <= 1e-10 * (1 + np.abs(values[1:-1])))
        assert dual_value(problem, ratios, [-0.1]) == -np.inf
    assert dual_value(du.ReverseKL(30.0), ratios, [1.0]) == -np.inf
    assert dual_value(du.ForwardKL(4.0), ratios, [0.31]) == -np.inf
    with pytest.raises(ValueError, match="multipliers: shape"):
        dual_value(du.ForwardKL(4.0), ratios, [0.1, 0.1])


def test_domain_ends() -> None:
    ratios = toy.log_ratios(WORKED.pretrained, WORKED.unlearn, 81)
    arguments = (WORKED.pretrained, WORKED.unlearn, ratios, [0.0])
    assert abs(domain_end(du.ForwardKL(1.0), *arguments) - 0.3) < 1e-12
    assert abs(domain_end(du.ReverseKL(1.0), *arguments) - 1.0) < 1e-12
    assert domain_end(du.Likelihood(0.1, priors=0.3), *arguments) == np.inf
    # q = N(0, v I), q_1 = N(mu, u I), u < v: a < u/(v-u), that is lam = a/(1+a) < u/v.
    q, part = toy.GaussianMixture([1.0], [[0.0, 0.0]], 2.0), toy.GaussianMixture([1.0], [[1.0, 0.0]], 0.5)
    ratios = toy.log_ratios(q, part, toy.grid(q, part))
    assert abs(domain_end(du.ReverseKL(1.0), q, [part], ratios, [0.0]) - 0.25) < 1e-12
    assert abs(domain_end(du.Likelihood(1.0, kind="log-ratio"), q, [part], ratios, [0.0]) - 1 / 3) < 1e-12


def test_contours_enclose_what_they_say() -> None:
    axis = np.linspace(-6, 6, 601)
    density = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2)) / (2 * np.pi)
    levels = plots.contour_levels(density, (axis[1] - axis[0]) ** 2, (0.95, 0.5))
    # For a standard normal in the plane the mass above a level c is 1 - 2 pi c. Pixels of .02: 1e-3.
    np.testing.assert_allclose(1 - 2 * np.pi * np.array(levels), [0.95, 0.5], atol=1e-3)


def test_densities_are_drawn_in_one_and_two_dimensions() -> None:
    line = toy.GaussianMixture([0.4, 0.6], [-1.0, 1.5], [0.5, 0.8])
    answer = toy.solve(du.ForwardKL(2.0), line, line.component(0))
    ax = plots.plot_densities(answer)
    target = ax.lines[1]
    exact = np.exp(answer.log_target(np.asarray(target.get_xdata())[:, None]))
    np.testing.assert_allclose(target.get_ydata(), exact)
    flat = plots.plot_densities(_solved(du.ReverseKL(30.0)))
    assert [text.get_text() for text in flat.get_legend().get_texts()] == [
        "q, pretrained",
        "q$_1$, to be unlearned",
        "p*, target",
    ]


@pytest.mark.parametrize("attained", [True, False])
def test_legends_cover_no_data(attained: bool) -> None:
    """In two dimensions and one, and for curves with a part that is not attained, three in a row."""
    line = toy.GaussianMixture([0.4, 0.6], [-1.0, 1.5], [0.5, 0.8])
    problem = du.ForwardKL(4.0 if attained else 19.556)
    answers = [_solved(problem), toy.solve(du.ForwardKL(2.0), line, line.component(0))]
    ratios = toy.log_ratios(WORKED.pretrained, WORKED.unlearn, 81)
    curve = du.frontier(du.ForwardKL(4.0), ratios, np.linspace(1.5, 21.0, 12)[:, None])
    plt = plots.pyplot()
    for size in ((13.5, 4.3), (15.0, 3.4)):
        _, row = plt.subplots(1, 3, figsize=size, layout="constrained")
        for ax, answer in zip(row, answers, strict=False):
            plots.plot_densities(answer, ax)
        plots.plot_frontier(curve, ax=row[2])
        for ax in row:
            assert_legend_lies_outside(ax)


def test_window_holds_the_target() -> None:
    answer = toy.solve(du.ReverseKL(30.0), *(toy.example("gaussians").pretrained, toy.example("gaussians").unlearn))
    axes = plots.window(answer)
    assert axes[0].min() < -(np.sqrt(60.0) - 2) - 2


def test_frontier_shows_its_slope() -> None:
    ratios = toy.log_ratios(WORKED.pretrained, WORKED.unlearn, 81, priors=[0.3])
    for make, levels in ((du.ReverseKL, np.linspace(21, 60, 21)), (du.Likelihood, np.geomspace(0.002, 0.29, 21))):
        ax = plots.plot_frontier([du.solve(make(level), ratios) for level in levels], mark=8)
        curve, tangent = ax.lines[0], ax.lines[1]
        slope = np.diff(tangent.get_ydata())[0] / np.diff(tangent.get_xdata())[0]
        x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
        # Convex: the chord on the left is flatter than the tangent, that on the right steeper.
        chords = np.diff(y) / np.diff(x)
        assert chords[7] < slope < chords[8]
    with pytest.raises(ValueError, match="at least two points"):
        plots.plot_frontier([])


def test_figure_for_every_problem() -> None:
    answers = [_solved(problem) for problem in WORKED.problems]
    figure = plots.solve_figure(answers, WORKED.title)
    assert len(figure.axes) == 6
    assert "Reverse KL (RU): level ≥ 30 nats" in figure.axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="answers: at least one"):
        plots.solve_figure([])


def test_a_missing_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"unlearning-duality\[plot\]"):
        plots.new_axes()


def test_the_status_says_which_kind_of_unattained() -> None:
    q = toy.GaussianMixture([0.3, 0.7], [-2.0, 2.0], 1.0)
    beyond = toy.solve(du.ForwardKL(12.0), q, q.component(0)).solution
    # q_r is the other component, 4 deviations away: KL(q_1 || q_r) = 8.
    assert plots.status_words(beyond) == "not attained: the limit reaches 8 nats"
    nodes = toy.grid(q)
    ratios = toy.log_ratios(q, [q.component(0), q.component(1)], nodes)
    emptied = du.solve(du.ForwardKL([5.0, 5.0]), ratios)
    assert plots.status_words(emptied) == "not attained: nothing of q is left"
