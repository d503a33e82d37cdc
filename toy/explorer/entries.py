"""What one entry on the page makes of the state: a pure function, so that it can be tested without a browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from toy.explorer.compute import View
from toy.explorer.state import State, check_number, from_example

ENTRIES = {
    "x": "x₁ of the mean",
    "y": "x₂ of the mean",
    "c11": "variance c11",
    "c12": "covariance c12",
    "c22": "variance c22",
}
_PLAIN = ("problem", "kind", "alpha_bar", "concept", "kept", "section")


class Entered(NamedTuple):
    """The state after an entry, the mode that is being edited, and whether all before it may be forgotten."""

    state: State
    chosen: int
    afresh: bool = False


def entered(state: State, view: View, chosen: int, what: str, value: Any, index: Any = None) -> Entered:
    """The state after one entry.

    view : the numbers of the state, for the ranges of its levels. chosen : the mode that is being edited. what : the
    name of a field of the state, or "start" (an example), "mode" (to edit), "draws", "concepts" (how many), "level" and
    "slider" (of concept index), "entry" (index names it) and "weight" of the chosen mode, "share" (of concept index),
    "add", "remove".

    Raises ``EntryError`` for an entry that the state cannot hold, ``ValueError`` for an unknown name.
    """
    place = {"level": f"level {_one(index)}", "alpha_bar": "noise", "kept": "kept"}.get(what, f"mode {chosen + 1}")
    names = {"level": place, "weight": "weight in q", "share": f"share in q_{_one(index)}"}
    names |= {"entry": ENTRIES.get(index, ""), "alpha_bar": "noise level", "kept": "left of every concept"}
    if what in names:
        check_number(place, names[what], value)
    if what in _PLAIN:
        return Entered(replace(state, **{what: value}), chosen)
    if what == "mode":
        return Entered(state, int(value))
    if what == "draws" or (what == "start" and not value):
        return Entered(state, chosen)
    if what == "start":
        fresh = from_example(value, state.problem)
        return Entered(replace(fresh, section=state.section, alpha_bar=state.alpha_bar, kept=state.kept), 0, True)
    if what == "concepts":
        return Entered(state.with_concepts(int(value)), chosen)
    if what in ("level", "slider"):
        return Entered(_leveled(state, view, what, float(value), int(index)), chosen)
    if what == "entry":
        return Entered(state.with_mode(chosen, **{index: float(value)}), chosen)
    if what == "weight":
        return Entered(state.with_mode(chosen, weight=float(value)), chosen)
    if what == "share":
        shares = list(state.modes[chosen].shares)
        shares[index] = float(value)
        return Entered(state.with_mode(chosen, shares=tuple(shares)), chosen)
    if what == "add":
        return Entered(state.with_new_mode(), len(state.modes))
    if what == "remove":
        return Entered(state.without_mode(chosen), 0)
    raise ValueError(f"what: an entry of the page is needed, given {what!r}")


def _one(index: Any) -> int:
    """The number of a concept, for people."""
    return index + 1 if isinstance(index, int) else 1


def _leveled(state: State, view: View, what: str, value: float, index: int) -> State:
    levels = list(view.levels) or [0.0] * state.m
    if what == "slider":
        if not view.ranges:  # nothing is known of the modes as they are, so a position means no level
            return state
        value = view.ranges[index].level(value)
    levels[index] = value
    return state.with_levels(tuple(levels))
