"""The parts of the page beside the target itself: noise and reverse processes, the comparison, what to take away."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import panel as pn

from toy.explorer import export
from toy.explorer.compare import Matched, compare
from toy.explorer.controls import pane, widget, wrong
from toy.explorer.figures import ChainFigure, FieldFigure, Plane
from toy.explorer.layout import tiles
from toy.explorer.noise import Chains, NoiseView, chains, noise_view, rules
from toy.explorer.script import python_lines
from toy.explorer.shapes import Window, on_lattice, window
from toy.explorer.state import EntryError
from toy.explorer.views import View
from toy.explorer.words import number

FIELDS = 5  # the exact field and up to four rules
_SEED = 0
_FIELDS_SAY = (
    "<p class='say'>Arrows: scores. Lines: the noised target. Shade: size of a rule's error, white for none, darkest "
    "for 2 and more.</p>"
)
_CHAINS_SAY = (
    "<h2>The reverse process, side by side</h2><p class='say'>Both start from the same noise and take the same DDPM "
    "steps; one has the exact score of the noised target, the other a guided one. Lines: the target.</p>"
)


class NoiseSection:
    """Fields with their errors, and two reverse processes. ``soon`` runs what takes a moment, and says so."""

    def __init__(self, soon: Callable[[Callable[[], None]], None]) -> None:
        self._soon = soon
        self._quiet = False  # while the player is put back
        self.rule = widget(pn.widgets.Select, label="Guided by", options=["no guidance"], max_width=260)
        self.player = widget(
            pn.widgets.Player,
            label="Step of the reverse process",
            end=1,
            interval=90,
            show_loop_controls=False,
            visible_buttons=["first", "previous", "pause", "next", "last"],
            sizing_mode=None,
            width=320,
        )
        # The player's own buttons are pictures without names; this one can be read out.
        self.play = widget(pn.widgets.Button, label="Play", sizing_mode=None, width=90, margin=(22, 4, 3, 4))
        self.play.on_click(lambda _: self._play())
        self.fields = [FieldFigure("Score of the noised target")]
        self.fields += [FieldFigure(f"Guidance rule {k}") for k in range(1, FIELDS)]
        self.says = [pane(min_height=68) for _ in range(FIELDS)]
        self.exact, self.guided = ChainFigure("Exact reverse process"), ChainFigure("Guided reverse process")
        self.play_says = pane()
        self.found: NoiseView | None = None
        self._view: View | None = None
        self._chains: Chains | None = None
        self.rule.param.watch(lambda _: self._stale(), "value")
        self.player.param.watch(lambda event: self._frame(int(event.new)), "value")

    def layout(self, entries: Sequence[Any], **settings: Any) -> Any:
        """The section; ``entries`` are the noise level, and what is wrong with it."""
        fields = zip(self.says, self.fields, strict=True)
        chains = (("Exact", self.exact), ("Guided", self.guided))
        return pn.Column(
            *entries,
            pane(_FIELDS_SAY),
            tiles([(says, field.figure) for says, field in fields]),
            pane(_CHAINS_SAY),
            pn.FlexBox(self.rule, self.play, self.player, margin=0),
            tiles([(pane(f"<h3>{name}</h3>"), one.figure) for name, one in chains], css_classes=["pair"]),
            self.play_says,
            **settings,
        )

    def follow(self, view: View, square: Window) -> None:
        """Fields and errors of a view with an answer; the reverse processes start over."""
        assert view.answer is not None
        self._view = view
        names = list(rules(view.answer))
        if list(self.rule.options) != names:
            self.rule.param.update(options=names, value=names[0])
        found = self.found = noise_view(view, square)
        head = f"<strong>Exact score of the noised target</strong>, ᾱ = {number(found.alpha_bar, 3)}"
        self.says[0].object = head + f"<br>correction to q's score: {number(found.correction, 3)} (rms)"
        self.fields[0].show(square, found.density, found.exact, None)
        for k, (says, field) in enumerate(zip(self.says, self.fields, strict=True)):
            says.visible = field.figure.visible = k <= len(found.rules)
        for rule, says, field in zip(found.rules, self.says[1:], self.fields[1:], strict=False):
            share = f", {_share(rule.rms, found.correction)} of the correction" if found.correction > 1e-6 else ""
            says.object = f"<strong>{escape(rule.name)}</strong><br>error {number(rule.rms, 2)} (rms){share}"
            field.show(square, found.density, rule.field, rule.error)
        target = on_lattice(view, np.asarray(view.answer.solution.log_weights), square)
        for one in (self.exact, self.guided):
            one.show_target(square, target)
        self._stale()

    def _stale(self) -> None:
        """Forget the processes: they are run anew when they are next looked at."""
        self._chains = None
        self._quiet = True
        self.player.value = 0
        self._quiet = False
        start = np.random.default_rng(_SEED).standard_normal((250, 2))
        for one in (self.exact, self.guided):
            one.show_states(start)
        self.play_says.object = "<p>Pure noise. Press play.</p>"

    def _play(self) -> None:
        """From the noise to the data."""

        def begin() -> None:
            self.player.direction = 0
            self.player.direction = 1

        self._stale()
        self._frame(0, begin)

    def _frame(self, step: int, then: Callable[[], None] = lambda: None) -> None:
        """Show a step; where the processes have not been run yet, run them first."""
        view = self._view
        if view is None or self._quiet:
            return
        if self._chains is None:
            self._soon(lambda: self._run(view, step, then))
            return
        last = len(self._chains.levels) - 1
        step = min(step, last)
        self.exact.show_states(self._chains.exact[step])
        self.guided.show_states(self._chains.guided[step])
        text = f"<p>ᾱ = {number(float(self._chains.levels[step]), 3)}"
        self.play_says.object = text + (_left(view, self._chains) if step == last else "") + "</p>"
        then()

    def _run(self, view: View, step: int, then: Callable[[], None]) -> None:
        if self._chains is None:
            self._chains = chains(view, str(self.rule.value), np.random.default_rng(_SEED))
            self.player.end = len(self._chains.levels) - 1
        self._frame(step, then)


class CompareSection:
    """RU, FU and LU at matched removal."""

    def __init__(self) -> None:
        self.wrong = pane()
        self.planes = [Plane(f"{name} at matched removal", concepts=False) for name in ("RU", "FU", "LU")]
        self.says = [pane(min_height=68) for _ in self.planes]
        self.found: tuple[Matched, ...] = ()
        self.square: Window | None = None

    def layout(self, entries: Sequence[Any], **settings: Any) -> Any:
        """The section; ``entries`` are the share that is left, and what is wrong with it."""
        pairs = [(says, plane.figure) for says, plane in zip(self.says, self.planes, strict=True)]
        return pn.Column(*entries, self.wrong, tiles(pairs), **settings)

    def follow(self, view: View) -> None:
        """Three targets for a view; where they cannot be matched the panel says why."""
        try:
            self.found = compare(view, view.state.kept)
            self.wrong.object = _alone(view)
        except EntryError as error:
            self.found = ()
            self.wrong.object = wrong(str(error))
        for one in (*self.says, *(plane.figure for plane in self.planes)):
            one.visible = bool(self.found)
        if not self.found or view.board is None:
            return
        square = self.square = window(view.state.modes, *(one.answer for one in self.found))
        base = on_lattice(view, view.board.ratios.log_weights, square)
        for one, plane, says in zip(self.found, self.planes, self.says, strict=True):
            target = None
            if one.answer is not None:
                target = on_lattice(view, np.asarray(one.answer.solution.log_weights), square)
            plane.show_given(square, base, [])
            plane.show_target(square, target)
            plane.look_at(square)
            says.object = _matched(one)


class SaveSection:
    """Figure, numbers and code of the view, and the link to it. ``current`` gives the view; ``draw`` the figure."""

    def __init__(self, current: Callable[[], View], draw: Callable[[], Any]) -> None:
        def download(label: str, name: str, make: Callable[[], bytes]) -> Any:
            settings = {"filename": name, "label": label, "sizing_mode": None, "width": 140}
            return widget(pn.widgets.FileDownload, callback=lambda: io.BytesIO(make()), **settings)

        self.figures = [
            download("Figure, PNG", "unlearning.png", lambda: export.image(draw(), "png")),
            download("Figure, SVG", "unlearning.svg", lambda: export.image(draw(), "svg")),
        ]
        self.numbers = download("Numbers, JSON", "unlearning.json", lambda: export.numbers(current()).encode())
        self.script = download("Python", "unlearning.py", lambda: self._lines(current()).encode())
        self.says = pane()

    def layout(self) -> Any:
        """Buttons in a row, then the link and the code."""
        row = pn.FlexBox(*self.figures, self.numbers, self.script, margin=0)
        return pn.Column(pane("<h2>Take it away</h2>"), row, self.says, sizing_mode="stretch_width", margin=0)

    def follow(self, view: View, link: str) -> None:
        """Offer what the view has."""
        for button in (*self.figures, self.script):
            button.disabled = view.answer is None
        text = f"<p><a href='?view={link}'>Link to this view</a> (also the address of the page).</p>"
        if view.answer is not None:
            text += f"<p>The same in Python:</p><pre tabindex='0'>{escape(self._lines(view))}</pre>"
        self.says.object = text

    def _lines(self, view: View) -> str:
        return python_lines(view.state, view.levels)


def section_figure(view: View, noise: NoiseSection, compared: CompareSection) -> Any:
    """The Matplotlib figure of the section that is open."""
    if view.state.section == "noise" and noise.found is not None:
        return export.noise_figure(noise.found)
    if view.state.section == "compare" and compared.found and compared.square is not None:
        return export.compare_figure(view, compared.found, compared.square)
    return export.target_figure(view)


def _alone(view: View) -> str:
    """What the comparison leaves out."""
    if view.whole is None:
        return ""
    where = f"Under prompt {view.state.prompt + 1} alone" if view.state.prompts else "Without what is kept"
    return f"<p class='note'>{where}{', and without what is kept' if view.state.prompts else ''}.</p>"


def _matched(one: Matched) -> str:
    if one.answer is None:
        return f"<strong>{one.name}</strong>{wrong(one.why)}"
    left = ", ".join(f"{number(100 * float(share), 3)} %" for share in one.left)
    lam = ", ".join(number(float(value), 4) for value in one.answer.solution.multipliers)
    cost = f"KL(p‖q) {number(one.reverse, 4)}, KL(q‖p) {number(one.forward, 4)} nats"
    return f"<strong>{one.name}</strong>: {left} left<br>{cost}<br>λ = {lam}{wrong(one.why)}"


def _left(view: View, found: Chains) -> str:
    """How much of each concept the draws of both processes show, where q says what that means."""
    assert view.answer is not None
    assert view.board is not None
    priors = np.array(view.board.scene.priors)
    if not np.all((priors > 0) & (priors < 1)):
        return ". Done."
    shares = [
        (priors * np.exp(view.answer.log_ratio(states[-1])[:, : len(priors)])).mean(axis=0)
        for states in (found.exact, found.guided)
    ]
    exact, guided = (", ".join(f"{number(100 * float(share), 2)} %" for share in one) for one in shares)
    start = ", ".join(f"{number(100 * float(prior), 2)} %" for prior in priors)
    return f". Draws that show the concept: exact {exact}, guided {guided} (q: {start})."


def _share(part: float, whole: float) -> str:
    share = 100 * part / whole
    return f"{number(share, 2)} %" if share < 1000 else f"{number(share / 100, 2)} times"
