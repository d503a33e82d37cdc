"""The figures in the reference are those of the benchmark's JSON, and nobody has typed them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import figures


def test_the_reference_has_the_figures_of_the_json():
    text = figures.PAGE.read_text()
    assert figures.replaced(text) == text, "run: python tests/benchmarks/figures.py"


def test_a_figure_that_somebody_changes_by_hand_is_noticed():
    text = figures.PAGE.read_text()
    section = figures.page()
    number = section.split("|")[-4]
    assert figures.replaced(text.replace(section, section.replace(number, " 0.0 "))) == text
