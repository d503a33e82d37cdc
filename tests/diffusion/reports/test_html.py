"""Pages: whatever they are given is escaped, what they lack is an error, and they need nothing beside them."""

import io
import json
import re
import tomllib
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

from diffusion.evaluation.measured import Moved
from diffusion.reports.certificate import Certificate
from diffusion.reports.demo_page import moved_table
from diffusion.reports.html import Table, _environment, data_uri, render
from diffusion.tasks.config import EvaluationConfig, FitConfig, RatiosConfig
from diffusion.tasks.task import ConceptTask
from diffusion.workflows.demo import demo_config, run_demo


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2)).save(buffer, format="PNG")
    return buffer.getvalue()


def test_words_of_others_are_escaped_wherever_they_stand():
    source = '{% from "parts.html.jinja" import table, image %}{{ table(data) }}{{ image(png, words) }}{{ words }}'
    evil = '<script>alert("x")</script>'
    made = _environment().from_string(source).render(data=Table([evil], [[evil]]), png=png(), words=evil)
    assert "<script" not in made
    assert made.count("&lt;script&gt;") == 4
    assert data_uri(png()) in made


def test_what_is_missing_is_an_error_and_not_an_empty_place():
    with pytest.raises(UndefinedError, match="title"):
        render("page")
    assert "<h1>A &amp; B</h1>" in render("page", title="A & B")


def test_templates_are_part_of_what_is_installed():
    root = Path(__file__).parents[3]
    data = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    templates = set((root / "diffusion").rglob("*.jinja"))
    shipped = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in (root / package.replace(".", "/")).glob(pattern)
    }
    assert len(templates) >= 4
    assert templates <= shipped


def test_a_row_has_as_many_cells_as_there_are_columns():
    with pytest.raises(ValueError, match="rows must have 2 cells"):
        Table(["a", "b"], [["1", "2"], ["1"]])


def test_each_row_of_the_rest_has_its_own_noise_floor():
    one = Moved(energy_distance=0.01, noise_floor=0.002, largest_class_shift={"SVM": 0.1})
    found = moved_table({"guided": one, "LoRA": one.model_copy(update={"noise_floor": 0.003})})
    assert [row[:3] for row in found.rows] == [["guided", "+0.0100", "0.0020"], ["LoRA", "+0.0100", "0.0030"]]
    assert moved_table({}).rows == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning", "ignore::duality.MassWarning")
def test_the_demo_says_the_same_numbers_everywhere(tmp_path):
    """At a tiny size: a whole page, whose noise floor of the LoRA is the certificate's, and the summary's."""
    config = demo_config(60, 0, tmp_path / "cache").but(
        ratios=RatiosConfig(concept_samples=60, retained_samples=90, num_samples=80, classifier_steps=60, noisings=4,
                            elbo_samples=6, elbo_noise_levels=4),
        fit=FitConfig(max_train_steps=2, fixed_multipliers=True),
        evaluation=EvaluationConfig(samples=60, retained_samples=20, integrated=4),
    )  # fmt: skip
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "toy.png").write_bytes(png())
    task = ConceptTask(concepts=["a handwritten seven"], problem="likelihood", levels="5%")
    summary = run_demo(folder, ("opening <text>", folder / "toy.png"), task, config)
    page = (folder / "index.html").read_text(encoding="utf-8")
    proof = Certificate.model_validate_json((folder / "certificate.json").read_text(encoding="utf-8"))
    moved = proof.fitted_model.measured.moved
    (row,) = re.findall(r"<tr><td>LoRA, anchor</td><td>([^<]*)</td><td>([0-9.]*)</td><td>[0-9.]* points", page)
    assert row == (f"{moved.energy_distance:+.4f}", f"{moved.noise_floor:.4f}")
    assert f"moved by {moved.energy_distance:.4f} (noise floor {moved.noise_floor:.4f})" in summary
    assert "opening &lt;text&gt;" in page
    assert page.count("<section>") == page.count("</section>") == 8
    assert page.count('src="data:image/png') == page.count("<img") == 4
    assert "http" not in page
    assert "Not certified" in page  # two steps
    assert json.loads((folder / "certificate.json").read_text(encoding="utf-8"))["schema_version"] == 1
