"""The widgets of the page, and how they follow the state. They only report what was entered; ``page`` decides."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import panel as pn

from toy.explorer.compute import View
from toy.explorer.layout import PANES, WIDGETS
from toy.explorer.levels import SUBSCRIPTS, relation, unit
from toy.explorer.state import KINDS, MOST_CONCEPTS, MOST_MODES, State, names

PROBLEM_LABELS = {"Reverse KL": "RU", "Forward KL": "FU", "Likelihood": "LU"}
KIND_LABELS = {"posterior, Pr(i|x)": "posterior", "density, qᵢ(x)": "density", "log ratio, log qᵢ/q": "log-ratio"}
ENTRIES = {
    "x": "x₁ of the mean",
    "y": "x₂ of the mean",
    "c11": "variance c11",
    "c12": "covariance c12",
    "c22": "variance c22",
}
Report = Callable[..., None]


def pane(text: str = "", **settings: Any) -> Any:
    """An HTML pane in the common style."""
    return pn.pane.HTML(text, stylesheets=[PANES], sizing_mode="stretch_width", margin=(2, 4), **settings)


def widget(kind: Any, **settings: Any) -> Any:
    """A widget in the common style."""
    return kind(stylesheets=[WIDGETS], **{"sizing_mode": "stretch_width", "margin": (3, 4), **settings})


def wrong(text: str) -> str:
    """A message about an entry, as HTML; nothing for nothing. ``alert`` so that it is read out."""
    return f"<p class='wrong' role='alert'>{escape(text)}</p>" if text else ""


def asked(key: str, i: int) -> str:
    """What level i (from 0) bounds, in plain text for a label."""
    one = f"q{SUBSCRIPTS[i]}"
    what = {
        "RU": f"KL(p‖{one})",
        "FU": f"KL({one}‖p)",
        "LU posterior": f"mean of Pr({i + 1}|x)",
        "LU density": f"mean of {one}(x)",
        "LU log-ratio": f"mean of log {one}/q",
    }[key]
    words = unit(key)
    return f"b{SUBSCRIPTS[i]}: {what} {relation(key)}" + (" (nats)" if words == "nats" else "")


class Controls:
    """All settings. ``report(what, value, index)`` is called for every entry made by a person, never by ``follow``."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._quiet = False
        self.start = widget(pn.widgets.Select, label="Start from", options={"(as it is)": "", **names()}, value="")
        self.problem = widget(pn.widgets.RadioButtonGroup, label="Problem", options=PROBLEM_LABELS, value="LU")
        self.kind = widget(pn.widgets.Select, label="Likelihood", options=KIND_LABELS, value=KINDS[0])
        counts = {str(k): k for k in range(1, MOST_CONCEPTS + 1)}
        self.concepts = widget(pn.widgets.Select, label="Number of concepts to unlearn", options=counts, value=1)
        self.sliders = [
            widget(pn.widgets.FloatSlider, start=0.0, end=1.0, step=0.005, value=0.5, show_value=False)
            for _ in range(MOST_CONCEPTS)
        ]
        self.levels = [widget(pn.widgets.FloatInput, label="", value=0.0) for _ in range(MOST_CONCEPTS)]
        self.level_wrong = pane()
        self.shown = widget(pn.widgets.Select, label="Curves along concept", options={"1": 0}, value=0)
        self.draws = widget(pn.widgets.Checkbox, label="Show draws", value=True)
        self.mode = widget(pn.widgets.Select, label="Mode to edit", options={"1": 0}, value=0)
        self.entries = {
            name: widget(pn.widgets.FloatInput, label=label, value=0.0, step=0.1, width=95, sizing_mode=None)
            for name, label in ENTRIES.items()
        }
        self.weight = self._share("Weight in q")
        self.shares = [self._share(f"Share in q{SUBSCRIPTS[i]}") for i in range(MOST_CONCEPTS)]
        self.mode_wrong = pane()
        self.add = widget(pn.widgets.Button, label="Add a mode")
        self.remove = widget(pn.widgets.Button, label="Remove this mode")
        self._watch()

    def settings(self) -> Any:
        """The column of settings beside the pictures."""
        levels = [pn.Column(box, slider, margin=0, sizing_mode="stretch_width") for box, slider in self._levels()]
        head = pane("<h2 style='font-size:15px;margin:10px 0 0'>Modes</h2>")
        return pn.Column(
            self.start,
            pane("<span style='font-size:13px'>Problem</span>"),
            self.problem,
            self.kind,
            self.concepts,
            *levels,
            self.level_wrong,
            self.shown,
            self.draws,
            head,
            self.mode,
            pn.FlexBox(*self.entries.values(), margin=0),
            self.mode_wrong,
            self.weight,
            *self.shares,
            pn.Row(self.add, self.remove, sizing_mode="stretch_width", margin=0),
            sizing_mode="stretch_width",
            margin=0,
        )

    def follow(self, state: State, chosen: int) -> None:
        """Set every widget to what the state says."""
        m, key = state.m, state.key
        self._quiet = True
        try:
            self.problem.value, self.kind.value, self.concepts.value = state.problem, state.kind, m
            self.kind.visible = state.problem == "LU"
            self.shown.options = {str(i + 1): i for i in range(m)}
            self.shown.value, self.shown.visible = state.concept, m > 1
            for i in range(MOST_CONCEPTS):
                self.levels[i].visible = self.sliders[i].visible = self.shares[i].visible = i < m
                if i < m:
                    self.levels[i].label = asked(key, i)
                    self.sliders[i].label = f"b{SUBSCRIPTS[i]} from little to much"
            self.mode.options = {str(k + 1): k for k in range(len(state.modes))}
            self.mode.value = chosen
            mode = state.modes[chosen]
            for name, entry in self.entries.items():
                entry.value = round(getattr(mode, name), 6)
            self.weight.value = round(mode.weight, 6)
            for share, value in zip(self.shares, mode.shares, strict=False):
                share.value = round(value, 6)
            self.add.disabled, self.remove.disabled = len(state.modes) >= MOST_MODES, len(state.modes) < 2
        finally:
            self._quiet = False

    def follow_levels(self, view: View) -> None:
        """Set boxes and sliders to the levels that were solved for, and say what is wrong beside the entry."""
        self._quiet = True
        try:
            for i, level in enumerate(view.levels):
                self.levels[i].value = level
                if view.ranges:
                    self.sliders[i].value = view.ranges[i].position(level)
        finally:
            self._quiet = False
        beside = {place: text for place, text in view.errors.items() if place.startswith("level")}
        self.level_wrong.object = wrong("; ".join(beside.values()))
        others = [text for place, text in view.errors.items() if place not in beside]
        self.mode_wrong.object = wrong("; ".join(others))

    def _levels(self) -> list[tuple[Any, Any]]:
        return list(zip(self.levels, self.sliders, strict=True))

    def _share(self, name: str) -> Any:
        return widget(pn.widgets.EditableFloatSlider, label=name, start=0.0, end=1.0, step=0.01, value=0.0)

    def _watch(self) -> None:
        for what, one in (
            ("start", self.start),
            ("problem", self.problem),
            ("kind", self.kind),
            ("concepts", self.concepts),
            ("concept", self.shown),
            ("draws", self.draws),
            ("mode", self.mode),
            ("weight", self.weight),
        ):
            self._on(one, what)
        for name, entry in self.entries.items():
            self._on(entry, "entry", name)
        for i in range(MOST_CONCEPTS):
            self._on(self.levels[i], "level", i)
            self._on(self.sliders[i], "slider", i)
            self._on(self.shares[i], "share", i)
        self.add.on_click(lambda _: self._report("add", True, None))
        self.remove.on_click(lambda _: self._report("remove", True, None))

    def _on(self, one: Any, what: str, index: Any = None) -> None:
        def changed(event: Any) -> None:
            if not self._quiet:
                self._report(what, event.new, index)

        one.param.watch(changed, "value")
