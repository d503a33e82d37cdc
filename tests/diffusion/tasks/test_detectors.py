"""Detectors: what names one, and what its answers must be."""

import sys
import types

import numpy as np
import pytest

from diffusion.digits.data import WORDS, load_digits
from diffusion.tasks.detectors import BATCH, CheckedDetector, detector_of

IMAGES = np.zeros((2 * BATCH + 3, 3, 32, 32), np.float32)


def means(images):
    return (images.mean(axis=(1, 2, 3)) + 1) / 2


def test_a_callable_is_asked_in_batches_and_answers_in_order():
    asked = []

    def counting(images):
        asked.append(len(images))
        return means(images)

    images = np.linspace(-1, 1, len(IMAGES), dtype=np.float32)[:, None, None, None] * np.ones_like(IMAGES)
    said = detector_of(counting)(images)
    assert asked == [BATCH, BATCH, 3]
    np.testing.assert_allclose(said, (images[:, 0, 0, 0] + 1) / 2, atol=1e-6)
    assert detector_of(counting)(images[:0]).shape == (0,)


def test_names_are_imported(monkeypatch):
    module = types.ModuleType("some_detectors")
    module.means, module.number = means, 3
    monkeypatch.setitem(sys.modules, "some_detectors", module)
    assert detector_of("some_detectors:means")(IMAGES[:2]).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="must be callable, got int"):
        detector_of("some_detectors:number")
    with pytest.raises(ValueError, match="cannot be imported"):
        detector_of("some_detectors:others")
    with pytest.raises(ValueError, match="cannot be imported"):
        detector_of("no_such_module_here:x")
    with pytest.raises(ValueError, match=r"'module:name', 'clip:\.\.\.' or 'nudenet', got 'cats'"):
        detector_of("cats")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda images: np.full(len(images), 1.5), r"numbers in \[0, 1\], got 1.5 to 1.5"),
        (lambda images: np.full(len(images), np.nan), r"numbers in \[0, 1\], got nan"),
        (lambda images: np.zeros((len(images), 2)), "one number of each image"),
        (lambda images: np.zeros(1), "one number of each image"),
    ],
)
def test_answers_that_are_none(answer, words):
    with pytest.raises(ValueError, match=words):
        CheckedDetector("odd", answer)(IMAGES)


def test_the_embedded_classifiers():
    digits = load_digits("held-out")
    shown = 2 * np.kron(digits.images, np.ones((4, 4), np.float32))[:, None].repeat(3, 1) - 1
    said = detector_of("digits:seven")(shown.astype(np.float32))
    right = (said == 1) == (np.asarray(digits.labels) == WORDS.index("seven"))
    assert right.mean() > 0.95
    with pytest.raises(ValueError, match="the digits are zero, "):
        detector_of("digits:eleven")
    assert set(detector_of("wardrobe:sneaker")(IMAGES[:4])) <= {0.0, 1.0}
    with pytest.raises(ValueError, match=r"known are .*sneaker"):
        detector_of("wardrobe:hat")
