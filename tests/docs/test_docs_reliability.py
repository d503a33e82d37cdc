"""Every test that the page on reliability names exists, and every row names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> list[str]:
    lines = PAGE.read_text("utf-8").splitlines()
    table = [line for line in lines if line.startswith("|") and not line.startswith("|---")]
    return [line for line in table if not line.rstrip().endswith("| Test |")]


def test_the_page_has_tables() -> None:
    assert len(rows()) > 30
    assert "reliability" in (ROOT / "docs" / "index.md").read_text("utf-8")


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_every_row_names_tests_that_exist(row: str) -> None:
    named = NAMED.findall(row.strip().strip("|").split("|")[-1])
    assert named, f"no test in {row!r}"
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in found, f"{path} has no {name}"
