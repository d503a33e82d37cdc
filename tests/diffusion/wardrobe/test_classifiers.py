"""Two classifiers ship, and are right of real photographs that neither was trained on; the same photographs show when
they are not."""

import numpy as np
import pytest

pytest.importorskip("torch")

from diffusion.wardrobe import BACKGROUNDS, STYLES, render, shipped_photographs
from diffusion.wardrobe.classifiers import AXES, classifiers
from diffusion.wardrobe.features import colour_means, orientations

NAMES = [classifier.name for classifier in classifiers()]


@pytest.fixture(scope="module")
def held_out():
    data = shipped_photographs("held-out")
    cells = np.arange(len(data)) * 7 % 18  # each of the 18 styles and backgrounds in turn
    styles, backgrounds = np.divmod(cells, len(BACKGROUNDS))
    return render(data.images, styles, backgrounds), np.stack([data.objects, styles, backgrounds], axis=1)


@pytest.mark.parametrize("classifier", classifiers(), ids=NAMES)
def test_they_are_right_of_held_out_photographs(classifier, held_out):
    images, truth = held_out
    right = (classifier(images) == truth).mean(0)
    # 160 images: at a true rate of 96 %, 4 standard errors are 6.2 points.
    assert right[0] > 0.96 - 4 * np.sqrt(0.96 * 0.04 / 160)
    assert min(right[1:]) > 0.97


@pytest.mark.parametrize("classifier", classifiers(), ids=NAMES)
def test_they_see_what_is_changed(classifier, held_out):
    _, truth = held_out
    data = shipped_photographs("held-out")
    other = (truth[:, 1] + 1) % len(STYLES)
    said = classifier(render(data.images, other, truth[:, 2]))
    assert (said[:, 1] == other).mean() > 0.97
    blank = classifier(render(np.zeros_like(data.images), truth[:, 1], truth[:, 2]))
    # An empty canvas shows no object: one answer for each style and background, so at most chance is right.
    assert (blank[:, 0] == truth[:, 0]).mean() < 0.3


def test_they_are_of_one_mind_whatever_the_batch(held_out):
    images, _ = held_out
    for classifier in classifiers():
        np.testing.assert_array_equal(classifier(images[:7]), classifier(images)[:7])
        assert classifier(images[:0]).shape == (0, len(AXES))
        with pytest.raises(ValueError, match=r"images must have shape \(n, 3, 32, 32\), got \(7, 3, 32, 16\)"):
            classifier(images[:7, :, :, :16])


def test_orientations_of_a_plain_background_are_naught_and_of_an_edge_are_its_own():
    zeros = np.zeros(1, int)
    empty = orientations(render(np.zeros((1, 28, 28), np.uint8), zeros, zeros), zeros, zeros)
    assert np.abs(empty).max() < 1e-5
    image = np.zeros((1, 28, 28), np.uint8)
    image[:, :, 14:] = 255  # bright on the right: the gradient points along the rows, direction 0
    seen = orientations(render(image, zeros, zeros), zeros, zeros)[0, :576].reshape(9, 8, 8)
    middle = seen[:, 3, 3:5].sum(1)
    assert middle.argmax() == 0
    assert middle[0] > 0.99 * middle.sum()


def test_colour_means_are_means():
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(
        colour_means(images).reshape(2, 3, 16, 16)[:, :, 0, 1], images[:, :, :2, 2:4].mean((2, 3)), atol=1e-6
    )
