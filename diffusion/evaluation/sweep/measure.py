r"""What a network on ``wardrobe`` makes of a task: UnlearnCanvas's axes, what moved, and at what cost.

::

    UA  = 1 - (share of images under prompts that ask for the concept, which show it)
    IRA = share of images under prompts for other values of the concept's axis, whose value is the one asked for
    CRA = share of images, under all of these prompts, whose other axes are what the prompt names

Samples are at one guidance scale, independent of whatever a method saw, from the same noise before and after; so the
energy distance of the retained ones leaves related pairs out. Cost: KL along the chain at that guidance scale, under
retained prompts, and under asking ones against the base model under their anchors, nats
(:mod:`diffusion.methods.chain`).

Source: Zhang et al., UnlearnCanvas (NeurIPS 2024), which has style and object for axes; here the background is one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusion.evaluation.bounds import Estimate, mean_estimate
from diffusion.evaluation.sweep.canvas import CanvasTask, CellPrompt
from diffusion.evaluation.sweep.point import Figure, Prompts, share
from diffusion.evaluation.sweep.quality import features, quality
from diffusion.methods.chain import chain_of, path_cost
from diffusion.pipelines import Denoiser
from diffusion.pipelines.latents import decode
from diffusion.pipelines.sampling import sample_latents
from diffusion.tasks.config import Sampling
from diffusion.training.lora import merged_adapters
from diffusion.wardrobe.classifiers import classifiers
from diffusion.wardrobe.prompts import WardrobeClassifiers, fallen_back
from duality.two_sample import energy_distance

ASKED: tuple[Prompts, ...] = ("trained", "paraphrases", "contexts")
CHAIN_STEPS = 20


@dataclass(frozen=True)
class Measured:
    """``samples``: of each kind of prompt, four times as many retained ones; ``chains``: along which cost is measured,
    of each of two kinds, in ``chain_steps``."""

    samples: int = 48
    chains: int = 12
    seed: int = 9000
    chain_steps: int = CHAIN_STEPS


@dataclass(frozen=True)
class Made:
    """Samples by group: prompts, views (n, 3, 8, 8), what classifiers say (n, 3) of their images, and features (n, 128)
    of the retained ones."""

    asked: dict[str, list[CellPrompt]]
    views: dict[str, NDArray[np.float32]]
    said: dict[str, dict[str, NDArray[np.int64]]]
    features: NDArray[np.float32]


def make(denoiser: Denoiser, task: CanvasTask, sampling: Sampling, settings: Measured) -> Made:
    """Sample all groups with the network as it stands."""
    asked = task.groups(settings.samples, settings.seed)
    texts = [each.prompt for some in asked.values() for each in some]
    with merged_adapters(denoiser):
        latents = sample_latents(denoiser.pipeline, texts, seed=settings.seed + 1, **sampling.call(denoiser))
    return looked_at(denoiser, asked, latents)


def looked_at(denoiser: Denoiser, asked: dict[str, list[CellPrompt]], latents: Tensor) -> Made:
    """What classifiers say of samples (n, ...) of all groups, one after the other."""
    view = WardrobeClassifiers().view
    views, said, start = {}, {}, 0
    for name, some in asked.items():
        images = decode(denoiser.pipeline, latents[start : start + len(some)])
        views[name], start = view(images), start + len(some)
        said[name] = {classifier.name: classifier(images) for classifier in classifiers()}
        if name == "retained":
            seen = features(images)
    return Made(asked, views, said, seen)


def counts(task: CanvasTask, made: Made) -> list[Figure]:
    """Shares by both classifiers."""
    found = []
    for by in (classifier.name for classifier in classifiers()):
        said = {name: some[by] for name, some in made.said.items()}
        for name in (*ASKED, "anchors"):
            found.append(share("target_share", name, by, task.shown(said[name])))
        together = np.concatenate([task.shown(said[name]) for name in ASKED])
        found.append(share("target_share", "asked", by, together))
        found.append(share("in_axis_accuracy", "retained", by, right(task, made.asked["retained"], said["retained"])))
        others = {name: elsewhere(task, made.asked[name], said[name]) for name in (*ASKED, "retained")}
        found.append(share("cross_axis_accuracy", "asked", by, np.concatenate([others[name] for name in ASKED])))
        found.append(share("cross_axis_accuracy", "retained", by, others["retained"]))
        found.append(share("cross_axis_accuracy", "all", by, np.concatenate(list(others.values()))))
    return found


def right(task: CanvasTask, asked: list[CellPrompt], said: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the axis of the concept (both, where it is an object in one style) is as asked (n,)."""
    hits = np.ones(len(asked), bool)
    for axis, on in ((0, task.concept.object is not None), (1, task.concept.style is not None)):
        if on:
            hits &= _agrees(asked, said, axis)
    return hits


def elsewhere(task: CanvasTask, asked: list[CellPrompt], said: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether all other axes that the prompt names are as asked (n,)."""
    hits = _agrees(asked, said, 2)
    for axis, on in ((0, task.concept.object is None), (1, task.concept.style is None)):
        if on:
            hits &= _agrees(asked, said, axis)
    return hits


def _agrees(asked: list[CellPrompt], said: NDArray[np.int64], axis: int) -> NDArray[np.bool_]:
    wanted = [(each.cell.object, each.cell.style, each.cell.background)[axis] for each in asked]
    return np.array([value is None or value == label for value, label in zip(wanted, said[:, axis], strict=True)])


def measure(denoiser: Denoiser, task: CanvasTask, sampling: Sampling, settings: Measured, base: Made) -> list[Figure]:
    """All figures of the network as it stands; ``base``: what the base model makes of the same."""
    made = make(denoiser, task, sampling, settings)
    return against_base(task, base, made, settings.seed) + costs(denoiser, task, sampling, settings)


def against_base(task: CanvasTask, base: Made, made: Made, seed: int) -> list[Figure]:
    """Shares, and how far samples under retained prompts have moved from the base model's of the same noise."""
    rows = np.arange(len(made.views["retained"]))
    moved = energy_distance(base.views["retained"], made.views["retained"], np.column_stack([rows, rows]))
    energy = Estimate(mean=moved, stderr=float("nan"), n=len(rows))
    found = [*counts(task, made), Figure(name="energy_distance", prompts="retained", estimate=energy)]
    return found + quality(task, base.features, made.features, seed)


def unmoved(task: CanvasTask, base: Made, settings: Measured) -> list[Figure]:
    """Of the base model's samples, which are those that others are compared with."""
    energy = Figure(name="energy_distance", prompts="retained", estimate=Estimate(mean=0.0, stderr=0.0, n=1))
    return [energy, *quality(task, base.features, base.features, settings.seed)]


def paying(task: CanvasTask, settings: Measured) -> tuple[tuple[Prompts, list[str], list[str] | None], ...]:
    """Prompts under which cost is measured, and the anchors of those that ask for the concept."""
    groups = task.groups(settings.chains, settings.seed + 2)
    asked = [each.prompt for name in ASKED for each in groups[name]][:: len(ASKED)]
    kept = [each.prompt for each in groups["retained"]][: settings.chains]
    return ("asked", asked, [fallen_back(text, task.concept) for text in asked]), ("retained", kept, None)


def costs(denoiser: Denoiser, task: CanvasTask, sampling: Sampling, settings: Measured) -> list[Figure]:
    """Nats under retained prompts, and under asking ones against the base model under their anchors."""
    steps = sampling.steps(denoiser)
    chain = replace(chain_of(denoiser, steps, settings.chain_steps), scale=sampling.mixed_scale(denoiser), negative="")
    found = []
    for name, texts, anchors in paying(task, settings):
        with torch.no_grad():
            values = path_cost(denoiser, texts, chain, seed=settings.seed + 3, based_on=anchors)
        paid = tuple(float(f"{value:.5g}") for value in values.tolist())
        found.append(Figure(name="cost", prompts=name, estimate=mean_estimate(values.numpy()), values=paid))
    return found
