"""The answer in words: status and certificate as short HTML, with the numbers that belong to them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

import duality as du
from toy.explorer.curves import slope
from toy.explorer.levels import functional, unit
from toy.explorer.posed import direction
from toy.explorer.views import View


def number(value: float, digits: int = 4) -> str:
    """A number for people as HTML: so many digits, a true minus sign, powers of ten where they are needed."""
    text = f"{value + 0.0:.{digits}g}".replace("inf", "∞")
    if "e" in text and 1 <= abs(value) < 1e6:  # 100 at two digits is 1e+02 to Python
        text = f"{float(text):.0f}"
    if "e" in text:
        mantissa, exponent = text.split("e")
        text = f"{mantissa}·10<sup>{int(exponent)}</sup>" if mantissa != "1" else f"10<sup>{int(exponent)}</sup>"
    return text.replace("-", "−")


def status_line(view: View) -> tuple[str, str]:
    """A class for colour (good, idle, bound, bad) and the status in a few words."""
    solution = view.solution
    if solution is None:
        return "bad", "No answer"
    if _emptied(solution):
        short = "Not attained: nothing of q would be left"
    elif view.state.problem == "RU":  # beyond the tilts, other densities may do (`Solution.message`)
        short = "Not attained by any tilt of q"
    else:
        short = "Not attained by any density"
    return {
        du.Status.OPTIMAL: ("good", "Solved"),
        du.Status.INACTIVE: ("idle", "Inactive: nothing is to be done"),
        du.Status.NOT_ATTAINED: ("bound", short),
        du.Status.INEXACT: ("bound", "Solved, but short of the tolerance"),
    }[solution.status]


def status_html(view: View) -> str:
    """The status and why, one paragraph or two."""
    kind, head = status_line(view)
    solution = view.solution
    if solution is None:
        reasons = "".join(f"<p>{escape(text)}</p>" for text in view.errors.values())
        shown = (
            "the last entries that made sense" if view.stage is None else "q and the q<sub>i</sub>, without a target"
        )
        return _box(kind, head, reasons + f"<p>The picture shows {shown}.</p>")
    if solution.status is du.Status.INACTIVE:
        have = _reached(view, solution.levels)
        text = f"<p>The pretrained q already meets every level ({have}), so p* = q and the cost is 0.</p>"
    elif solution.status is du.Status.NOT_ATTAINED:
        text = _not_attained(view, solution)
    else:
        text = _optimal(view, solution)
        if solution.status is du.Status.INEXACT:
            text = f"<p>{escape(solution.message)}.</p>"
    return _box(kind, head, text)


def failure_html(error: Exception) -> str:
    """What is said where the page itself failed, for a reason that it did not foresee."""
    reason = escape(f"{type(error).__name__}: {error}")
    return _box("bad", "No answer", f"<p>The page failed at this entry ({reason}); what it shows is older.</p>")


def certificate_html(view: View) -> str:
    """A table of what was asked and reached, and how far the numbers can be trusted; empty without an answer."""
    solution, answer, key = view.solution, view.answer, view.state.key
    if solution is None or answer is None:
        return ""
    rows = []
    for i, asked in enumerate(solution.problem.levels):
        cells = [
            f"{'≥' if direction(solution.problem, i) > 0 else '≤'} {number(float(asked))}",
            _known(float(solution.levels[i]), number(float(solution.levels[i]), 5)),
            _known(float(solution.slack[i]), _near_zero(float(solution.slack[i]), abs(asked))),
            number(float(solution.multipliers[i]), 6),
        ]
        rows.append((_bounded(view, i), cells))
    cost = "KL(q‖p*)" if view.state.problem == "FU" else "KL(p*‖q)"
    if not solution.attained:
        cost = cost.replace("p*", "limit")
    per_axis = len(answer.nodes.axes[0]) if answer.nodes.axes else 0
    facts = [
        ("Cost of the target, " + cost, _known(solution.primal, number(solution.primal, 7) + " nats")),
        ("Dual value, a lower bound for every density", number(solution.dual, 7) + " nats"),
        ("Relative gap", _known(solution.gap, number(solution.gap, 2))),
        ("KKT residual", number(solution.kkt_residual, 2)),
        (f"Error of the {per_axis} × {per_axis} grid", number(max(view.truncation, view.resolution), 2)),
    ]
    facts += _keeping(view)
    lines = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    note = f"Levels in {unit(key)}s" if unit(key) == "density" else f"Levels in {unit(key)}"
    if unit(key) == "probability":
        note = "Levels are probabilities"
    elif view.state.keeping and view.state.problem != "FU":
        note += ", and probabilities of what is kept"
    table = _table(("what", "asked", "reached", "slack", "λ*"), rows)
    return f"{table}<p class='note'>{note}.</p><dl>{lines}</dl>" + _by_prompt(view)


def trade_off_html(view: View) -> str:
    """The present point of the trade-off curve and its slope."""
    solution, i = view.solution, view.state.concept
    if solution is None:
        return ""
    per = {"nats": "nat", "probability": "unit of probability", "density": "unit of density"}[unit(view.state.key)]
    return (
        f"V = {number(solution.dual, 5)} nats at b<sub>{i + 1}</sub> = {number(view.levels[i])}; "
        f"slope {number(slope(solution, i), 5)} nats per {per} of level"
    )


def _optimal(view: View, solution: du.Solution) -> str:
    cost = number(solution.primal, 5)
    idle = [i + 1 for i in range(view.state.m) if solution.multipliers[i] == 0]
    free = [k + 1 for k, lam in zip(view.state.keeping, solution.multipliers[view.state.m :], strict=True) if lam == 0]
    text = f"<p>p* meets the levels ({_reached(view, solution.levels)}) and no density that does costs less than "
    text += f"{cost} nats.</p>"
    if idle:
        which = ", ".join(f"b<sub>{i}</sub>" for i in idle)
        text += f"<p>Met for free, with multiplier 0: {which}.</p>"
    if free:
        text += f"<p>Kept for nothing, with multiplier 0: mode {', '.join(map(str, free))}.</p>"
    return text


def _not_attained(view: View, solution: du.Solution) -> str:
    """Why, and what the value then is: the three cases of `Solution.message`, with their numbers."""
    at, value = _row(solution.multipliers), f"{number(solution.dual, 5)} nats"
    if _emptied(solution):
        return (
            f"<p>The multipliers have reached the end of the dual domain, λ = {at}, and add up to 1: q − Σ "
            "λ<sub>i</sub> q<sub>i</sub> is 0 everywhere, so no density is left to be the target.</p>"
            f"<p>The least cost is {value} as a limit of densities that never reaches one; the picture shows the last "
            "that the grid can. Ask for less, or leave a part of q out of the concepts.</p>"
        )
    reached = solution.critical_levels if solution.critical_levels is not None else solution.levels
    short = f"reaches {_reached(view, np.asarray(reached))}, short of what was asked"
    if view.state.problem == "RU":
        return (
            f"<p>The tilts of q end at λ = {at}, on the points where Σ λ<sub>i</sub> log q<sub>i</sub>/q is least: the "
            f"limit shown {short}.</p><p>The least cost, {value}, is right. Densities that are less even on those "
            "points do reach the levels, though they are no tilts; where only the grid ends, a wider one goes on.</p>"
        )
    why = f"The multipliers have reached the end of the dual domain, λ = {at}"
    if view.state.problem == "FU":
        why += (
            ": one step further and q − Σ λ<sub>i</sub> q<sub>i</sub> would be negative somewhere. There the target is "
            "as far from the q<sub>i</sub> as a density of this form can be"
        )
    return (
        f"<p>{why}: the limit density shown {short}.</p><p>Densities that meet the levels exist, and the least cost is "
        f"{value}, but only as a limit: ever less mass on an ever smaller set. Ask for less than the critical level to "
        "have a target.</p>"
    )


def _emptied(solution: du.Solution) -> bool:
    """Whether no density is left: the cost and the levels are then NaN, and only the value is known."""
    return not solution.attained and bool(np.isnan(solution.primal))


def _reached(view: View, levels: np.ndarray) -> str:
    own = enumerate(levels[: view.state.m])
    return ", ".join(f"{_bounded(view, i)} = {number(float(level), 5)}" for i, level in own)


def _bounded(view: View, i: int) -> str:
    """What constraint i bounds, in symbols: the concepts' first, then what is to be kept; in the mean over prompts."""
    state = view.state
    if i < state.m:
        text = functional(state.key, i, f"q<sub>{i + 1}</sub>", "E<sub>p</sub>")
    else:
        mode = state.keeping[i - state.m] + 1
        text = f"KL(mode {mode}‖p)" if state.problem == "FU" else f"E<sub>p</sub> Pr(mode {mode}|x)"
    return f"E<sub>c</sub> {text}" if state.prompts else text


def _keeping(view: View) -> list[tuple[str, str]]:
    """What it costs to keep each mode, and all of them."""
    if view.whole is None:
        return []
    kept = view.whole.kept
    facts = [(f"Keeping mode {one.mode + 1} costs", number(one.cost, 4) + " nats") for one in kept]
    if len(kept) > 1:
        facts.append(("Keeping all of these costs", number(view.whole.together, 4) + " nats"))
    return facts


def _by_prompt(view: View) -> str:
    """A table of prompts: how much of each concept is shown, before and after, and what the target costs there."""
    whole, state = view.whole, view.state
    if whole is None or not state.prompts:
        return ""
    rows = []
    for c, (board, after, cost) in enumerate(zip(whole.stage.boards, whole.shown, whole.costs, strict=True)):
        before = np.clip(board.scene.priors, 0.0, 1.0)
        cells = [
            ", ".join(f"{number(100 * float(share), 3)} %" for share in before),
            ", ".join(_known(float(share), f"{number(100 * float(share), 3)} %") for share in after),
            _known(float(cost), f"{number(float(cost), 4)} nats"),
        ]
        name = f"<strong>{c + 1}, shown</strong>" if c == state.prompt else str(c + 1)
        rows.append((name, cells))
    return _table(("prompt", "q shows", "p* shows", "cost"), rows)


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of columns by their heads, and rows of a name and its cells, as HTML."""
    top = "".join(f"<th scope='col'>{word}</th>" for word in head)
    body = ""
    for name, cells in rows:
        body += f"<tr><th scope='row'>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _row(values: np.ndarray) -> str:
    return ", ".join(number(float(value), 5) for value in values)


def _known(value: float, text: str) -> str:
    return "none" if np.isnan(value) else text


def _near_zero(value: float, scale: float) -> str:
    return "0" if abs(value) <= 1e-8 * max(scale, 1e-12) else number(value, 3)


def _box(kind: str, head: str, text: str) -> str:
    return f"<div class='status {kind}' role='status'><strong>{head}</strong>{text}</div>"
