"""Real handwritten digits and the prompts that describe them.

The images are the UCI "Optical Recognition of Handwritten Digits" test set as scikit-learn ships it: 1,797 scans of
8x8 pixels with 17 grey levels. A fixed fifth, stratified by class, is held out: neither the pipeline nor the
classifiers see it, so that quality can be measured against real images that no network was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

IMAGE_SIZE = 32
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Half of the paraphrases spell the digit and half write the numeral, so that no single token stands for a concept: an
# unlearning method that only breaks one token leaves the other paraphrases alive, and the evaluation shows it.
PARAPHRASES = (
    "a handwritten {word}",
    "a handwritten {numeral}",
    "the digit {word} in ink",
    "the digit {numeral} in ink",
    "a photo of the number {word}",
    "a scan of the number {numeral}",
    "someone wrote the number {word} by hand",
    "{word}",
)

# Prompts that ask for a digit but for none in particular: natural anchors for a prompt whose concept is unlearned.
ANCHORS = ("a handwritten digit", "a digit in ink", "a photo of a number", "someone wrote a number by hand")

_SPLIT_SEED = 20261124
HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True)
class Digits:
    """Images (n, 8, 8) in [0, 1] and labels (n,) of one split."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def load_digits(split: str) -> Digits:
    """The ``"train"`` (four fifths) or ``"held-out"`` (one fifth) part of scikit-learn's digits.

    Raises ``ValueError`` for another split name.
    """
    if split not in ("train", "held-out"):
        raise ValueError(f"split must be 'train' or 'held-out', got {split!r}")
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    images, labels = sklearn_digits(return_X_y=True)
    indices = np.arange(len(labels))
    train, held_out = train_test_split(
        indices, test_size=HELD_OUT_FRACTION, stratify=labels, random_state=_SPLIT_SEED, shuffle=True
    )
    chosen = np.sort(train if split == "train" else held_out)
    pixels = (images[chosen] / 16.0).astype(np.float32).reshape(-1, 8, 8)
    return Digits(pixels, labels[chosen].astype(np.int64))


def enlarge(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bicubic enlargement of (n, 8, 8) in [0, 1] to the pipeline's range: (n, 3, 32, 32) in [-1, 1]."""
    import torch
    from torch.nn.functional import interpolate

    big = interpolate(torch.from_numpy(images)[:, None], size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic")
    return cast(NDArray[np.float32], (2 * big.clamp(0, 1) - 1).expand(-1, 3, -1, -1).contiguous().numpy())


def shrink(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over channels and 4x4 blocks: (n, 3, 32, 32) in [-1, 1] to (n, 8, 8) in [0, 1], what the classifiers look
    at."""
    if images.ndim != 4 or images.shape[1:] != (3, IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"images must have shape (n, 3, {IMAGE_SIZE}, {IMAGE_SIZE}), got {images.shape}")
    grey = images.mean(axis=1).reshape(-1, 8, IMAGE_SIZE // 8, 8, IMAGE_SIZE // 8).mean(axis=(2, 4))
    return np.clip((grey + 1) / 2, 0, 1).astype(np.float32)


def paraphrases(digit: int) -> tuple[str, ...]:
    """Every prompt that the pipeline was taught for one digit."""
    return tuple(paraphrase.format(word=WORDS[digit], numeral=digit) for paraphrase in PARAPHRASES)


def concept_of(prompt: str) -> int | None:
    """The digit that a prompt asks for, or None where it is no known paraphrase."""
    wanted = " ".join(prompt.lower().split())
    for digit in range(10):
        if wanted in paraphrases(digit):
            return digit
    return None
