"""Captions say one cell each, and their words are tokens."""

import itertools

import pytest

from diffusion.wardrobe import (
    BACKGROUNDS,
    OBJECTS,
    PIPELINE_FOLDER,
    STYLES,
    Cell,
    caption,
    captions,
    cell_of,
    every_caption,
)
from diffusion.wardrobe.captions import TEMPLATES


def test_every_caption_is_of_one_cell():
    every = every_caption()
    assert len(every) == len(set(every)) == 9 * 7 * 3 * len(TEMPLATES)
    cells = itertools.product((*range(len(OBJECTS)), None), (*range(len(STYLES)), None), range(len(BACKGROUNDS)))
    for numbers in cells:
        for text in captions(Cell(*numbers)):
            assert cell_of(text) == Cell(*numbers)


def test_captions_read_as_described():
    sneaker = Cell(OBJECTS.index("sneaker"), STYLES.index("sketch"), BACKGROUNDS.index("stripes"))
    assert captions(sneaker) == (
        "a sketch of a sneaker on stripes",
        "sneaker sketch on stripes",
        "a sneaker in sketch style on stripes",
        "a sneaker as a sketch on stripes",
    )
    assert caption(Cell(None, 1)) == "a sketch of a garment"
    assert caption(Cell(5, None)) == "a picture of a sneaker"
    assert cell_of("  A Sketch of a  SNEAKER on stripes ") == sneaker


@pytest.mark.parametrize("prompt", ["", "a sketch", "a sneaker on a sketch", "a photo of a coat"])
def test_other_prompts_are_of_no_cell(prompt):
    assert cell_of(prompt) is None


@pytest.mark.parametrize(
    ("cell", "template", "named"),
    [
        (Cell(8, 0), 0, "object"),
        (Cell(0, -1), 0, "style"),
        (Cell(0, 0, 3), 0, "background"),
        (Cell(0, 0), 9, "template"),
    ],
)
def test_numbers_that_are_unknown_are_refused(cell, template, named):
    with pytest.raises(ValueError, match=f"{named} must be from 0"):
        caption(cell, template)


def test_every_word_of_a_caption_is_one_token_and_no_caption_is_cut():
    pytest.importorskip("transformers")
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(PIPELINE_FOLDER / "tokenizer")
    for text in every_caption():
        words = text.replace("t-shirt", "t - shirt").split()
        assert tokenizer.tokenize(text) == [f"{word}</w>" for word in words]
        assert len(tokenizer(text).input_ids) == len(words) + 2 <= tokenizer.model_max_length
    # Any other word is spelled out, none is lost.
    assert "".join(tokenizer.tokenize("zebra")) == "zebra</w>"
