"""Every public name of `duality` and `toy` has a docstring and a place in the reference."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def complete() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_complete", DOCS / "_ext" / "complete.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_is_missing(complete: ModuleType) -> None:
    pytest.importorskip("cvxpy")  # duality.reference is a public name that needs it
    assert complete.complaints(DOCS / "reference") == []


def test_a_missing_name_would_be_noticed(complete: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("cvxpy")
    (tmp_path / "page.md").write_text(".. autofunction:: duality.solve\n.. autofunction:: duality.nothing\n")
    found = complete.complaints(tmp_path)
    assert "duality.frontier: not listed in docs/reference" in found
    assert "duality.nothing: listed in docs/reference, but not public" in found
    assert not any(line.startswith("duality.solve:") for line in found)


def test_a_generated_docstring_is_none(complete: ModuleType) -> None:
    from dataclasses import dataclass

    @dataclass
    class Bare:
        x: int

    assert not complete.documented(Bare)
    assert complete.documented(3.0)
