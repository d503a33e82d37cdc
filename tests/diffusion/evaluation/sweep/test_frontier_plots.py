"""Pictures of sweeps: every setting at its place, seeds as one dot, what is lost at the edge."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from matplotlib.figure import Figure

from diffusion.evaluation.sweep.across import LOST
from diffusion.evaluation.sweep.frontier_plots import FLOOR, frontiers, plot
from diffusion.evaluation.sweep.plan import METHODS
from tests.diffusion.evaluation.sweep.points import BY, paid, point


def dots(panel, label):
    (line,) = [line for line in panel.get_lines() if line.get_label() == label]
    return line.get_xydata()


def test_settings_stand_at_what_is_left_and_what_it_costs():
    chains = np.linspace(0.2, 0.4, 8)
    ours = [paid("ours", chains, left=2), paid("ours", chains + 0.2, left=4, seed=1)]
    lost = paid("a", [1.0, 1e6], left=30)
    tasks = {"boot": [point("before"), *ours, lost], "neon": [point("ours", nats=0.0), point("b", failed="no")]}
    figure = Figure()
    frontiers(tasks, BY, figure, columns=2)
    first, second = figure.axes
    assert dots(first, "ours") == pytest.approx(np.array([[3.0, 0.4]]))
    assert dots(first, "a") == pytest.approx(np.array([[30.0, (1 + LOST) / 2]]))
    assert dots(second, "ours") == pytest.approx(np.array([[0.0, FLOOR]]))
    seeds = next(line for line in first.get_lines() if line.get_marker() == ".")
    assert seeds.get_xydata() == pytest.approx(np.array([[2.0, 0.3], [4.0, 0.5]]))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "a"]  # base model and failures: none
    assert [panel.get_title() for panel in figure.axes] == ["boot", "neon"]


def test_no_two_methods_look_alike():
    figure = Figure()
    frontiers({"boot": [point(name) for name in ("before", *METHODS)]}, BY, figure)
    lines = [line for line in figure.axes[0].get_lines() if line.get_label() in METHODS]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(METHODS)
    assert len({line.get_color() for line in lines}) == len(METHODS)


def test_a_line_joins_what_no_other_setting_beats():
    def setting(strength, left, nats):
        made = point("a", left=left, nats=nats)
        return made.model_copy(update={"setting": made.setting.model_copy(update={"strength": strength})})

    figure = Figure()
    frontiers({"boot": [setting(1, 10, 2.0), setting(2, 20, 1.0), setting(3, 30, 1.5)]}, BY, figure)
    joined = next(line for line in figure.axes[0].get_lines() if line.get_linestyle() == "-")
    assert joined.get_xydata() == pytest.approx(np.array([[10, 2.0], [20, 1.0]]))


def test_one_task_is_drawn_on_three_axes(tmp_path):
    plot([point("before"), point("ours", left=3), point("a", failed="no")], BY, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
