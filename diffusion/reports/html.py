"""One HTML page that needs nothing beside it: images are inside, no script, no outside host."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { color-scheme: light; --ink: #1b1f24; --soft: #5a6572; --line: #d8dee4; --accent: #0b5cad; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.4rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: 1rem 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; } pre { background: #f5f7f9; padding: .8rem; overflow-x: auto; font-size: .82rem; }
a { color: var(--accent); }
"""


def page(title: str, body: Sequence[str]) -> str:
    return (
        '<!doctype html><html lang="en"><classifier><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></classifier><body><h1>{escape(title)}</h1>"
        + "".join(body)
        + "</body></html>\n"
    )


def section(title: str, html: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{html}</section>"


def table(classifier: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in classifier)
    lines = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def image(path: Path, words: str) -> str:
    return _inline(path.read_bytes(), words)


def _inline(png: bytes, words: str) -> str:
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def bars(shares: dict[str, Sequence[float]], classes: Sequence[str]) -> str:
    """Class shares side by side as an image."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 2.8), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    width = 0.8 / len(shares)
    for j, ((name, values), colour) in enumerate(
        zip(shares.items(), ("#9aa5b1", "#0b5cad", "#c8553d", "#3a7d44"), strict=False)
    ):
        places = [k + (j - (len(shares) - 1) / 2) * width for k in range(len(classes))]
        axes.bar(places, [100 * value for value in values], width, label=name, color=colour)
    axes.set_xticks(range(len(classes)), classes)
    axes.set_ylabel("share of samples (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(shares))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return _inline(buffer.getvalue(), "class shares before and after")
