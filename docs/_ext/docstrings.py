"""Docstrings are written as plain text for people; this makes them safe for Sphinx's markup.

Names in single backticks become literals, `|x|`, `p*` and `a_` stay what they are, an indented block becomes a
literal block, and lines of the form "symbol : meaning" become a list.
"""

from __future__ import annotations

import re
from typing import Any

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Warns|Yields|Notes?|Examples?|Source):\s*$")
LITERAL = re.compile(r"(``[^`]+``|`[^`]+`|:[a-z:]+:`[^`]+`)")
EMPHASIS = re.compile(
    r"(?<![\w*])(\*\w(?:[^*]*\w)?\*)(?![\w*])|[*|\\`]|_(?=\W|$)"
)  # *emphasis* stays, the rest is literal
ENTRY = re.compile(r"^(?P<name>[A-Za-z_][\w, <.=*]*?) : (?P<rest>\S.*)$")

KEPT: dict[str, list[str]] = {}


def escaped(text: str) -> str:
    """One line with its markup characters made literal, outside of backticks."""
    parts = LITERAL.split(text)
    for k, part in enumerate(parts):
        if k % 2:
            parts[k] = part if part.startswith((":", "``")) else f"`{part}`"
        else:
            parts[k] = EMPHASIS.sub(lambda found: found[1] or "\\" + found[0], part)
    return "".join(parts)


def plain(lines: list[str]) -> list[str]:
    """The docstring as reStructuredText that says what the text says."""
    out: list[str] = []
    section = 0  # indentation inside a "Args:"-like section, where napoleon reads
    in_doctest = in_block = False
    for k, line in enumerate(lines):
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if not text:
            in_doctest = False
            out.append("")
            continue
        if text.startswith(">>>") or in_doctest:
            in_doctest = True
            out.append(line)
            continue
        if indent == 0:
            in_block = False
            section = 1 if SECTION.match(line) else 0
        if re.match(r"^-{3,}$", text) or text == "Parameters":  # NumPy's heading: its entries are a list as they are
            continue
        if SECTION.match(line):
            out.append(line)
            continue
        before = next((one for one in reversed(lines[:k]) if one.strip()), "")
        blank_before = k > 0 and not lines[k - 1].strip()
        starts = indent >= 4 and len(before) - len(before.lstrip()) < indent and blank_before
        if not section and not in_block and starts and not before.lstrip().startswith(("- ", "* ", "1. ")):
            in_block = True
            out.extend(["::", ""])
        if in_block:
            out.append(line)
            continue
        if text.startswith("|") and text.endswith("|"):  # a Markdown table: shown as it is typed
            if not out or not out[-1].startswith("    |"):
                out.extend(["", "::", ""])
            out.append("    " + text)
            continue
        entry = ENTRY.match(text)
        if not section and indent == 0 and entry:
            if out and out[-1] and not out[-1].startswith(("* ", "  ")):
                out.append("")
            out.append(f"* ``{entry['name']}``: {escaped(entry['rest'])}")
            continue
        listed = bool(out) and out[-1].startswith(("* ``", "  ")) and indent == 0 and not section
        out.append(("  " if listed else line[:indent]) + escaped(text))
    return out


def before_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain(lines)
    if what in ("attribute", "property"):
        KEPT[name] = list(lines)


def after_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Napoleon reads "formula: remark" in an attribute as "type: description"; here it is neither."""
    if name in KEPT:
        lines[:] = KEPT.pop(name)


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
