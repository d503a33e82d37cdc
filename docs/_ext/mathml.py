"""Mathematics as MathML, converted while building: pages need neither a script nor another host to show a formula."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

ACCENTED = r"(\\(?:bar|hat|tilde)\s*(?:\\[A-Za-z]+|[A-Za-z]|\{[^{}]*\}))(?=\s*[_^])"
BARE_FRACTION = r"\\([td]?frac)\s*([0-9A-Za-z])\s*([0-9A-Za-z]|\\[A-Za-z]+)"
FUNCTION = r"\\(?:log|exp|inf|sup|max|min|lim)"


def prepared(text: str) -> str:
    """TeX as the converter likes it: commands that it knows, bars that stand close, air around function names."""
    for name in ("align*", "align", "equation*", "equation", "gather*", "gather"):
        text = text.removeprefix(rf"\begin{{{name}}}").removesuffix(rf"\end{{{name}}}").strip()
    text = text.replace(r"\dots", r"\ldots").replace(r"ess\,", "ess\N{NO-BREAK SPACE}")
    text = re.sub(BARE_FRACTION, r"\\\1{\2}{\3}", text)  # or the digits of \tfrac12 are read as one number
    text = re.sub(ACCENTED, r"{{}\1}", text)  # or the subscript of an accented letter lands below it
    text = re.sub(r"(\\operatorname\{[^}]*\})\s*(?=[A-Za-z\\])", r"\1\\,", text)
    text = re.sub(r"(?<!\\)\|([^|]+?)(?<!\\)\|", r"\\lvert \1\\rvert ", text)
    text = re.sub(rf"({FUNCTION})\s+(?=[A-Za-z\\])(?!\\(?:bigl|Bigl|left|frac))", r"\1\\,", text)
    return re.sub(rf"(?<=[A-Za-z0-9}})])\s*(?={FUNCTION}(?![a-z]))(?<!\\in)(?<!\\le)(?<!\\ge)", r"\\,", text)


def convert(self: Any, node: nodes.Node, *, block: bool) -> str:
    """MathML of a node; a formula that cannot be converted is a warning, and so an error in our build."""
    text = prepared(node.astext().strip())
    try:
        made = str(latex2mathml.tex2mathml(text, as_block=block))
    except MathError as error:
        logger.warning("formula not converted: %s: %s", text, error, location=node)
        return str(self.encode(text))
    # Without a mathematics font browsers draw accents through the letter; as scripts they stand above it in every font.
    made = made.replace('<mover accent="true">', "<mover>")
    made = re.sub(r"<mo>[:\N{RATIO}]</mo>\s*<mo>=</mo>", "<mo>\N{COLON EQUALS}</mo>", made)
    made = made.replace("<mo>'</mo>", '<mo lspace="0" rspace="0">\N{PRIME}</mo>')
    return re.sub(r'<mo(?: class="mathopen")?>\|</mo>', '<mo lspace="0" rspace="0" stretchy="false">|</mo>', made)


def inline(self: Any, node: nodes.Node) -> None:
    self.body.append(convert(self, node, block=False))
    raise nodes.SkipNode


def displayed(self: Any, node: nodes.Node) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({node["number"]})</span>')
    self.body.append(convert(self, node, block=True))
    self.body.append("</div>")
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (inline, None), (displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
