"""What one entry on the page makes of the state: a pure function, so that it can be tested without a browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from toy.explorer.links import from_example
from toy.explorer.shapes import dragged
from toy.explorer.state import PLAIN, EntryError, State, check_number
from toy.explorer.views import View

ENTRIES = {
    "x": "x₁ of the mean",
    "y": "x₂ of the mean",
    "c11": "variance c11",
    "c12": "covariance c12",
    "c22": "variance c22",
}


class Entered(NamedTuple):
    """The state after an entry, the mode that is being edited, and whether all before it may be forgotten."""

    state: State
    chosen: int
    afresh: bool = False


def entered(state: State, view: View, chosen: int, what: str, value: Any, index: Any = None) -> Entered:
    """The state after one entry.

    Args:
        view: the numbers of the state, for the ranges of its levels.
        chosen: the mode that is being edited.
        what: the name of a field of the state, or "start" (an example), "mode" (to edit; "hold" where it is taken hold
            of), "draws", "concepts" (how many), "level" and "slider" (of concept index), of the chosen mode "entry"
            (index names it), "weight", "other" (the weight under the last prompt), "keep" and "share" (of concept
            index), "place" (of mode index), "axis" (where handle index of the chosen mode is, and the other), "add",
            "remove" (mode index, or the chosen one).

    Raises ``EntryError`` for an entry that the state cannot hold, ``ValueError`` for an unknown name.
    """
    number = index + 1 if isinstance(index, int) else 1
    place = {"level": f"level {number}", "alpha_bar": "noise", "kept": "kept"}.get(what, f"mode {chosen + 1}")
    names = {"level": place, "weight": "weight in q", "share": f"share in q_{number}", "alpha_bar": "noise level"}
    names |= {"entry": ENTRIES.get(index, ""), "kept": "left of every concept", "prompt": "prompt"}
    names |= {"other": "weight under the last prompt", "keep": "kept of this mode"}
    if what in names:
        check_number(place, names[what], value)
    if what == "prompts":
        state = state.with_prompts(bool(value))
    elif what in PLAIN:
        state = replace(state, **{what: value})
    elif what in ("mode", "hold"):
        chosen = min(int(value), len(state.modes) - 1)
    elif what == "start" and value:
        fresh = from_example(value, state.problem)
        kept = {name: getattr(state, name) for name in ("section", "alpha_bar", "kept", "prompt")}
        return Entered(replace(fresh.with_prompts(state.prompts), **kept), 0, True)
    elif what == "concepts":
        state = state.with_concepts(int(value))
    elif what in ("level", "slider"):
        state = _leveled(state, view, what, float(value), int(index))
    elif what == "entry":
        state = state.with_mode(chosen, **{index: float(value)})
    elif what in ("weight", "other", "keep"):
        state = state.with_mode(chosen, **{what: float(value)})
    elif what == "share":
        shares = list(state.modes[chosen].shares)
        shares[index] = float(value)
        state = state.with_mode(chosen, shares=tuple(shares))
    elif what == "place":
        state, chosen = state.with_mode(int(index), x=value[0], y=value[1]), int(index)
    elif what == "axis":
        try:
            c11, c12, c22 = dragged(state.modes[chosen], int(index), *value)
        except ValueError as error:
            raise EntryError(place, str(error)) from None
        state = state.with_mode(chosen, c11=c11, c12=c12, c22=c22)
    elif what == "add":
        state, chosen = state.with_new_mode(), len(state.modes)
    elif what == "remove":
        state, chosen = state.without_mode(chosen if index is None else int(index)), 0
    elif what not in ("draws", "start"):
        raise ValueError(f"what: an entry of the page is needed, given {what!r}")
    return Entered(state, chosen)


def _leveled(state: State, view: View, what: str, value: float, index: int) -> State:
    levels = list(view.levels) or [0.0] * state.m
    if what == "slider":
        if not view.ranges:  # nothing is known of the modes as they are, so a position means no level
            return state
        value = view.ranges[index].level(value)
    levels[index] = value
    return state.with_levels(tuple(levels))
