"""Quality of retained prompts: KID of their samples to renderings of held-out photographs of the same cells.

On the penultimate features of the wardrobe's own network, in units of their root mean square over the renderings; the
change is paired with the base model's samples by their noise (:mod:`diffusion.evaluation.kid`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffusion.evaluation.bounds import Estimate
from diffusion.evaluation.kid import Array, Distance, kid, kid_change
from diffusion.evaluation.sweep.canvas import CanvasTask, CellPrompt
from diffusion.evaluation.sweep.point import Figure
from diffusion.wardrobe.captions import TEMPLATES
from diffusion.wardrobe.classifiers import classifiers
from diffusion.wardrobe.photographs import OBJECTS, shipped_photographs
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES, render

RENDERINGS = 512


def features(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 128) of images (n, 3, 32, 32) in [-1, 1]."""
    return classifiers()[0].features(images)


def renderings(task: CanvasTask, seed: int, count: int = RENDERINGS) -> tuple[list[CellPrompt], NDArray[np.float32]]:
    """Retained prompts, drawn with replacement, and an image of each (count, 3, 32, 32): photographs that nothing was
    trained on, rendered as asked; what a prompt leaves open is drawn as well.

    Drawn, as unbiased KID needs it: were they those of the samples, pairs under one prompt would be missing from the
    samples alone, and KID would come out below zero.
    """
    photographs, rng = shipped_photographs("held-out"), np.random.default_rng([seed, 5])
    every = task.prompts(False, range(len(TEMPLATES)), range(len(BACKGROUNDS)))
    asked = [every[int(j)] for j in rng.integers(len(every), size=count)]
    cells = [each.cell for each in asked]
    objects = [int(rng.integers(len(OBJECTS))) if cell.object is None else cell.object for cell in cells]
    styles = [int(rng.integers(len(STYLES))) if cell.style is None else cell.style for cell in cells]
    chosen = [rng.choice(np.flatnonzero(photographs.objects == number)) for number in objects]
    grounds = np.array([cell.background for cell in cells])
    return asked, render(photographs.images[chosen], np.array(styles), grounds)


def quality(task: CanvasTask, before: NDArray[np.float32], after: NDArray[np.float32], seed: int) -> list[Figure]:
    """``kid`` and ``kid_change``, of features (n, 128) of samples of the base model and of another under retained
    prompts."""
    real = features(renderings(task, seed)[1]).astype(np.float64)
    unit = np.sqrt(np.square(real).mean())
    one, two, real = before / unit, after / unit, real / unit
    return [_figure("kid", kid(two, real), two), _figure("kid_change", kid_change(one, two, real), two)]


def _figure(name: str, found: Distance, of: Array) -> Figure:
    estimate = Estimate(mean=found.value, stderr=found.stderr, n=len(of))
    return Figure.model_validate({"name": name, "prompts": "retained", "estimate": estimate})
