"""Detectors: what names one, and what its answers must be."""

import sys
import types

import numpy as np
import pytest

from diffusion import Concept, ConceptTask
from diffusion.digits.data import WORDS, load_digits
from diffusion.digits.prompts import DigitsClassifiers
from diffusion.evaluation.sweep.canvas import CanvasTask
from diffusion.tasks.detectors import BATCH, CheckedDetector, DifferentiableDetector, detector_of
from diffusion.wardrobe.photographs import shipped_photographs
from diffusion.wardrobe.prompts import WardrobeClassifiers
from diffusion.wardrobe.rendering import render

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


def of_images(detector, images):
    """Log odds as NumPy, and the gradient of their sum."""
    import torch

    given = torch.from_numpy(images).requires_grad_(True)
    found = detector.log_odds(given)
    (slope,) = torch.autograd.grad(found.sum(), given)
    return found.detach().numpy(), slope.numpy()


@pytest.mark.parametrize("name", ["digits:seven", "digits:one", "wardrobe:sneaker", "wardrobe:sketch", "wardrobe:dots"])
def test_the_log_odds_of_the_embedded_classifiers_are_of_what_they_say(name):
    if name.startswith("digits"):
        small = load_digits("held-out").images[:200]
        images = (2 * np.kron(small, np.ones((4, 4), np.float32))[:, None].repeat(3, 1) - 1).astype(np.float32)
    else:
        shown = shipped_photographs("held-out").images[:144]
        numbers = np.arange(len(shown))
        images = render(shown, numbers % 6, numbers // 6 % 3)
    detector = detector_of(name)
    said = detector(images)
    assert 0 < said.mean() < 1
    log_odds, slope = of_images(detector, images)
    # More likely than all others together is the likeliest; the likeliest may be less.
    assert said[log_odds > 0].all()
    assert ((log_odds > 0) == (said == 1)).mean() > 0.95
    assert np.abs(slope).sum((1, 2, 3)).min() > 0


def test_the_log_odds_of_an_object_in_one_style_are_of_both():
    task = CanvasTask.of("a sketch of a sneaker")
    shown = shipped_photographs("held-out").images[:144]
    numbers = np.arange(len(shown))
    images = render(shown, numbers % 6, numbers // 6 % 3)
    both, slope = of_images(task.detector(), images)
    each = [of_images(detector_of(f"wardrobe:{name}"), images)[0].astype(np.float64) for name in ("sneaker", "sketch")]
    by_hand = np.logaddexp(0, -each[0]) + np.logaddexp(0, -each[1])  # -log p
    inside = by_hand > 1e-4
    np.testing.assert_allclose(both[inside], (-by_hand - np.log(-np.expm1(-by_hand)))[inside], rtol=1e-3, atol=1e-3)
    said = task.detector()(images)
    assert 0 < said.mean() < 0.2
    assert ((both > 0) == (said == 1)).mean() > 0.95
    assert np.isfinite(both).all()
    assert np.isfinite(slope).all()


def test_log_odds_are_looked_at_and_may_be_absent():
    import torch

    assert detector_of(DifferentiableDetector(means, lambda images: images.mean((1, 2, 3)))).name == "means"

    assert CheckedDetector("plain", lambda images: images.mean((1, 2, 3))).log_odds is None

    class Odd:
        def __call__(self, images):
            return np.zeros(len(images))

        def log_odds(self, images):
            return images.mean((2, 3))

    with pytest.raises(ValueError, match=r"log_odds of odd must have shape \(4,\), got \(4, 3\)"):
        CheckedDetector("odd", Odd()).log_odds(torch.from_numpy(IMAGES[:4]))


def test_nudenet_reads_our_images_and_counts_exposed_parts_alone(monkeypatch):
    nudenet = pytest.importorskip("nudenet")
    generator = np.random.default_rng(0)
    images = generator.uniform(-1, 1, (3, 3, 64, 48)).astype(np.float32)
    said = detector_of("nudenet")(images)  # the package's own weights
    assert said.shape == (3,)
    assert ((said >= 0) & (said < 0.5)).all()  # noise shows nobody
    seen = []

    class Some:
        def detect_batch(self, pixels):
            seen.extend(pixels)
            parts = [("BUTTOCKS_EXPOSED", 0.7), ("FEET_EXPOSED", 0.9), ("ANUS_EXPOSED", 0.2)]
            return [[{"class": name, "score": score} for name, score in parts[k:]] for k in range(len(pixels))]

    monkeypatch.setattr(nudenet, "NudeDetector", Some)
    assert detector_of("nudenet")(images).tolist() == [0.7, 0.2, 0.2]
    assert seen[0].shape == (64, 48, 3)
    assert seen[0].dtype == np.uint8
    np.testing.assert_array_equal(seen[0][:, :, 0], np.round((images[0, 2] + 1) * 127.5))  # blue comes first


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    from tests.diffusion.clip_model import save_clip

    return save_clip(tmp_path_factory.mktemp("clip"))


def test_clip_says_the_softmax_of_its_own_logits(clip_folder):
    import torch
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    images = np.random.default_rng(0).uniform(-1, 1, (3, 3, 32, 32)).astype(np.float32)
    texts = ["a cat", "a dog", "dog"]
    said = detector_of(f"clip:{'|'.join(texts)}@{clip_folder}")(images)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    mean, std = (torch.tensor(some).view(3, 1, 1) for some in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    with torch.no_grad():
        out = model(pixel_values=((torch.from_numpy(images) + 1) / 2 - mean) / std, **tokens)
    np.testing.assert_allclose(said, out.logits_per_image.softmax(-1)[:, 0].numpy(), rtol=1e-4)
    assert said.std() > 0
    log_odds, slope = of_images(detector_of(f"clip:{'|'.join(texts)}@{clip_folder}"), images)
    np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), said, rtol=1e-4)
    assert np.abs(slope).sum((1, 2, 3)).min() > 0
    assert detector_of(f"clip:a cat|a dog@{clip_folder}")(images[:, :, :, :20]).shape == (3,)
    assert detector_of(f"clip:a cat|a dog@{clip_folder}")(images[:, :1]).shape == (3,)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("clip:a cat", "at least two texts"),
        ("clip:a cat|", "at least two texts"),
        ("clip:a cat|a dog@/no/such/folder", "no CLIP model can be loaded from '/no/such/folder'"),
    ],
)
def test_clip_that_cannot_be_had(said, words):
    with pytest.raises(ValueError, match=words):
        detector_of(said)


def test_clip_refuses_texts_that_it_would_cut(clip_folder):
    with pytest.raises(ValueError, match="more than the 20 tokens"):
        detector_of(f"clip:a very long text that says a lot|a dog@{clip_folder}")


def test_a_detector_is_no_independent_check_of_itself():
    images = np.random.default_rng(0).uniform(-1, 1, size=(2, 3, 32, 32)).astype(np.float32)
    for classifier, other in ((DigitsClassifiers, "SVM"), (WardrobeClassifiers, "kernel machine")):
        both, one = classifier(), classifier(without=["CNN"])
        assert set(both(images)) == {"CNN", other}
        assert set(one(images)) == {other}
        np.testing.assert_array_equal(one(images)[other], both(images)[other])
        with pytest.raises(ValueError, match="without: SVC given, the classifiers are"):
            classifier(without=["SVC"])
        with pytest.raises(ValueError, match="no classifier is left"):
            classifier(without=["CNN", other])


@pytest.mark.parametrize(
    ("model", "concept", "detector", "names"),
    [
        ("digits", "seven", "digits:seven", {"SVM"}),
        ("digits", "seven", "wardrobe:sneaker", {"SVM", "CNN"}),
        ("wardrobe", "a sneaker", "wardrobe:sneaker", {"kernel machine"}),
        ("digits", "seven", None, {"SVM", "CNN"}),
    ],
)
def test_the_command_line_asks_others_than_the_task_s_detector(model, concept, detector, names):
    pytest.importorskip("typer")
    from diffusion.cli.options import image_classifier_of

    task = ConceptTask(model=model, concepts=[Concept(concept, detector=detector)], levels="1%")
    assert set(image_classifier_of(task)(np.zeros((1, 3, 32, 32), np.float32))) == names


def test_what_is_kept_by_a_detector_is_not_checked_by_it_either():
    pytest.importorskip("typer")
    from diffusion.cli.options import image_classifier_of

    pictures = ConceptTask(concepts=[Concept(images=["seven.png"], prior=0.1)], levels="1%")  # of no prompt at all
    assert image_classifier_of(pictures) is None
    asked = {"concepts": [Concept("seven", detector=lambda images: images[:, 0, 0, 0] > 0)], "levels": "1%"}
    task = ConceptTask(model="digits", keep=["digits:nine=90%"], **asked)
    assert set(image_classifier_of(task)(np.zeros((1, 3, 32, 32), np.float32))) == {"SVM"}
