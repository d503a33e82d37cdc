"""Every entry of the page as a parameter, with its widget. What an entry makes of the view is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

import panel as pn
import param

from toy.explorer.entries import ENTRIES
from toy.explorer.layout import PANES, WIDGETS
from toy.explorer.levels import SUBSCRIPTS, functional, relation, unit
from toy.explorer.links import names
from toy.explorer.state import MOST_CONCEPTS, MOST_MODES, PROMPTS, EntryError
from toy.explorer.views import View

PROBLEM_LABELS = {"Reverse KL": "RU", "Forward KL": "FU", "Likelihood": "LU"}
KIND_LABELS = {"posterior, Pr(i|x)": "posterior", "density, qᵢ(x)": "density", "log ratio, log qᵢ/q": "log-ratio"}
SECTION_LABELS = {"Target": "target", "Noise": "noise", "Compare": "compare"}
# What an entry says in the units of the state.
_MADE: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("kept", "keep"), lambda percent: percent / 100),
    "prompt": lambda number: number - 1,
}
_FILLED: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}


def pane(text: str = "", **settings: Any) -> Any:
    """An HTML pane in the common style."""
    return pn.pane.HTML(text, stylesheets=[PANES], **{"sizing_mode": "stretch_width", "margin": (2, 4), **settings})


def styled(kind: Any, **settings: Any) -> dict[str, Any]:
    """The settings of a widget in the common style, as ``pn.Param`` takes them."""
    return {"type": kind, "stylesheets": [WIDGETS], "sizing_mode": "stretch_width", "margin": (3, 4), **settings}


def widget(kind: Any, **settings: Any) -> Any:
    """A widget of no parameter, in the common style."""
    return kind(**{name: value for name, value in styled(kind, **settings).items() if name != "type"})


def wrong(text: str) -> str:
    """A message about an entry, as HTML; nothing for nothing. ``alert`` so that it is read out."""
    return f"<p class='wrong' role='alert'>{escape(text)}</p>" if text else ""


def asked(key: str, i: int) -> str:
    """What level i (from 0) bounds, in plain text for a label."""
    what = functional(key, i, f"q{SUBSCRIPTS[i]}", "mean of")
    return f"b{SUBSCRIPTS[i]}: {what} {relation(key)}" + (" (nats)" if unit(key) == "nats" else "")


class Controls(param.Parameterized):
    """All entries. ``report(what, value, index)`` as ``entered`` takes them, for those made by a person alone."""

    start: Any = param.Selector(objects={"(as it is)": "", **names()}, default="", label="Start from")
    problem: Any = param.Selector(objects=PROBLEM_LABELS, default="LU")
    kind: Any = param.Selector(objects=KIND_LABELS, label="Likelihood")
    concepts: Any = param.Selector(
        objects={str(k): k for k in range(1, MOST_CONCEPTS + 1)}, label="Number of concepts to unlearn"
    )
    concept: Any = param.Selector(objects={"1": 0}, label="Curves along concept")
    draws = param.Boolean(True, label="Show draws")
    prompts = param.Boolean(False, label="Laws that depend on a prompt")
    prompt = param.Integer(1, bounds=(1, PROMPTS), label=f"Prompt that is shown, of {PROMPTS}")
    mode: Any = param.Selector(objects={"1": 0}, label="Mode to edit")
    modes = param.Integer(1)  # how many there are
    weight = param.Number(0.0, softbounds=(0, 1), step=0.01, allow_None=True, label="Weight in q")
    other = param.Number(0.0, softbounds=(0, 1), step=0.01, allow_None=True, label="Weight under the last prompt")
    keep = param.Number(0.0, softbounds=(0, 150), step=1.0, allow_None=True, label="Keep at least (% of what q has)")
    add = param.Event(label="Add a mode")
    remove = param.Event(label="Remove this mode")
    section: Any = param.Selector(objects=SECTION_LABELS)
    alpha_bar = param.Number(
        0.5, softbounds=(0.02, 1), step=0.005, allow_None=True, label="Noise level ᾱ (1: data, near 0: noise)"
    )
    kept = param.Number(
        5.0, softbounds=(0.5, 60), step=0.5, allow_None=True, label="Left of every concept (% of what q has)"
    )

    def __init__(self, report: Callable[..., None]) -> None:
        super().__init__()
        self._report, self._following = report, False
        # What is wrong, beside the entries of: levels; the noise level; the share that is left; modes and all else.
        self.level_wrong, self.noise_wrong, self.kept_wrong, self.mode_wrong = (pane() for _ in range(4))
        self.param.watch(self._changed, [one for one in self.param if one not in ("name", "modes")])
        several = [self.param.concepts.rx() > i for i in range(MOST_CONCEPTS)]
        number = partial(styled, pn.widgets.FloatInput)
        slider = partial(styled, pn.widgets.EditableFloatSlider)
        specs: dict[str, Any] = {
            **dict.fromkeys(("start", "concepts", "mode"), styled(pn.widgets.Select)),
            "problem": styled(pn.widgets.RadioButtonGroup),
            "kind": styled(pn.widgets.Select, visible=self.param.problem.rx() == "LU"),
            "concept": styled(pn.widgets.Select, visible=several[1]),
            **dict.fromkeys(("draws", "prompts"), styled(pn.widgets.Checkbox)),
            "prompt": styled(pn.widgets.IntSlider, visible=self.param.prompts.rx()),
            **dict.fromkeys(ENTRIES, number(step=0.1, width=95, sizing_mode=None)),
            **dict.fromkeys(("weight", "keep"), slider()),
            "other": slider(visible=self.param.prompts.rx()),
            "add": styled(pn.widgets.Button, disabled=self.param.modes.rx() >= MOST_MODES),
            "remove": styled(pn.widgets.Button, disabled=self.param.modes.rx() < 2),
            "section": styled(pn.widgets.RadioButtonGroup, max_width=560, margin=(8, 4)),
            **dict.fromkeys(("alpha_bar", "kept"), slider(max_width=420)),
        }
        for i, shown in enumerate(several, 1):
            specs[f"level{i}"] = number(visible=shown)
            specs[f"slider{i}"] = styled(pn.widgets.FloatSlider, visible=shown, show_value=False)
            specs[f"share{i}"] = slider(visible=shown)
        self._group = partial(pn.Param, self, widgets=specs, show_name=False, **_FILLED)

    def group(self, *parameters: str, layout: Any = pn.Column) -> Any:
        """The widgets of some parameters, one after the other."""
        return self._group(parameters=list(parameters), default_layout=layout)

    def settings(self) -> Any:
        """The column of settings beside the pictures."""
        numbers = range(1, MOST_CONCEPTS + 1)
        return pn.Column(
            self.group("start"),
            pane("<span style='font-size:13px'>Problem</span>"),
            self.group("problem", "kind", "concepts", *(f"{what}{i}" for i in numbers for what in ("level", "slider"))),
            self.level_wrong,
            self.group("concept", "prompts", "prompt", "draws"),
            pane("<h2 style='font-size:15px;margin:10px 0 0'>Modes</h2>"),
            self.group("mode"),
            self.group(*ENTRIES, layout=pn.FlexBox),
            self.mode_wrong,
            self.group("weight", "other", *(f"share{i}" for i in numbers), "keep"),
            self.group("add", "remove", layout=pn.Row),
            **_FILLED,
        )

    def follow(self, view: View, chosen: int, refused: EntryError | None = None) -> None:
        """Set every entry to what was solved; say beside it what is wrong. refused : the last entry, if it was."""
        state, mode = view.state, view.state.modes[chosen]
        values = {name: getattr(state, name) for name in ("problem", "kind", "concept", "section", "alpha_bar")}
        values |= {"concepts": state.m, "modes": len(state.modes), "mode": chosen, "kept": round(100 * state.kept, 6)}
        values |= {name: round(getattr(mode, name), 6) for name in (*ENTRIES, "weight")}
        values |= {"prompts": state.prompts, "prompt": state.prompt + 1, "keep": round(100 * mode.keep, 6)}
        values["other"] = round(mode.weight if mode.other is None else mode.other, 6)
        self.param.weight.label = "Weight under the first prompt" if state.prompts else "Weight in q"
        for i, share in enumerate(mode.shares):
            values[f"share{i + 1}"] = round(share, 6)
            self.param[f"level{i + 1}"].label = asked(state.key, i)
        values |= {f"level{i}": level for i, level in enumerate(view.levels, 1)}
        for i, (one, level) in enumerate(zip(view.ranges, view.levels, strict=False), 1):
            values[f"slider{i}"] = one.position(level)
        self._following = True
        try:
            self.param.concept.objects = {str(i + 1): i for i in range(state.m)}
            self.param.mode.objects = {str(k + 1): k for k in range(len(state.modes))}
            self.param.update(**values)
        finally:
            self._following = False
        said = view.errors | ({refused.place: str(refused)} if refused else {})
        for place, beside in (("level", self.level_wrong), ("noise", self.noise_wrong), ("kept", self.kept_wrong)):
            beside.object = wrong("; ".join(said.pop(one) for one in list(said) if one.startswith(place)))
        self.mode_wrong.object = wrong("; ".join(said.values()))

    def _changed(self, *events: Any) -> None:
        for event in () if self._following else events:
            what, value = event.name, event.new
            if what in ENTRIES:
                self._report("entry", value, what)
            elif what[-1].isdigit():
                self._report(what[:-1], value, int(what[-1]) - 1)
            else:
                self._report(what, _MADE.get(what, lambda given: given)(value) if value is not None else value, None)


for _i, _one in enumerate(SUBSCRIPTS, 1):
    Controls.param.add_parameter(f"level{_i}", param.Number(0.0, allow_None=True))
    Controls.param.add_parameter(f"slider{_i}", param.Magnitude(0.5, step=0.005, label=f"b{_one} from little to much"))
    Controls.param.add_parameter(
        f"share{_i}", param.Number(0.0, softbounds=(0, 1), step=0.01, allow_None=True, label=f"Share in q{_one}")
    )
for _name, _label in ENTRIES.items():
    Controls.param.add_parameter(_name, param.Number(0.0, allow_None=True, label=_label))
