"""Renderings: what the formulas say, pixel by pixel; the same whatever stands beside; bad input refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusion.wardrobe import BACKGROUNDS, STYLES, render, shipped_photographs
from diffusion.wardrobe.rendering import empty_canvas, patterns

CELLS = [(s, b) for s in range(len(STYLES)) for b in range(len(BACKGROUNDS))]


def one(image, style, background):
    return render(image[None].astype(np.uint8), np.array([style]), np.array([background]))[0]


@pytest.mark.parametrize(("style", "background"), CELLS)
def test_a_black_photograph_leaves_the_background_alone(style, background):
    shown = one(np.zeros((28, 28)), style, background)
    np.testing.assert_array_equal(shown, empty_canvas(style, background))


def test_every_style_and_background_has_a_canvas_of_its_own():
    canvases = [empty_canvas(s, b) for s, b in CELLS]
    apart = [np.abs(x - y).mean() for i, x in enumerate(canvases) for y in canvases[:i]]
    assert len(apart) == 18 * 17 / 2
    assert min(apart) > 0.02


def test_patterns_are_what_they_are_called():
    plain, stripes, dots = patterns()
    assert not plain.any()
    i, j = np.nonzero(stripes)
    assert set((i + j) // 4 % 2) == {1}
    assert stripes.mean() == 0.5
    # 16 dots of 13 pixels, 8 apart along both axes.
    assert dots.sum() == 16 * 13
    np.testing.assert_array_equal(dots, np.roll(dots, (8, 8), (0, 1)))


def test_a_square_of_one_grey_level_has_the_colours_of_the_formulas():
    # Inside the square the gradient vanishes: no edges, one grey level g.
    image = np.zeros((28, 28))
    image[6:22, 6:22] = 204
    g = 204 / 255
    middle = {
        "photo": (g, g, g),
        "sketch": (1, 1, 1),
        "blueprint": (0.08, 0.2, 0.55),
        "pop art": (1, 0.9, 0.1),
        "mosaic": tuple((0.15 + 0.85 * g) * c for c in (1, 0.6, 0.25)),
        "neon": (0.02 + 0.25 * g, 0, 0.08 + 0.3 * g),
    }
    for number, style in enumerate(STYLES):
        shown = (one(image, number, 0)[:, 16, 16] + 1) / 2
        np.testing.assert_allclose(shown, middle[style], atol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(("level", "colour"), [(200, (1, 0.9, 0.1)), (120, (0.95, 0.15, 0.5)), (60, (0.1, 0.1, 0.5))])
def test_pop_art_has_three_levels(level, colour):
    shown = (one(np.full((28, 28), level), STYLES.index("pop art"), 0)[:, 16, 16] + 1) / 2
    np.testing.assert_allclose(shown, colour, atol=4 * np.finfo(np.float32).eps)


def test_a_mosaic_is_constant_on_blocks():
    photographs = shipped_photographs("train")[:20]
    shown = render(photographs.images, np.full(20, STYLES.index("mosaic")), np.zeros(20, int))
    blocks = shown.reshape(20, 3, 8, 4, 8, 4)
    assert np.ptp(blocks, axis=(3, 5)).max() == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 300), st.integers(0, 17), st.integers(0, 2**32 - 1))
def test_an_image_does_not_depend_on_what_stands_beside_it(row, cell, seed):
    data, rng = shipped_photographs("train"), np.random.default_rng(seed)
    rows = np.append(rng.integers(len(data), size=5), row)
    styles, backgrounds = np.append(rng.integers(6, size=5), cell // 3), np.append(rng.integers(3, size=5), cell % 3)
    together = render(data.images[rows], styles, backgrounds)
    np.testing.assert_array_equal(together[-1], one(data.images[row], cell // 3, cell % 3))
    assert together.dtype == np.float32
    assert together.min() >= -1
    assert together.max() <= 1


@pytest.mark.parametrize(
    ("images", "styles", "backgrounds", "named"),
    [
        (np.zeros((2, 28, 28)), [0, 0], [0, 0], "uint8"),
        (np.zeros((2, 32, 32), np.uint8), [0, 0], [0, 0], r"\(n, 28, 28\)"),
        (np.zeros((2, 28, 28), np.uint8), [0], [0, 0], "styles must be"),
        (np.zeros((2, 28, 28), np.uint8), [0, 6], [0, 0], "styles must be numbers from 0 to 5"),
        (np.zeros((2, 28, 28), np.uint8), [0, 0], [0, -1], "backgrounds must be numbers"),
    ],
)
def test_bad_input_is_refused(images, styles, backgrounds, named):
    with pytest.raises(ValueError, match=named):
        render(images, np.array(styles), np.array(backgrounds))
