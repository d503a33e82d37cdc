"""The table in docs/benchmarks.md is that of the points beside it, and nobody has typed it.

python tests/docs/test_docs_benchmarks.py    # writes it anew
"""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.evaluation.sweep.across import across
from diffusion.evaluation.sweep.frontier import markdown, read_points

DOCS = Path(__file__).parents[2] / "docs"
FOLDERS = ("benchmarks",)
ALL = "<!-- all points: docs/{} -->\n"
BEGIN, END = "<!-- points: docs/{} -->\n", "<!-- end of points -->"


def put(text: str, begin: str, lines: list[str]) -> str:
    head, rest = text.split(begin)
    return f"{head}{begin}\n" + "\n".join(lines) + f"\n\n{END}{rest.split(END, 1)[1]}"


def replaced(text: str) -> str:
    """The page with every table made from its points."""
    for name in FOLDERS:
        tasks = {folder: read_points(folder) for folder in sorted((DOCS / name).iterdir())}
        for folder, points in tasks.items():
            if BEGIN.format(f"{name}/{folder.name}") in text:
                text = put(text, BEGIN.format(f"{name}/{folder.name}"), markdown(points, "kernel machine"))
        found = across({points[0].concept: points for points in tasks.values()}, "kernel machine")
        text = put(text, ALL.format(name), found)
    return text


def test_the_tables_are_those_of_the_points():
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert replaced(text) == text, "run: python tests/docs/test_docs_benchmarks.py"


def test_another_figure_would_be_noticed():
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert replaced(text.replace("| uce | 1 |", "| uce | 2 |")) == text


def test_every_point_says_its_command_and_none_a_place_of_some_machine():
    for folder in [folder for name in FOLDERS for folder in sorted((DOCS / name).iterdir())]:
        points = read_points(folder)
        assert len({point.task for point in points}) == 1
        assert all(point.command.startswith("unlearn bench wardrobe --sweep") for point in points)
        assert not any(f" {root}" in point.command for point in points for root in ("/home", "/root"))


if __name__ == "__main__":
    page = DOCS / "benchmarks.md"
    page.write_text(replaced(page.read_text(encoding="utf-8")), encoding="utf-8")
