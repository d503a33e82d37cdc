"""Two classifiers of different kind that say which digit an image shows: an RBF support-vector machine and a small CNN.

Both are trained on the real training digits alone and look at 8x8 pixels. They take no part in training, in ratios or
in guidance, so that what they report is independent evidence. The SVM is fitted anew in a tenth of a second; the CNN
ships as ``classifier_cnn.safetensors`` and is made by ``python -m diffusion.digits.classifiers``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffusion.digits.data import Digits, load_digits
from diffusion.runtime.seeds import seeded_weights

CNN_WEIGHTS = Path(__file__).with_name("classifier_cnn.safetensors")


class ImageClassifier(Protocol):
    name: str

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        """The digit shown by each of (n, 8, 8) images in [0, 1]."""
        ...


class SVMClassifier:
    name = "SVM"

    def __init__(self) -> None:
        from sklearn.svm import SVC

        digits = load_digits("train")
        self._machine: Any = SVC(C=10.0, gamma="scale").fit(digits.images.reshape(len(digits), -1), digits.labels)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        return cast(NDArray[np.int64], self._machine.predict(images.reshape(len(images), -1)))


class DigitNetwork(nn.Module):
    """Two convolutions and two linear layers, 38 k weights; ``features`` (n, 64) serve distances as well."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 16, 64),
            nn.GELU(),
        )
        self.classify = nn.Linear(64, 10)

    def features(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.body(2 * images[:, None] - 1))

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.classify(self.features(images)))


class CNNClassifier:
    name = "CNN"

    def __init__(self, weights: Path = CNN_WEIGHTS) -> None:
        from safetensors.torch import load_file

        self.network = DigitNetwork().eval()
        self.network.load_state_dict(load_file(weights))

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.int64]:
        with torch.no_grad():
            return cast(NDArray[np.int64], self.network(torch.from_numpy(images)).argmax(-1).numpy())


@cache
def classifiers() -> tuple[ImageClassifier, ImageClassifier]:
    return SVMClassifier(), CNNClassifier()


def accuracy(classifier: ImageClassifier, digits: Digits) -> float:
    return float(np.mean(classifier(digits.images) == digits.labels))


def train_cnn(steps: int = 3000, seed: int = 0) -> DigitNetwork:
    """AdamW on the training digits, each shown moved, dimmed and with noise; cosine rate."""
    digits = load_digits("train")
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    generator = torch.Generator().manual_seed(seed)
    with seeded_weights(seed):
        network = DigitNetwork().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (96,), generator=generator)
        small = 0.12 * torch.randn(96, 2, 2, generator=generator)
        shift = 0.12 * torch.randn(96, 2, 1, generator=generator)
        affine = torch.cat([torch.eye(2) + small, shift], dim=-1)
        grid = nn.functional.affine_grid(affine, [96, 1, 8, 8], align_corners=False)
        moved = nn.functional.grid_sample(images[chosen][:, None], grid, align_corners=False)[:, 0]
        dim = 1 - 0.3 * torch.rand(96, 1, 1, generator=generator)
        noisy = moved * dim + 0.08 * torch.randn(moved.shape, generator=generator)
        loss = nn.functional.cross_entropy(network(noisy), labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def main() -> None:
    from safetensors.torch import save_file

    save_file(train_cnn().state_dict(), CNN_WEIGHTS)
    held_out = load_digits("held-out")
    for classifier in classifiers():
        print(
            f"{classifier.name}: accuracy {accuracy(classifier, held_out):.4f} on {len(held_out)} held-out real digits"
        )


if __name__ == "__main__":
    main()
