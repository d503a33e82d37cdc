"""Tables of docs/benchmarks.md, and that of docs/paper.md against ESD, are those of the points, and nobody typed them.

python tests/docs/test_docs_benchmarks.py    # writes it anew
"""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.evaluation.sweep.across import LOST, across
from diffusion.evaluation.sweep.frontier import markdown, read_points
from diffusion.evaluation.sweep.seeds import Runs, runs_of

DOCS = Path(__file__).parents[2] / "docs"
FOLDERS = ("benchmarks",)
ALL = "<!-- all points: docs/{} -->\n"
PAPER = "<!-- against ESD: docs/{} -->\n"
BY = "kernel machine"
BEGIN, END = "<!-- points: docs/{} -->\n", "<!-- end of points -->"


def put(text: str, begin: str, lines: list[str]) -> str:
    head, rest = text.split(begin)
    return f"{head}{begin}\n" + "\n".join(lines) + f"\n\n{END}{rest.split(END, 1)[1]}"


def against_esd(runs: list[Runs]) -> list[str]:
    """The paper's kinds of prompts, a line for each setting of ours and of ESD."""
    lines = ["| | " + " | ".join(KINDS) + " |", "| --- |" + " --- |" * len(KINDS)]
    for each in runs:
        if each.method not in ("ours", "esd-x", "esd-u"):
            continue
        one, count = each.points[0].setting, len(each.points)
        name = f"{one.method}, {one.strength:g}, {one.max_train_steps} x {one.train_batch_size}, {one.learning_rate:g}"
        cells = [name + (f", {count} seeds" if count > 1 else "")]
        for prompts in ("trained", "paraphrases", "contexts"):
            found = [point.of("target_share", prompts, BY) for point in each.points]
            cells.append(f"{sum(round(share.mean * share.n) for share in found)} of {sum(share.n for share in found)}")
        cells += [f"{100 * value:.1f} %" for value in each.axes(BY)[:, 1:].mean(axis=0)]
        chains = each.chains(LOST)
        cells.append(f"{each.nats().mean():.2g}" + ("" if chains is None else f" ({chains.mean():.2g})"))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


KINDS = ("unlearned", "the same, paraphrased", "context", "close", "far", "nats under retained prompts")


def replaced(text: str) -> str:
    """The page with every table made from its points."""
    for name in FOLDERS:
        tasks = {folder: read_points(folder) for folder in sorted((DOCS / name).iterdir())}
        for folder, points in tasks.items():
            if BEGIN.format(f"{name}/{folder.name}") in text:
                text = put(text, BEGIN.format(f"{name}/{folder.name}"), markdown(points, BY))
        found = across({points[0].concept: points for points in tasks.values()}, BY)
        text = put(text, ALL.format(name), found)
    return text


def paper(text: str) -> str:
    """The page on the paper with its table made from the points of a boot."""
    return put(text, PAPER.format("benchmarks/boot"), against_esd(runs_of(read_points(DOCS / "benchmarks" / "boot"))))


def test_the_tables_are_those_of_the_points():
    text = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert replaced(text) == text, "run: python tests/docs/test_docs_benchmarks.py"


def test_the_table_against_esd_is_that_of_the_points():
    text = (DOCS / "paper.md").read_text(encoding="utf-8")
    assert paper(text) == text, "run: python tests/docs/test_docs_benchmarks.py"


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
    for name, made in (("benchmarks.md", replaced), ("paper.md", paper)):
        page = DOCS / name
        page.write_text(made(page.read_text(encoding="utf-8")), encoding="utf-8")
