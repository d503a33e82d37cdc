"""The answer in words: status and certificate as short HTML, with the numbers that belong to them."""

from __future__ import annotations

from html import escape

import numpy as np

import duality as du
from toy.explorer.compute import View
from toy.explorer.levels import functional, relation, unit


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
    if view.answer is None:
        return "bad", "No answer"
    solution = view.answer.solution
    if _emptied(solution):
        short = "Not attained: nothing of q would be left"
    elif isinstance(solution.problem, du.ReverseKL):  # beyond the tilts, other densities may do (`Solution.message`)
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
    if view.answer is None:
        reasons = "".join(f"<p>{escape(text)}</p>" for text in view.errors.values())
        shown = (
            "the last entries that made sense" if view.board is None else "q and the q<sub>i</sub>, without a target"
        )
        return _box(kind, head, reasons + f"<p>The picture shows {shown}.</p>")
    solution = view.answer.solution
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
    if view.answer is None:
        return ""
    solution, key = view.answer.solution, view.state.key
    head = "<tr><th scope='col'>what</th><th scope='col'>asked</th><th scope='col'>reached</th>"
    head += "<th scope='col'>slack</th><th scope='col'>λ*</th></tr>"
    rows = ""
    for i in range(len(solution.multipliers)):
        cells = [
            f"{relation(key)} {number(view.levels[i])}",
            _known(float(solution.levels[i]), number(float(solution.levels[i]), 5)),
            _known(float(solution.slack[i]), _near_zero(float(solution.slack[i]), abs(view.levels[i]))),
            number(float(solution.multipliers[i]), 6),
        ]
        rows += (
            f"<tr><th scope='row'>{functional(key, i)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    cost = "KL(q‖p*)" if view.state.problem == "FU" else "KL(p*‖q)"
    if not solution.attained:
        cost = cost.replace("p*", "limit")
    per_axis = len(view.answer.nodes.axes[0]) if view.answer.nodes.axes else 0
    facts = [
        ("Cost of the target, " + cost, _known(solution.primal, number(solution.primal, 7) + " nats")),
        ("Dual value, a lower bound for every density", number(solution.dual, 7) + " nats"),
        ("Relative gap", _known(solution.gap, number(solution.gap, 2))),
        ("KKT residual", number(solution.kkt_residual, 2)),
        (f"Error of the {per_axis} × {per_axis} grid", number(max(view.truncation, view.resolution), 2)),
    ]
    lines = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    note = f"Levels in {unit(key)}s" if unit(key) == "density" else f"Levels in {unit(key)}"
    if unit(key) == "probability":
        note = "Levels are probabilities"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table><p class='note'>{note}.</p><dl>{lines}</dl>"


def trade_off_html(view: View) -> str:
    """The present point of the trade-off curve and its slope."""
    if view.answer is None:
        return ""
    solution, i = view.answer.solution, view.state.concept
    slope = float(solution.problem.direction * solution.multipliers[i])
    per = {"nats": "nat", "probability": "unit of probability", "density": "unit of density"}[unit(view.state.key)]
    return (
        f"V = {number(solution.dual, 5)} nats at b<sub>{i + 1}</sub> = {number(view.levels[i])}; "
        f"slope {number(slope, 5)} nats per {per} of level"
    )


def _optimal(view: View, solution: du.Solution) -> str:
    cost = number(solution.primal, 5)
    idle = [i + 1 for i in range(len(solution.multipliers)) if solution.multipliers[i] == 0]
    text = f"<p>p* meets the levels ({_reached(view, solution.levels)}) and no density that does costs less than "
    text += f"{cost} nats.</p>"
    if idle:
        which = ", ".join(f"b<sub>{i}</sub>" for i in idle)
        text += f"<p>Met for free, with multiplier 0: {which}.</p>"
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
    if isinstance(solution.problem, du.ReverseKL):
        return (
            f"<p>The tilts of q end at λ = {at}, on the points where Σ λ<sub>i</sub> log q<sub>i</sub>/q is least: the "
            f"limit shown {short}.</p><p>The least cost, {value}, is right. Densities that are less even on those "
            "points do reach the levels, though they are no tilts; where only the grid ends, a wider one goes on.</p>"
        )
    why = f"The multipliers have reached the end of the dual domain, λ = {at}"
    if isinstance(solution.problem, du.ForwardKL):
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
    key = view.state.key
    return ", ".join(f"{functional(key, i)} = {number(float(level), 5)}" for i, level in enumerate(levels))


def _row(values: np.ndarray) -> str:
    return ", ".join(number(float(value), 5) for value in values)


def _known(value: float, text: str) -> str:
    return "none" if np.isnan(value) else text


def _near_zero(value: float, scale: float) -> str:
    return "0" if abs(value) <= 1e-8 * max(scale, 1e-12) else number(value, 3)


def _box(kind: str, head: str, text: str) -> str:
    return f"<div class='status {kind}' role='status'><strong>{head}</strong>{text}</div>"
