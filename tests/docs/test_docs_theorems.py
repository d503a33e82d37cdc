"""The table of theorems says what is there: functions, tests, rows of `unlearn verify`, every labelled statement."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
THEORY = ROOT / "docs" / "theory"
LABEL = re.compile(r"^\((thm-[a-z0-9-]+)\)=$", re.MULTILINE)


class Row(NamedTuple):
    label: str
    functions: list[str]
    tests: list[str]
    verified: list[str]


def rows() -> list[Row]:
    out = []
    for line in (THEORY / "theorems.md").read_text("utf-8").splitlines():
        if not line.startswith("| ["):
            continue
        statement, functions, tests, verified = [cell.strip() for cell in line.strip("|").split(" |")[:4]]
        label = re.search(r"\(#(thm-[a-z0-9-]+)\)", statement)
        assert label, f"no label in {statement!r}"
        out.append(
            Row(
                label[1],
                re.findall(r"\{py:\w+\}`([\w.]+)`", functions),
                re.findall(r"`([^`]+)`", tests),
                [name.strip() for name in re.split(r"; |, (?!disjoint)", verified) if name.strip()],
            )
        )
    return out


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.label)
def test_functions_import_and_tests_exist(row: Row) -> None:
    assert row.functions, "a statement without a function"
    assert row.tests, "a statement without a test"
    for name in row.functions:
        parts = name.split(".")
        if parts[0] == "diffusion":
            pytest.importorskip("torch")
        for k in range(len(parts), 0, -1):
            try:
                found: object = importlib.import_module(".".join(parts[:k]))
            except ModuleNotFoundError:
                continue
            break
        for attribute in parts[k:]:
            found = getattr(found, attribute)
    for test in row.tests:
        path, _, function = test.partition("::")
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, test


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.label)
def test_rows_of_verify_exist(row: Row) -> None:
    from toy.verification import verify

    assert set(row.verified) <= set(verify.THEOREMS), row.verified


def test_every_statement_is_in_the_table_once() -> None:
    labels = [label for page in sorted(THEORY.glob("*.md")) for label in LABEL.findall(page.read_text("utf-8"))]
    assert len(labels) == len(set(labels))
    assert sorted(row.label for row in rows()) == sorted(labels)


def test_every_statement_has_a_proof() -> None:
    for page in sorted(THEORY.glob("*.md")):
        text = page.read_text("utf-8")
        for label in LABEL.findall(text):
            after = text[text.index(f"({label})=") :]
            admonition, _, rest = after.partition("\n:::\n")
            assert ":class: theorem" in admonition, label
            assert rest.lstrip().startswith("*Proof.*"), label
            assert "∎" in rest.split("(thm-")[0], label
