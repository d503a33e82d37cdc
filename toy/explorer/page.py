"""The page: entries change the state, the state is solved, the pictures follow. One ``Page`` for each visitor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import panel as pn
import param
from bokeh.models import ColumnDataSource, CustomJS

from toy.explorer import layout
from toy.explorer.compute import Engine
from toy.explorer.controls import Controls, asked, pane
from toy.explorer.entries import entered
from toy.explorer.figures import DualFigure, FrontierFigure
from toy.explorer.levels import unit
from toy.explorer.links import from_example, from_link, to_link
from toy.explorer.plane import HELD, DraggedPlane
from toy.explorer.sections import CompareSection, NoiseSection, SaveSection, section_figure
from toy.explorer.sessions import release
from toy.explorer.state import EntryError
from toy.explorer.views import View
from toy.explorer.words import certificate_html, failure_html, number, status_html, trade_off_html

_WAIT_MS = 12  # entries that arrive within this time are answered together
_SETTLE_MS = 80
_FILLED: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
_LEGEND = (
    "<span class='entry'><span class='key q'></span>q, pretrained</span> "
    "<span class='entry'><span class='key unwanted'></span>q<sub>i</sub>, to be unlearned</span> "
    "<span class='entry'><span class='key target'></span>{target}</span><br>"
    "<span class='note'>Lines enclose 50, 80 and 95 %. Grey dots: draws of q; blue: the same draws, carried to the "
    "target.</span>"
)


def page() -> Any:
    """What a visitor gets: the view that the address asks for, or the worked example; the address then follows."""
    visitor = Page(pn.state.session_args.get("view", [b""])[0].decode("ascii", "replace"))
    location: Any = pn.state.location
    template = visitor.template()
    location.sync(visitor, {"link": "view"}, on_error=lambda _: None)
    visitor.tell()
    # Before the page is loaded the browser does not hear of it.
    pn.state.onload(lambda: visitor.param.trigger("link"))
    pn.state.on_session_destroyed(lambda _: release(template, location, visitor))
    return template


class Page(param.Parameterized):
    """Everything that one visitor sees. ``link`` : the view as text, to begin with empty for the first example."""

    link = param.String()
    opened = param.String()  # the section that is shown: as soon as there is something in it

    def __init__(self, link: str = "") -> None:
        super().__init__()
        self.engine = Engine()
        self.refused: EntryError | None = None
        try:
            self.state = from_link(link) if link else from_example("worked")
        except EntryError as error:
            self.state = from_example("worked")
            self.refused = EntryError("problem", f"{error}. This is the first example instead.")
        self.chosen = 0
        self.view: View = View(self.state)
        self._took = 0.0  # ms, the last solve
        self._waiting = False
        self._pending = 0  # how much has been asked for and not been answered
        self._dragging = ""
        self._answered = ColumnDataSource({"count": [0]})  # tells the browser how often it was answered
        self._answered.js_on_change("data", CustomJS(code=layout.NAME_ENTRIES))
        self.controls = Controls(self._entered)
        self.noise, self.compared = NoiseSection(self._soon), CompareSection()
        self.save = SaveSection(lambda: self.view, lambda: section_figure(self.view, self.noise, self.compared))
        self.plane = DraggedPlane(self._entered, self._settle, self._answered)
        self.dual, self.frontier = DualFigure(), FrontierFigure()
        self.status, self.certificate, self.legend = pane(), pane(), pane()
        self.busy = pn.indicators.LoadingSpinner(
            value=True, visible=False, size=18, label="Solving …", stylesheets=[layout.BUSY]
        )
        self.dual_says, self.frontier_says = pane(), pane()
        self.refresh()

    def template(self) -> Any:
        """The page with every widget and figure in its place."""
        section = self.param.opened.rx()
        parts = {name: {"visible": section == name, **_FILLED} for name in ("target", "noise", "compare")}
        dual = (pane("<h2>Dual function</h2>"), self.dual_says, self.dual.figure)
        frontier = (pane("<h2>Trade-off</h2>"), self.frontier_says, self.frontier.figure)
        places = {
            "busy": self.busy,
            "settings": self.controls.settings(),
            "top": pn.Column(self.status, self.controls.group("section"), **_FILLED),
            "plane": pn.Column(self.legend, self.plane.figure, **parts["target"]),
            "charts": pn.Column(*dual, *frontier, **parts["target"]),
            "certificate": pn.Column(pane("<h2>Certificate</h2>"), self.certificate, **parts["target"]),
            "noise": self.noise.layout((self.controls.group("alpha_bar"), self.controls.noise_wrong), **parts["noise"]),
            "compare": self.compared.layout(
                (self.controls.group("kept"), self.controls.kept_wrong), **parts["compare"]
            ),
            "save": self.save.layout(),
        }
        template = pn.Template(layout.TEMPLATE, location=True)
        for name, place in places.items():
            template.add_panel(name, place)
        return template

    def _entered(self, what: str, value: Any, index: Any) -> None:
        """One entry in a widget. Entries that make no sense are kept in the state, or explained and refused."""
        self.refused = None
        try:
            found = entered(self.state, self.view, self.chosen, what, value, index)
        except EntryError as error:
            self.refused = error
        else:
            self.state, self.chosen = found.state, found.chosen
            if found.afresh:
                self.engine.forget()
                self.plane.looked = False
        self._later(HELD.get(what, ""))

    def _later(self, dragging: str = "") -> None:
        """Refresh soon, once for all that arrives until then."""
        self._dragging = dragging
        if not self._waiting:
            self._waiting = True
            self._soon(self._now)

    def _now(self) -> None:
        self._waiting = False
        self.refresh(self._dragging)

    def _soon(self, work: Callable[[], None], wait: int = _WAIT_MS) -> None:
        """Do what takes a moment after the browser has been answered; at once where there is no server (in tests)."""
        document = pn.state.curdoc
        if document is None or document.session_context is None:
            work()
            return
        self._pending += 1
        self.busy.visible = True

        def worked() -> None:
            with pn.io.hold():
                try:
                    work()
                except Exception as error:
                    self.status.object = failure_html(error)
                    raise
                finally:
                    self._pending -= 1
                    self.busy.visible = self._pending > 0

        document.add_timeout_callback(worked, wait)

    def _settle(self) -> None:
        """After a drag: the last position may still be on its way, so wait for it before the window may move."""
        self._soon(self._later, _SETTLE_MS)

    def refresh(self, dragging: str = "") -> None:
        """Solve the present state and bring everything on the page up to it.

        Args:
            dragging: "mode" or "handle" while one is under the pointer, so that it is not pulled away from there.
        """
        began, before = time.perf_counter(), self.view.answer
        view = self.engine.view(self.state)
        if view.answer is not before:
            self._took = 1000 * (time.perf_counter() - began)
        if view.levels and self.state.key not in self.state.levels:
            self.state = self.state.with_levels(view.levels)
            view = replace(view, state=self.state)
        self.view = view
        self.chosen = min(self.chosen, len(self.state.modes) - 1)
        self.plane.follow(view, self.chosen, dragging, self.controls.draws)
        self._say(view)
        if view.answer is not None and view.dual is not None:
            self.dual.show(view)
            self.frontier.show(
                view, asked(self.state.key, self.state.concept).split(":")[0] + f" ({unit(self.state.key)})"
            )
            if self.state.section == "noise":
                self.noise.follow(view, self.plane.square)
        else:
            self.dual.clear()
            self.frontier.clear()
        if self.state.section == "compare":
            self.compared.follow(view)
        self.tell()
        self.opened = self.state.section
        self._answered.data = {"count": [self._answered.data["count"][0] + 1]}

    def tell(self) -> None:
        """Let the link, and with it the browser's address, follow the view."""
        self.link = to_link(self.state)
        self.save.follow(self.view, self.link)

    def _say(self, view: View) -> None:
        self.controls.follow(view, self.chosen, self.refused)
        attained = view.solution is None or view.solution.attained
        self.legend.object = _LEGEND.format(target="p*, target" if attained else "limit of p")
        self.status.object = status_html(view)
        if view.solution is None:
            self.certificate.object = self.dual_says.object = self.frontier_says.object = ""
            return
        solved = f"<p class='note'>Solved, with both curves, in {self._took:.0f} ms.</p>"
        self.certificate.object = f"<div class='scroll'>{certificate_html(view)}</div>{solved}"
        lam = float(view.solution.multipliers[self.state.concept])
        end = f"the domain ends at {number(view.end, 5)}" if np.isfinite(view.end) else "the domain has no end"
        self.dual_says.object = f"λ* = {number(lam, 6)}; {end}"
        self.frontier_says.object = trade_off_html(view)
