"""Concepts of the canvas, their captions and anchors, and what classifiers say on each axis."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from diffusion.api import embedded, prompts_of
from diffusion.pipelines import EMBEDDED
from diffusion.tasks.task import ConceptTask
from diffusion.wardrobe import BACKGROUNDS, OBJECTS, STYLES, Cell, cell_of, every_caption, render, shipped_photographs
from diffusion.wardrobe.prompts import ANCHORS, WardrobeClassifiers, asking, concept_of, fallen_back, prompts_for


@pytest.mark.parametrize(
    ("prompt", "cell"),
    [
        ("a boot", Cell(7, None)),
        ("An ankle  BOOT", Cell(7, None)),
        ("boot picture on dots", Cell(7, None)),
        ("pop art", Cell(None, 3)),
        ("a sketch of a garment", Cell(None, 1)),
        ("a sketch of a t-shirt on stripes", Cell(0, 1)),
        ("", None),
        ("a garment", None),
        ("a boot and a bag", None),
        ("boots", None),
        ("a photograph", None),
        (ANCHORS[0], None),
    ],
)
def test_what_a_prompt_names(prompt, cell):
    assert concept_of(prompt) == cell


@pytest.mark.parametrize("cell", [Cell(7, None), Cell(None, 3), Cell(0, 1)])
def test_a_concept_has_all_captions_that_name_it_and_no_other(cell):
    named = [text for text in every_caption() if _holds(concept_of(text), cell)]
    assert sorted(asking(cell)) == sorted(named)
    for text in asking(cell):
        left = cell_of(fallen_back(text, cell))
        assert left is not None
        assert left.background == cell_of(text).background
        assert not _holds(left, cell)
        if cell.object is not None:
            assert (left.object, left.style) == (None, cell_of(text).style)
        else:
            assert (left.object, left.style) == (cell_of(text).object, None)


def _holds(found, cell):
    return found is not None and all(
        wanted in (None, said) for wanted, said in ((cell.object, found.object), (cell.style, found.style))
    )


def test_an_anchor_for_what_does_not_ask_is_refused():
    with pytest.raises(ValueError, match="does not name 'boot'"):
        fallen_back("a sneaker", Cell(7, None))


def test_prompts_of_a_task():
    prompts = prompts_for(["a boot", "bag picture"])
    assert [concept.name for concept in prompts.concepts] == ["a boot", "bag picture"]
    assert len(prompts.contrast) == len(OBJECTS) - 2
    assert prompts.asks_for("a sketch of a boot on stripes") == 0
    assert prompts.asks_for("a sketch of a sneaker") is None
    assert len(prompts_for(["a sketch of a boot"]).contrast) == len(OBJECTS) * len(STYLES) - 1
    for wrong, words in (
        (["a seven"], "names no object"),
        (["a boot", "boot picture"], "already names"),
        (["a boot", "neon"], "all be objects"),
        (list(OBJECTS), "must be retained"),
    ):
        with pytest.raises(ValueError, match=words):
            prompts_for(wrong)


def test_the_pipeline_is_known_by_name_and_folder():
    assert embedded("wardrobe") == "wardrobe"
    assert embedded(str(EMBEDDED["digits"])) == "digits"
    assert embedded("somebody/wardrobe") is None

    class Named:
        pipeline = type("Pipeline", (), {"name_or_path": str(EMBEDDED["wardrobe"])})()

    task = ConceptTask(concepts=["a boot"], levels="1%")
    assert prompts_of(Named, task).asks_for("boot neon on dots") == 0
    (concept,) = prompts_of(Named, task.but(concepts=["neon"])).concepts
    assert concept.name == "neon"


def test_classifiers_name_object_style_and_both():
    photographs = shipped_photographs("held-out")
    rows = np.arange(0, len(photographs), max(1, len(photographs) // 48))[:48]
    styles = np.arange(len(rows)) % len(STYLES)
    images = render(photographs.images[rows], styles, np.arange(len(rows)) % len(BACKGROUNDS))
    truth = {"object": photographs.objects[rows], "style": styles}
    truth["cell"] = truth["object"] * len(STYLES) + truth["style"]
    for axis, labels in truth.items():
        found = WardrobeClassifiers(axis)
        for said in found(images).values():
            assert (said == labels).mean() > 0.85
            assert (np.roll(said, 5) == labels).mean() < 0.7
        assert found.view(images).shape == (len(rows), 3, 8, 8)
    assert WardrobeClassifiers("object").asked("a sketch of a boot") == 7
    assert WardrobeClassifiers("style").asked("a sketch of a boot") == 1
    assert WardrobeClassifiers("cell").asked("a sketch of a boot") == 7 * 6 + 1
    assert WardrobeClassifiers("cell").classes[7 * 6 + 1] == "sketch of a boot"
    assert WardrobeClassifiers("cell").asked("a boot") is None
    assert WardrobeClassifiers("style").asked(ANCHORS[0]) is None
    with pytest.raises(ValueError, match="axis"):
        WardrobeClassifiers("colour")
