"""Mathematics as MathML, converted while building: pages need neither a script nor another host to show a formula."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def convert(self: Any, node: nodes.Node, *, block: bool) -> str:
    """MathML of a node; a formula that cannot be converted is a warning, and so an error in our build."""
    text = node.astext().strip().replace(r"\dots", r"\ldots")  # the converter knows one of the two
    for name in ("align*", "align", "equation*", "equation", "gather*", "gather"):
        text = text.removeprefix(rf"\begin{{{name}}}").removesuffix(rf"\end{{{name}}}").strip()
    try:
        return str(latex2mathml.tex2mathml(text, as_block=block))
    except MathError as error:
        logger.warning("formula not converted: %s: %s", text, error, location=node)
        return self.encode(text)


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
