"""Views from examples and from links, and back: a link holds all of a view."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import duality as du
from toy.examples import EXAMPLES, example
from toy.explorer.state import PLAIN, EntryError, Mode, State, check_number, numbers_of

_LONGEST_LINK = 20_000
_LATER = ("prompts", "prompt")  # fields that links of an earlier explorer lack


def from_example(name: str, problem: str = "LU") -> State:
    """The named example of ``toy.examples`` as a view, with its levels."""
    given = example(name)
    parts = (given.pretrained, *given.unlearn)
    rows: dict[Any, list[float]] = {}  # of a Gaussian, its weight in q and its shares
    for column, part in enumerate(parts):
        for weight, (x, y), c in zip(part.weights, part.means, part.covariances, strict=True):
            row = rows.setdefault(tuple(map(_tidy, (x, y, c[0, 0], c[0, 1], c[1, 1]))), [0.0] * len(parts))
            row[column] += float(weight) if column else _tidy(weight)
    modes = tuple(Mode(x, y, c11, c12, c22, row[0], tuple(row[1:])) for (x, y, c11, c12, c22), row in rows.items())
    levels: dict[str, tuple[float, ...]] = {}
    for problem_given in given.problems:
        values = tuple(float(level) for level in problem_given.levels)
        if isinstance(problem_given, du.Likelihood):
            levels[f"LU {problem_given.kind}"] = values
        else:
            levels["RU" if isinstance(problem_given, du.ReverseKL) else "FU"] = values
    kind = "posterior" if "LU posterior" in levels else "log-ratio"
    return State(modes, problem, kind, levels)


def to_dict(state: State) -> dict[str, Any]:
    """Plain JSON data: a mode is the row x, y, c11, c12, c22, weight in q, shares in the q_i; in lists of their own, as
    far as there are any, the weights under the last prompt and what is to be kept."""
    more: dict[str, Any] = {}
    if any(mode.other is not None for mode in state.modes):
        more["others"] = [mode.other for mode in state.modes]
    if state.keeping:
        more["keep"] = [mode.keep for mode in state.modes]
    return {
        "version": 1,
        "modes": [list(numbers_of(mode)) for mode in state.modes],
        **more,
        "levels": {key: list(values) for key, values in state.levels.items()},
        **{name: getattr(state, name) for name in PLAIN},
    }


def from_dict(data: Mapping[str, Any]) -> State:
    """The view that ``to_dict`` wrote. Raises ``EntryError`` for anything else; entries may still make no sense."""
    try:
        rows = data["modes"]
        others, keep = data.get("others", [None] * len(rows)), data.get("keep", [0.0] * len(rows))
        modes = tuple(_mode(row, *more) for row, *more in zip(rows, others, keep, strict=True))
        levels = {str(key): tuple(float(v) for v in values) for key, values in data["levels"].items()}
        added = [value for mode in modes for value in (mode.other or 0.0, mode.keep)]
        for value in itertools.chain(*map(numbers_of, modes), *levels.values(), added):
            check_number("problem", "the link", value)
        plain = {name: kind(data[name]) for name, kind in PLAIN.items() if name in data or name not in _LATER}
        return State(modes, levels=levels, **plain)
    except EntryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise EntryError("problem", f"the link holds no view ({type(error).__name__}: {error})") from None


def to_link(state: State) -> str:
    """A view as text that is safe in a URL: compressed JSON in base64."""
    text = json.dumps(to_dict(state), separators=(",", ":"))
    return base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).decode().rstrip("=")


def from_link(text: str) -> State:
    """The view in a link. Raises ``EntryError`` where it was cut or changed."""
    try:
        if len(text) > _LONGEST_LINK:
            raise ValueError("too long")
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        # A bound on what it may unpack to: a link is foreign data.
        data = json.loads(zlib.decompressobj().decompress(packed, 10 * _LONGEST_LINK))
    except (ValueError, binascii.Error, zlib.error, RecursionError):
        raise EntryError("problem", "the link was cut or changed: it holds no view") from None
    if not isinstance(data, dict):
        raise EntryError("problem", "the link was cut or changed: it holds no view")
    return from_dict(data)


def names() -> dict[str, str]:
    """Titles of the examples to start from, by name."""
    return {example(name).title: name for name in EXAMPLES}


def _mode(row: Sequence[Any], other: Any, keep: Any) -> Mode:
    x, y, c11, c12, c22, weight, *shares = (float(value) for value in row)
    return Mode(x, y, c11, c12, c22, weight, tuple(shares), None if other is None else float(other), float(keep))


def _tidy(value: float) -> float:
    """Twelve digits, and 0 for what is left of cos(pi/2): numbers that people are to read."""
    return round(float(f"{value:.12g}"), 12) + 0.0
