"""Examples in pages and docstrings do what they show."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
FENCE = re.compile(r"^```(?:python|pycon|\{doctest\})\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(page: Path) -> str:
    """The page's sessions, one after the other: they share their names."""
    return "\n\n".join(block for block in FENCE.findall(page.read_text("utf-8")) if ">>>" in block)


@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem)
def test_pages(page: Path) -> None:
    text = examples(page)
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    report: list[str] = []
    runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


def modules() -> list[str]:
    found = []
    for package in ("duality", "toy"):
        root = importlib.import_module(package)
        found += [package, *(info.name for info in pkgutil.walk_packages(root.__path__, f"{package}."))]
    return found


@pytest.mark.parametrize("name", modules())
def test_docstrings(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError as error:  # an extra that is not installed
        pytest.skip(str(error))
    result = doctest.testmod(module, optionflags=OPTIONS)
    assert result.failed == 0


def snippets() -> list[tuple[str, str]]:
    """Python blocks that are shown without a prompt: they need a model, so they are not run."""
    found = []
    for page in PAGES:
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        found += [(page.stem, block) for block in blocks if ">>>" not in block]
    return found


@pytest.mark.parametrize(("page", "code"), snippets(), ids=[page for page, _ in snippets()])
def test_what_snippets_import_exists_and_takes_what_it_is_given(page: str, code: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    known: dict[str, Any] = {}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
            parameters = inspect.signature(known[node.func.id]).parameters
            assert {word.arg for word in node.keywords} <= set(parameters), ast.unparse(node)
