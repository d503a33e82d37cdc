"""Docstrings are what they look like to Sphinx: Google's sections, backticks, and literal blocks for formulas."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sphinx")
from docutils import nodes
from docutils.frontend import get_default_settings
from docutils.parsers.rst import Parser, roles
from docutils.utils import Reporter, new_document
from sphinx.ext.napoleon import Config, GoogleDocstring

ROOT = Path(__file__).parents[2]
PACKAGES = ("duality", "toy", "diffusion")
NAPOLEON = Config(napoleon_use_rtype=False, napoleon_use_ivar=True)  # as docs/conf.py has it
SECTION = re.compile(r"\S[^\n]*\n *(?:Args|Attributes|Returns|Raises|Warns|Yields):\n")
# What a line of mathematics turns into where it is neither in backticks nor in a literal block.
MISREAD = (nodes.problematic, nodes.block_quote, nodes.definition_list, nodes.substitution_reference, nodes.line_block)

for role in ("func", "class", "meth", "attr", "mod", "data"):
    roles.register_generic_role(role, nodes.literal)


def texts(body: list[ast.stmt], what: str) -> Iterator[tuple[int, str, str]]:
    """Line, what it is of, and docstring, of everything in a body of code, attributes included."""
    for k, node in enumerate(body):
        text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
        before = body[k - 1] if k else None
        if isinstance(text, str) and (k == 0 or isinstance(before, ast.Assign | ast.AnnAssign)):
            yield node.lineno, "attribute" if k else what, inspect.cleandoc(text)
        if isinstance(node, ast.ClassDef):
            yield from texts(node.body, "class")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = [ast.unparse(one) for one in node.decorator_list]
            yield from texts(node.body, "property" if any("property" in one for one in decorators) else "function")


def objections(text: str, what: str) -> list[str]:
    """Where napoleon and docutils read something else than what is meant."""
    found = []
    if SECTION.search(text):
        found.append("a section needs a blank line before it")
    # Napoleon takes what stands before a colon in the first line of an attribute for its type.
    if what in ("property", "attribute") and ":" in re.sub(r"`[^`]*`|:\w+:`", "", text.split("\n")[0]):
        found.append("the first line of an attribute has a colon")
    settings = get_default_settings(Parser)  # type: ignore[arg-type]
    settings.report_level = Reporter.SEVERE_LEVEL
    document = new_document("docstring", settings)
    read = str(GoogleDocstring(text, NAPOLEON, what=what))
    Parser().parse(f".. default-role:: code\n\n{read}", document)
    for node in document.findall():
        message = isinstance(node, nodes.system_message) and node["level"] > Reporter.INFO_LEVEL
        reference = isinstance(node, nodes.reference) and "://" not in node.astext()
        if message or reference or isinstance(node, MISREAD):
            found.append(f"{type(node).__name__}: {node.astext()[:80]}")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_are_read_as_they_are_meant(package: str) -> None:
    wrong = []
    for path in sorted((ROOT / package).rglob("*.py")):
        source = path.read_text("utf-8")
        where = path.relative_to(ROOT)
        for line, what, text in texts(ast.parse(source).body, "module"):
            if re.search(r"[*|_`\\\n:]", text):
                wrong += [f"{where}:{line} {one}" for one in objections(text, what)]
        comments = re.findall(r"^(?!\s*#).*\n {4,}#: ([^\n]*)", source, re.MULTILINE)  # of the attribute below them
        wrong += [f"{where} #: {one}" for one in comments if ":" in re.sub(r"`[^`]*`", "", one)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Mean.\n\n    sum_i x_i / n\n\nover all.", "function"),  # a quotation, not a formula
        ("The size |x|: its norm.", "property"),
        ("Distance, with |x - y| in the way.", "function"),
        ("The target p with weights w_ of its own.", "function"),
        ("Sum.\nArgs:\n    x: what is summed.", "function"),
        ("q : what it is\n    of.", "function"),
        ("Strong *without end.", "function"),
    ],
)
def test_what_would_be_misread_is_found(text: str, what: str) -> None:
    assert objections(text, what)


def test_mathematics_in_backticks_and_blocks_is_fine() -> None:
    text = "Distance `|x - y|`, and\n\n::\n\n    p* = q_ |w|\n\nArgs:\n    x: `a_`.\n\nRaises:\n    OSError: x."
    assert objections(text, "function") == []
