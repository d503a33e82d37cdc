"""The plane in which modes are dragged: what a drag means, and what is drawn of a view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.events import PanEnd, Tap
from bokeh.models import ColumnDataSource, CustomJS

from toy.explorer.boards import Board
from toy.explorer.figures import Plane
from toy.explorer.layout import SEND_WHILE_DRAGGING
from toy.explorer.shapes import Window, draws, on_lattice, window
from toy.explorer.state import State
from toy.explorer.views import View
from toy.mixtures import Array

_DRAWS = 350
# What is under the pointer after each of these entries, so that it is not pulled away from there.
HELD = {"place": "mode", "hold": "mode", "axis": "handle"}


class DraggedPlane(Plane):
    """``report(what, value, index)`` as ``entered`` takes it, here "place", "axis", "hold" and "remove"."""

    def __init__(self, report: Callable[..., None], settle: Callable[[], None], answered: ColumnDataSource) -> None:
        super().__init__("Densities: drag the numbered modes", drag=True)
        self._report = report
        self._state: State | None = None
        self.square = Window(0.0, 0.0, 1.0)
        self._given: tuple[Board | None, Window] = (None, self.square)  # whose q and q_i are in the picture
        self.looked = False  # whether the picture's window has been set for these modes
        self._uniforms = np.random.default_rng(0).random((_DRAWS, 2))
        self._quiet = False
        # What was last taken hold of. At the end of a drag the draw tool sends the places of everything it could have
        # dragged, and those of the others may be older than what the browser has just been sent.
        self._held = ""
        self._handles: Array = np.zeros((2, 2))
        modes, handles = self.modes, self.handles
        modes.on_change("data", lambda attr, old, new: self._mode_dragged(new))
        handles.on_change("data", lambda attr, old, new: self._handle_dragged(new))
        modes.selected.on_change("indices", lambda attr, old, new: self._hold("mode", new))
        handles.selected.on_change("indices", lambda attr, old, new: self._hold("handle", new))
        self.figure.on_event(PanEnd, lambda event: settle())
        self.figure.on_event(Tap, lambda event: self._deselect())
        arguments = {"modes": modes, "handles": handles, "answered": answered}
        self.figure.js_on_event("pan", CustomJS(args=arguments, code=SEND_WHILE_DRAGGING))

    def _mode_dragged(self, new: Any) -> None:
        if self._quiet or self._held == "handle" or self._state is None:
            return
        places = np.column_stack([new["x"], new["y"]]).astype(float)
        known = np.array([[mode.x, mode.y] for mode in self._state.modes])
        if len(places) != len(known):
            # The draw tool deletes a point on Backspace: so be it, as long as one is left.
            gone = set(range(len(known))) - {int(text) - 1 for text in new["number"]}
            self._report("remove", True, min(gone))
            return
        moved = int(np.abs(places - known).sum(axis=1).argmax())
        self._report("place", tuple(round(float(value), 4) for value in places[moved]), moved)

    def _handle_dragged(self, new: Any) -> None:
        if self._quiet or self._held == "mode":
            return
        places = np.column_stack([new["x"], new["y"]]).astype(float)
        if places.shape != (2, 2):
            self._report("draws", True, None)
            return
        which = int(np.abs(places - self._handles).sum(axis=1).argmax())
        self._handles = places
        self._report("axis", (places[which], places[1 - which]), which)

    def _hold(self, held: str, indices: list[int]) -> None:
        if indices:
            self._held = held
            if held == "mode":
                self._report("hold", indices[-1], None)

    def _deselect(self) -> None:
        # A point that stays selected would be dragged along with the next one.
        self.modes.selected.indices = []
        self.handles.selected.indices = []

    def follow(self, view: View, chosen: int, dragging: str, shown: bool) -> None:
        """Draw a view.

        Args:
            dragging: what is under the pointer, see ``HELD``.
            shown: whether draws are.
        """
        state = self._state = view.state
        if not dragging:
            square, old = window(state.modes, view.answer), self.square
            outside = max(abs(square.x - old.x), abs(square.y - old.y)) + square.half > old.half * 1.001
            if outside or square.half < 0.7 * old.half or not self.looked:
                self.square, self.looked = square, True
                self.look_at(square)
        bad = next((int(place.split()[1]) - 1 for place in view.errors if place.startswith("mode")), None)
        self._quiet = True
        try:
            self.show_modes(state.modes, chosen, dragging, bad)
        finally:
            self._quiet = False
        if dragging != "handle":
            self._handles = np.column_stack([self.handles.data["x"], self.handles.data["y"]]).astype(float)
        if view.board is None:
            return
        ratios, axes = view.board.ratios, view.board.nodes.axes
        assert axes is not None  # a grid always has them
        if self._given != (view.board, self.square):  # what q and the q_i look like, no level changes
            self._given = (view.board, self.square)
            tables = [ratios.log_weights, *(ratios.log_weights + rho for rho in ratios.values.T)]
            base, *parts = (on_lattice(view, table, self.square) for table in tables)
            self.show_given(self.square, base, parts)
        found = None if view.answer is None else np.asarray(view.answer.solution.log_weights)
        self.show_target(self.square, None if found is None else on_lattice(view, found, self.square))
        masses = (ratios.log_weights, found) if shown else (None, None)
        self.show_draws(*(None if one is None else draws((axes[0], axes[1]), one, self._uniforms) for one in masses))
