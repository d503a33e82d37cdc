"""How good is ``wardrobe``? ``python -m diffusion.wardrobe.experiments.evaluate [FOLDER] --output quality.json``.

Agreement of both classifiers with prompts over all 144 combinations and all templates, at several guidance scales;
shares without a prompt; kernel inception distance (KID) of samples to held-out renderings, beside that of training
renderings; what the VAE alone loses; and what the classifiers say of held-out renderings. Samples are made by the stock
``StableDiffusionPipeline``.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion.evaluation.metrics import frequency
from diffusion.pipelines import load_pipeline
from diffusion.runtime.documents import Estimate
from diffusion.wardrobe.captions import TEMPLATES, Cell, caption
from diffusion.wardrobe.classifiers import AXES, CNNClassifier, classifiers
from diffusion.wardrobe.experiments.train_classifiers import accuracy, held_out_renderings
from diffusion.wardrobe.photographs import OBJECTS, load_photographs
from diffusion.wardrobe.quality import (
    Axes,
    AxesShares,
    Distances,
    PromptAgreement,
    TemplateAgreement,
    ThroughVAE,
    Training,
    WardrobeQuality,
    WithoutPrompt,
)
from diffusion.wardrobe.rendering import BACKGROUNDS, STYLES

Array = NDArray[np.float32]
Classes = NDArray[np.int64]


def sample(pipeline: Any, prompts: list[str], scale: float, steps: int, seed: int, batch: int = 72) -> Array:
    """Images (n, 3, 32, 32) in [-1, 1], one per prompt."""
    parts = []
    for start in range(0, len(prompts), batch):
        generator = torch.Generator().manual_seed(seed + start)
        some = prompts[start : start + batch]
        images = pipeline(
            some, guidance_scale=scale, num_inference_steps=steps, generator=generator, output_type="np"
        ).images
        parts.append(2 * images.transpose(0, 3, 1, 2).astype(np.float32) - 1)
    return np.concatenate(parts)


def agreement(pipeline: Any, scale: float, rounds: int, steps: int, seed: int) -> list[PromptAgreement]:
    """Every combination ``rounds`` times, in a template that takes turns; by classifier, and by both at once."""
    wanted = [
        (*cell, (position + turn) % len(TEMPLATES))
        for turn in range(rounds)
        for position, cell in enumerate(
            itertools.product(range(len(OBJECTS)), range(len(STYLES)), range(len(BACKGROUNDS)))
        )
    ]
    prompts = [caption(Cell(o, s, b), template) for o, s, b, template in wanted]
    images, truth = sample(pipeline, prompts, scale, steps, seed), np.array(wanted)
    every = [(classifier.name, classifier(images) == truth[:, :3]) for classifier in classifiers()]
    found = [
        PromptAgreement(
            guidance_scale=scale,
            by=name,
            **_axes(right),
            object_by_object={each: float(right[truth[:, 0] == j, 0].mean()) for j, each in enumerate(OBJECTS)},
            object_by_style={each: float(right[truth[:, 1] == j, 0].mean()) for j, each in enumerate(STYLES)},
            object_by_template=tuple(
                TemplateAgreement(template=text, share=float(right[truth[:, 3] == j, 0].mean()))
                for j, text in enumerate(TEMPLATES)
            ),
        )
        for name, right in every
    ]
    both = np.all([right for _, right in every], axis=0)
    return [*found, PromptAgreement(guidance_scale=scale, by="both", **_axes(both))]


def _axes(right: NDArray[np.bool_]) -> dict[str, Any]:
    return {axis: frequency(right[:, j]).estimate for j, axis in enumerate(AXES)}


def shares(classes: Classes) -> dict[str, dict[str, float]]:
    """How often each object, style and background is found among (n, 3) classes."""
    known = zip(AXES, (OBJECTS, STYLES, BACKGROUNDS), strict=True)
    return {
        axis: {name: float((classes[:, j] == number).mean()) for number, name in enumerate(names)}
        for j, (axis, names) in enumerate(known)
    }


def worst_ratio(found: dict[str, dict[str, float]], data: dict[str, dict[str, float]]) -> dict[str, float]:
    """``max(found / data, data / found)`` over each axis; infinite where something is never found."""
    return {
        axis: max(
            float("inf") if one == 0 else max(one / data[axis][name], data[axis][name] / one)
            for name, one in found[axis].items()
        )
        for axis in found
    }


def kid(x: Array, y: Array, parts: int = 4) -> Estimate:
    """Unbiased squared MMD with the kernel (x.y / d + 1)^3 of features (n, d); mean over disjoint parts, its error.

    Binkowski, Sutherland, Arbel, Gretton (2018), on features of our own network instead of Inception's.
    """
    from torchmetrics.image.kid import poly_mmd

    size = min(len(x), len(y)) // parts
    first, second = (torch.from_numpy(some[: parts * size]).double().split(size) for some in (x, y))
    values = [float(poly_mmd(one, other)) for one, other in zip(first, second, strict=True)]
    return Estimate(mean=float(np.mean(values)), stderr=float(np.std(values, ddof=1) / np.sqrt(parts)), n=parts * size)


def through_vae(pipeline: Any, images: Array) -> Array:
    with torch.no_grad():
        parts = [
            pipeline.vae.decode(pipeline.vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1)
            for part in torch.from_numpy(images).split(200)
        ]
    return torch.cat(parts).numpy()


def evaluate(
    pipeline: Any, data: Path | None, arguments: argparse.Namespace, training: Training | None
) -> WardrobeQuality:
    seed, steps = arguments.seed, arguments.steps
    held_out, said = held_out_renderings(load_photographs("held-out", data))
    train, _ = held_out_renderings(load_photographs("train", data)[::6], seed=54321)
    network = CNNClassifier()
    unit = np.sqrt(np.square(network.features(train)).mean())
    features = [network.features(images) / unit for images in (held_out, train)]
    free = sample(pipeline, [""] * arguments.unconditional, 1.0, steps, seed + 1_000_000)
    rebuilt = through_vae(pipeline, held_out[:2000])
    return WardrobeQuality(
        sampler_steps=steps,
        seed=seed,
        rounds=arguments.rounds,
        unconditional_samples=arguments.unconditional,
        training=training,
        held_out_renderings=tuple(accuracy(c, held_out, said) for c in classifiers()),
        agreement=tuple(
            each for scale in arguments.scales for each in agreement(pipeline, scale, arguments.rounds, steps, seed)
        ),
        without_prompt=tuple(without_prompt(c.name, c(free)) for c in classifiers()),
        kid_to_held_out=Distances(
            samples_without_prompt=kid(network.features(free) / unit, features[0]),
            training_renderings=kid(features[1], features[0]),
            held_out_through_vae=kid(network.features(rebuilt) / unit, features[0][2000:]),
        ),
        vae=ThroughVAE(
            mean_squared_error=float(np.square(rebuilt - held_out[:2000]).mean()),
            object_accuracy={c.name: float((c(rebuilt)[:, 0] == said[:2000, 0]).mean()) for c in classifiers()},
        ),
    )


def without_prompt(by: str, classes: Classes) -> WithoutPrompt:
    """Shares of (n, 3) classes, beside the data's, which are even."""
    found = shares(classes)
    even = {a: dict.fromkeys(k, 1 / len(k)) for a, k in zip(AXES, (OBJECTS, STYLES, BACKGROUNDS), strict=True)}
    return WithoutPrompt(by=by, shares=AxesShares(**found), worst_ratio_to_data=Axes(**worst_ratio(found, even)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="wardrobe")
    parser.add_argument("--data", type=Path, help="folder with Fashion-MNIST's IDX files")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 3.0])
    parser.add_argument("--rounds", type=int, default=8, help="samples of each of the 144 combinations, at each scale")
    parser.add_argument("--unconditional", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--training", type=Path, help="training.json, as training leaves it in its --work")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training = None
    if arguments.training:
        training = Training.model_validate_json(arguments.training.read_text(encoding="utf-8"))
    text = evaluate(load_pipeline(arguments.model), arguments.data, arguments, training).to_json()
    print(text, end="")
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
