"""The page without a browser: entries change the state, the texts follow, links restore."""

from __future__ import annotations

import builtins
import socket
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import toy.explorer
from toy.explorer.links import from_example, from_link, to_link
from toy.explorer.state import EntryError

pn = pytest.importorskip("panel", reason="the page needs Panel: install unlearning-duality[explore]")

from toy.explorer.page import Page
from toy.explorer.sections import section_figure


@pytest.fixture
def page() -> Page:
    return Page()


def test_it_begins_with_the_worked_example(page: Page) -> None:
    assert "Solved" in page.status.object
    assert "0.31081 nats" in page.status.object
    assert page.controls.param.level1.label == "b₁: mean of Pr(1|x) ≤"
    assert "du.Likelihood([0.01]" in page.save.says.object
    page.template()


def shown(settings: Any) -> list[str]:
    """The labels of all widgets that are seen, of those that stand for parameters."""
    return [one.label for one in settings.select(pn.widgets.Widget) if one.label and one.visible]


def test_widgets_change_the_view(page: Page) -> None:
    settings = page.controls.settings()
    assert "Likelihood" in shown(settings)
    page.controls.problem = "FU"
    assert "KL(q<sub>1</sub>‖p) = 4" in page.status.object
    assert "Likelihood" not in shown(settings)
    page.controls.level1 = 19.5
    assert "Not attained" in page.status.object
    assert "limit of p" in page.legend.object
    assert page.controls.slider1 > 0.8
    page.controls.slider1 = 0.0
    assert "Inactive" in page.status.object
    page.controls.start = "several"
    assert page.controls.concepts == 3
    labels = [f"b{i}: KL(q{i}‖p) ≥ (nats)" for i in "₁₂₃₄"]
    assert [label for label in shown(settings) if "KL" in label] == labels[:3]
    (box,) = [one for one in settings.select(pn.widgets.Widget) if one.label == labels[1]]
    box.value = 3.0
    assert page.view.levels[1] == 3.0
    page.controls.concept = 2
    assert "b<sub>3</sub> = 4" in page.frontier_says.object
    page.controls.weight = 0.4
    page.controls.param.trigger("add")
    assert page.controls.mode == 6
    page.controls.param.trigger("remove")
    assert len(page.state.modes) == 6


def test_bad_entries_are_explained_where_they_were_made(page: Page) -> None:
    page.controls.c12 = 2.0
    assert "singular or indefinite" in page.controls.mode_wrong.object
    assert "last entries that made sense" in page.status.object
    page.controls.c12 = 0.0
    assert page.controls.mode_wrong.object == ""
    assert "Solved" in page.status.object
    page.controls.level1 = -1.0
    assert "between 0 and 1" in page.controls.level_wrong.object
    assert page.certificate.object == ""
    assert all(button.disabled for button in page.save.figures)
    page.controls.level1 = 1.5
    assert "between 0 and 1, given 1.5" in page.controls.level_wrong.object
    assert "No answer" in page.status.object
    page.controls.level1 = None
    assert "level 1: the entry is empty" in page.controls.level_wrong.object
    page.controls.level1 = 0.02
    assert "Solved" in page.status.object
    for name, value, words in (
        ("c11", -0.5, "both variances must be above 0, given -0.5 and 0.5"),
        ("weight", -0.1, "weights must not be negative"),
        ("share1", 0.0, "q_1 has no mode"),
    ):
        before = getattr(page.controls, name)
        setattr(page.controls, name, value)
        assert words in page.controls.mode_wrong.object
        assert "No answer" in page.status.object
        setattr(page.controls, name, before)
        assert page.controls.mode_wrong.object == ""


def test_entries_that_nothing_can_be_computed_with_are_refused(page: Page) -> None:
    """The state and all boxes stay as they were, and the reason stands beside the entry."""
    controls, before = page.controls, page.state
    kept = {name: getattr(controls, name) for name in controls.param}
    cases: list[tuple[Any, str]] = [
        (None, "empty"),
        *((one, "finite") for one in (np.nan, np.inf, -np.inf, 1e308, -1e12)),
    ]
    for value, reason in cases:
        for name, words, beside in (
            ("x", "x₁ of the mean", controls.mode_wrong),
            ("c22", "variance c22", controls.mode_wrong),
            ("weight", "weight in q", controls.mode_wrong),
            ("share1", "share in q_1", controls.mode_wrong),
            ("level1", "level 1", controls.level_wrong),
            ("alpha_bar", "noise level", controls.noise_wrong),
            ("kept", "left of every concept", controls.kept_wrong),
        ):
            setattr(controls, name, value)
            assert page.state == before
            assert {one: getattr(controls, one) for one in kept} == kept
            assert words in beside.object
            assert reason in beside.object
            assert "Solved" in page.status.object
    controls.x = -2.5
    assert (controls.mode_wrong.object, controls.kept_wrong.object) == ("", "")
    for name, value, words in (
        ("alpha_bar", 0.0, "noise level: above 0 and at most 1 is needed, given 0"),
        ("alpha_bar", 5.0, "noise level: above 0 and at most 1 is needed, given 5"),
        ("kept", 100.0, "and less than 100 %, is needed, given 100 %"),
        ("kept", -3.0, "left of every concept: 1e-07 % or more, and less than 100 %, is needed, given -3 %"),
    ):
        before, shown_before = page.state, getattr(controls, name)
        setattr(controls, name, value)
        assert page.state == before
        assert getattr(controls, name) == shown_before
        assert words in controls.noise_wrong.object + controls.kept_wrong.object


def test_dragging_moves_modes_and_turns_covariances(page: Page) -> None:
    data = {name: list(values) for name, values in page.plane.modes.data.items()}
    data["x"][2], data["y"][2] = 2.123456, -1.0
    page.plane.modes.data = data
    assert (page.state.modes[2].x, page.state.modes[2].y) == (2.1235, -1.0)
    assert page.controls.mode == 2
    at = np.column_stack([page.plane.handles.data["x"], page.plane.handles.data["y"]])
    mean = np.array([2.1235, -1.0])
    grown = at.copy()
    grown[0] = mean + 2 * (at[0] - mean)
    page.plane.handles.data = {"x": grown[:, 0], "y": grown[:, 1]}
    assert np.linalg.eigvalsh(page.state.modes[2].covariance) == pytest.approx([0.5, 2.0], rel=1e-3)
    page.plane.handles.data = {"x": [mean[0], grown[1, 0]], "y": [mean[1], grown[1, 1]]}
    assert "standard deviation of 0" in page.controls.mode_wrong.object
    # What the browser sends of a handle that nobody holds is old: it must not change anything.
    page._settle()
    page.plane.modes.selected.indices = [2]
    before = page.state
    page.plane.handles.data = {"x": [9.0, 8.0], "y": [7.0, 6.0]}
    assert page.state == before
    # Backspace in the draw tool takes a point away.
    page._settle()
    data = {name: list(values)[:2] for name, values in page.plane.modes.data.items()}
    page.plane.modes.data = data
    assert len(page.state.modes) == 2
    assert "Solved" in page.status.object


def test_sections_follow(page: Page) -> None:
    for problem in ("RU", "FU", "LU"):
        page.controls.problem = problem
        page.controls.section = "noise"
        assert "rms" in page.noise.says[1].object
        page.controls.alpha_bar = {"RU": 0.8, "FU": 0.5, "LU": 0.3}[problem]
        assert page.state.alpha_bar == page.controls.alpha_bar
        page.noise.player.value = 1
        page.noise.player.value = page.noise.player.end
        assert "Draws that show the concept" in page.noise.play_says.object
        assert section_figure(page.view, page.noise, page.compared) is not None
        page.controls.section = "compare"
        assert page.state.section == "compare"
    page.controls.kept = 20.0
    assert "20 % left" in page.compared.says[0].object
    assert section_figure(page.view, page.noise, page.compared) is not None


def test_what_cannot_be_matched_shows_no_number() -> None:
    state = from_example("worked").with_concepts(2).with_mode(0, shares=(1.0, 1.0)).with_mode(1, shares=(0.0, 0.0))
    page = Page(to_link(replace(state, problem="RU", section="compare")))
    assert "one density" in page.compared.says[1].object
    assert "nan" not in page.compared.says[1].object
    figure = section_figure(page.view, page.noise, page.compared)
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes]
    assert titles[1] == "FU: no target"
    assert "left" in titles[2]


def test_a_link_restores_the_view_and_a_broken_one_says_so() -> None:
    state = from_example("unequal", "FU").with_mode(0, x=-1.5)
    restored = Page(to_link(state))
    assert restored.state == state
    assert restored.controls.problem == "FU"
    broken = Page("no link at all")
    assert "cut or changed" in broken.controls.mode_wrong.object
    assert broken.state == from_example("worked")
    assert from_link(broken.link) == broken.state


def test_messages_cannot_carry_markup(page: Page) -> None:
    page.refused = EntryError("problem", "<img src=x onerror=alert(1)>")
    page.refresh()
    assert "<img" not in page.controls.mode_wrong.object


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        with pytest.raises(OSError, match="is taken"):
            toy.explorer.serve(port=taken.getsockname()[1], show=False)


def test_without_panel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "panel":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"unlearning-duality\[explore\]"):
        toy.explorer.serve(show=False)
