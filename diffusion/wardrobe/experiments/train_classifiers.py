"""Train both classifiers on real training renderings: ``python -m diffusion.wardrobe.experiments.train_classifiers``.

They go to where the package reads them, in half precision. The network is trained by AdamW on renderings of random
photographs, each moved by up to a pixel and with noise; the kernel machine is fitted by scikit-learn's PCA, random
Fourier features and ridge regression. What is printed are shares right of held-out renderings.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diffusion.runtime.distributed import WHOLE, Part
from diffusion.runtime.seeds import seeded_weights
from diffusion.wardrobe.classifiers import (
    AXES,
    CNN_WEIGHTS,
    KERNEL_WEIGHTS,
    Classifier,
    CNNClassifier,
    KernelClassifier,
    WardrobeNetwork,
    lifted,
)
from diffusion.wardrobe.experiments.train import Stage, renderings
from diffusion.wardrobe.features import colour_means, orientations
from diffusion.wardrobe.photographs import OBJECTS, Photographs, load_photographs
from diffusion.wardrobe.quality import RealRenderings
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES, render

CNN_BATCH, CNN_FALL = 64, 1000
Array = NDArray[np.float32]


def held_out_renderings(data: Photographs, seed: int = 12345) -> tuple[Array, NDArray[np.int64]]:
    """Every photograph once, in a random style on a random background; images and numbers of their axes (n, 3)."""
    rng = np.random.default_rng(seed)
    styles, backgrounds = rng.integers(len(STYLES), size=len(data)), rng.integers(len(BACKGROUNDS), size=len(data))
    return render(data.images, styles, backgrounds), np.stack([data.objects, styles, backgrounds], axis=1)


def accuracy(classifier: Classifier, images: Array, said: NDArray[np.int64]) -> RealRenderings:
    """Shares right on each axis, of objects style by style, and of each object."""
    right = classifier(images) == said
    axes = {axis: float(right[:, j].mean()) for j, axis in enumerate(AXES)}
    return RealRenderings(
        by=classifier.name,
        n=len(said),
        **axes,
        object_by_style={name: float(right[said[:, 1] == j, 0].mean()) for j, name in enumerate(STYLES)},
        object_by_object={name: float(right[said[:, 0] == j, 0].mean()) for j, name in enumerate(OBJECTS)},
    )


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    half = {key: value.half().contiguous() if value.is_floating_point() else value for key, value in tensors.items()}
    save_file(half, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def train_cnn(work: Path, data: Photographs, steps: int, seed: int) -> None:
    """Cross-entropy on the three axes, with label smoothing 0.05."""
    with seeded_weights(seed):
        network = WardrobeNetwork().train()

    def loss(_step: int, generator: torch.Generator, _part: Part = WHOLE) -> torch.Tensor:
        images, said = renderings(data, CNN_BATCH, generator)
        images = images + 0.1 * torch.rand(CNN_BATCH, 1, 1, 1, generator=generator) * torch.randn(
            images.shape, generator=generator
        )
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(images)
        return sum(
            (nn.functional.cross_entropy(s.float(), said[:, j], label_smoothing=0.05) for j, s in enumerate(scores)),
            torch.zeros(()),
        )

    run = Stage(work / "cnn", {"cnn": network}, loss, steps, 2e-3, seed + 2, CNN_FALL)
    run.complete()
    network.train()
    # Batch statistics belong to the averaged weights, so they are taken anew with them.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over what follows
    with torch.no_grad():
        for step in range(40):
            network(renderings(data, 250, run.generator(-1 - step))[0])
    _save(network.state_dict(), CNN_WEIGHTS)


class _Lift:
    """PCA to unit variance in all, then random Fourier features of an RBF kernel: what ``KernelClassifier`` reads."""

    def __init__(self, what: str, x: Array, components: int, features: int, seed: int) -> None:
        from sklearn.decomposition import PCA
        from sklearn.kernel_approximation import RBFSampler

        self.what = what
        pca = PCA(components, svd_solver="covariance_eigh").fit(x)
        sampler = RBFSampler(gamma=1.0, n_components=features, random_state=seed)
        sampler.fit(np.zeros((1, components), np.float32))
        parts = {
            "mean": pca.mean_,
            "components": pca.components_.T / np.sqrt(pca.explained_variance_.sum()),
            "frequencies": sampler.random_weights_,
            "phases": sampler.random_offset_,
        }
        self.parts = {key: value.astype(np.float16) for key, value in parts.items()}  # as it will be read

    def __call__(self, x: Array) -> Array:
        return lifted(x, *(value.astype(np.float32) for value in self.parts.values()))

    def named(self) -> dict[str, torch.Tensor]:
        return {f"{self.what}.{key}": torch.from_numpy(value) for key, value in self.parts.items()}


def _ridge(parts: list[Array], labels: NDArray[np.int64], classes: int, alpha: float = 1.0) -> Array:
    """(D + 1, classes): least squares onto 0 and 1 with penalty ``alpha`` times the square of the coefficients."""
    from scipy.linalg import solve

    targets = np.eye(classes, dtype=np.float32)[labels]
    ends = np.cumsum([0, *map(len, parts)])
    gram = sum((part.T @ part for part in parts), np.zeros(()))
    right = sum((p.T @ targets[i:j] for p, i, j in zip(parts, ends, ends[1:], strict=False)), np.zeros(()))
    return cast(Array, solve(gram + alpha * np.eye(len(gram), dtype=np.float32), right, assume_a="pos"))


def fit_kernel(data: Photographs, photographs: int, components: int, features: int, seed: int) -> None:
    """Object machines of each style on ``photographs`` of its renderings, on all backgrounds."""
    rng = np.random.default_rng(seed)
    few = data[rng.integers(len(data), size=15_000)]
    styles, backgrounds = rng.integers(len(STYLES), size=len(few)), rng.integers(len(BACKGROUNDS), size=len(few))
    images = render(few.images, styles, backgrounds)
    canvas = _Lift("canvas", colour_means(images), 64, 800, seed)
    cells = len(STYLES) * len(BACKGROUNDS)
    numbers = styles * len(BACKGROUNDS) + backgrounds
    tensors = {"canvas.scores": torch.from_numpy(_ridge([canvas(colour_means(images))], numbers, cells))}
    lift = _Lift("object", orientations(images, styles, backgrounds), components, features, seed)
    scores = []
    for style in range(len(STYLES)):
        some = data[rng.permutation(len(data))[:photographs]]
        backgrounds = rng.integers(len(BACKGROUNDS), size=len(some))
        parts = []
        for start in range(0, len(some), 2000):
            shown, behind = some[slice(start, start + 2000)], backgrounds[start : start + 2000]
            same = np.full(len(shown), style)
            parts.append(lift(orientations(render(shown.images, same, behind), same, behind)))
        scores.append(_ridge(parts, some.objects, len(OBJECTS)))
        print(STYLES[style], flush=True)
    tensors |= {"object.scores": torch.from_numpy(np.stack(scores)), **canvas.named(), **lift.named()}
    _save(tensors, KERNEL_WEIGHTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/wardrobe"), help="checkpoints; resumed if they exist")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--only", choices=["cnn", "kernel"])
    parser.add_argument("--cnn-steps", type=int, default=3000)
    parser.add_argument("--photographs", type=int, default=36_000, help="for the kernel machine")
    parser.add_argument("--components", type=int, default=160)
    parser.add_argument("--features", type=int, default=2200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, held_out = (load_photographs(split, arguments.data) for split in ("train", "held-out"))
    shown, said = held_out_renderings(held_out)
    started = time.time()
    if arguments.only != "kernel":
        train_cnn(arguments.work, data, arguments.cnn_steps, arguments.seed)
        print(
            "CNN",
            accuracy(CNNClassifier(), shown, said).model_dump_json(indent=1),
            round(time.time() - started),
            flush=True,
        )
    if arguments.only != "cnn":
        fit_kernel(data, arguments.photographs, arguments.components, arguments.features, arguments.seed)
        print(
            "kernel machine",
            accuracy(KernelClassifier(), shown, said).model_dump_json(indent=1),
            round(time.time() - started),
        )


if __name__ == "__main__":
    main()
