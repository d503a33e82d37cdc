"""Every public name of `duality`, `toy` and `diffusion` has a docstring and a place in the reference."""

from __future__ import annotations

import importlib.util
import re
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
    pytest.importorskip("cvxpy")  # duality.checks.reference is a public name that needs it
    pytest.importorskip("diffusers")
    assert complete.complaints(DOCS / "reference") == []


def test_a_missing_name_would_be_noticed(complete: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("cvxpy")
    pytest.importorskip("diffusers")
    (tmp_path / "page.md").write_text(".. autofunction:: duality.solve\n.. autofunction:: duality.nothing\n")
    found = complete.complaints(tmp_path)
    assert "duality.frontier: not listed in docs/reference" in found
    assert "duality.nothing: listed in docs/reference, but not public" in found
    assert not any(line.startswith("duality.solve:") for line in found)
    assert "diffusion.pipelines.sampling: not listed in docs/reference, nor internal in docs/_ext/complete.py" in found
    assert not any(line.startswith("diffusion.cli.main") for line in found)


def test_names_in_the_docs_are_in_the_reference(complete: ModuleType) -> None:
    """What pages and gallery import from `diffusion` or `toy` is shown in the reference."""
    names = complete.listed(DOCS / "reference")
    pages = [page for page in DOCS.rglob("*.*") if page.suffix in (".md", ".py") and "gallery_built" not in page.parts]
    for page in pages:
        for module in re.findall(r"^(?:>>> )?from ((?:diffusion|toy)[\w.]*) import", page.read_text("utf-8"), re.M):
            assert module in (*names, "toy"), f"{page.name}: {module}"


def test_internal_modules_exist(complete: ModuleType) -> None:
    for name in complete.INTERNAL:
        assert importlib.util.find_spec(f"{complete.MODULES}.{name}") is not None, name


def test_a_generated_docstring_is_none(complete: ModuleType) -> None:
    from dataclasses import dataclass

    @dataclass
    class Bare:
        x: int

    assert not complete.documented(Bare)
    assert complete.documented(3.0)
