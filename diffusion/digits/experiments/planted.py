"""Forget eight planted images of real digits: ``python -m diffusion.digits.experiments.planted --output runs/planted``.

1. Two models (``planted_model``): one that was never shown the planted images, and one that copies them.
2. Levels: as unlikely as images never seen. Regression on the exact answer, primal-dual, and three baselines.
3. Samples of every model, compared (``planted_measures``): copies, quality, and the multipliers beside repeats; and
   what was gained, cost and done to held-out digits, in nats under noise that nothing was fitted on.

The baselines, NegGrad, SISS and EraseDiff, have the same adapters, budget, batches and seed; ``neggrad=0.98``,
``siss=2`` and ``erasediff=0.2`` are theirs at other strengths (beta, superfactor, eta).

Everything is a function of ``--seed``; what was finished or checkpointed is not done again. Leaves ``study.json``, a
table and an image.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from diffusion.digits.experiments.planted_model import Models, make_models, make_stage
from diffusion.digits.experiments.planted_picture import image
from diffusion.digits.experiments.planted_report import study, table, thresholds
from diffusion.digits.planted_study import PlantedSettings, PlantedStudy
from diffusion.evaluation.image_likelihood import ImageLikelihood, in_nats
from diffusion.methods import IMAGE_METHODS, Images, as_unseen, image_method_of
from diffusion.methods.base import ImageFitContext, ImageMethod, Outcome
from diffusion.methods.baselines import SISS, EraseDiff, NegGrad, OnImages
from diffusion.methods.likelihood import negative_elbo
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.sampling import sample_latents
from diffusion.runtime.files import atomic_write
from diffusion.tasks.config import FitConfig
from diffusion.training.lora import remove_lora

SAMPLER_STEPS = 25
BATCH, RANK = 32, 16
NOISE_LEVELS = 30  # of a level that is asked for; of the gap to the never-shown model, four times as many
REPEATS = 16  # noises at each image and level for what was gained, after the fit
SWEPT = {"neggrad": NegGrad, "siss": SISS, "erasediff": EraseDiff}


def method_named(name: str) -> ImageMethod:
    """The method of that name, or a baseline at a strength of its own: ``siss=2``. ``ValueError`` for anything else."""
    kind, equals, strength = name.partition("=")
    if not equals:
        return image_method_of(name)
    try:
        return OnImages(SWEPT[kind](float(strength)))
    except (KeyError, ValueError):
        known = ", ".join(f"{each}=STRENGTH" for each in SWEPT)
        raise ValueError(f"method with a strength must be one of {known}, got {name!r}") from None


def cached_samples(path: Path, pipeline: Any, count: int, seed: int) -> Tensor:
    """Samples (n, 1, 8, 8) of a pipeline, made where they are not there yet."""
    if path.exists():
        return load_file(path)["samples"]
    with tqdm(total=count, desc=f"samples: {path.stem}") as bar:
        samples = sample_latents(pipeline, [""] * count, seed=seed, steps=SAMPLER_STEPS, batch=250, progress=bar.update)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        save_file({"samples": samples.contiguous()}, partial)
    return samples


def forget(name: str, pipeline: Any, images: Images, levels: np.ndarray, settings: FitConfig, folder: Path) -> Outcome:
    """One method's fit into adapters on the pipeline's network, resumed from its checkpoint in the folder."""
    remove_lora(denoiser_of(pipeline))
    with tqdm(total=settings.max_train_steps, desc=f"forget: {name}") as bar:
        return method_named(name).fit(
            ImageFitContext(
                denoiser_of(pipeline),
                images,
                levels,
                settings,
                checkpoint=folder / f"{name}.safetensors",
                progress=bar.update,
            )
        )


def gap_to_never_shown(models: Models, planted: Tensor) -> np.ndarray:
    """Nats by which the never-shown model's negative ELBO is higher at each image (8,): what there is to undo."""
    value = []
    for pipeline in (models.base, models.copy):
        denoiser = denoiser_of(pipeline)
        value.append(
            negative_elbo(
                denoiser, planted, denoiser.condition([""] * len(planted)), levels=4 * NOISE_LEVELS, seed=5
            ).numpy()
        )
    return np.asarray(value[0] - value[1])


def run(
    output: Path,
    *,
    seed: int,
    steps: int,
    further: int,
    fit_steps: int,
    samples: int,
    methods: Sequence[str],
    quantile: float | None = None,
) -> PlantedStudy:
    """The study; returns what ``study.json`` holds. ``quantile``: see
    :func:`diffusion.methods.images.unseen.as_unseen`."""
    from matplotlib.figure import Figure

    started = time.process_time()
    stage = make_stage(seed)
    models = make_models(stage, output / "models", steps=steps, further=further, seed=seed)
    images = Images(stage.planted, stage.shares, stage.data)
    levels = as_unseen(
        denoiser_of(models.copy), images, stage.held_out, quantile=quantile, noise_levels=NOISE_LEVELS, seed=11
    )
    gap = gap_to_never_shown(models, stage.planted)

    def drawn(name: str, pipeline: Any, offset: int = 0) -> Tensor:
        return cached_samples(output / "samples" / f"{name}.safetensors", pipeline, samples, 100 * seed + 7 + offset)

    outcomes: dict[str, Outcome] = {}
    nats: dict[str, ImageLikelihood] = {}
    after: dict[str, Tensor] = {}
    for name in methods:
        settings = FitConfig(max_train_steps=fit_steps, train_batch_size=BATCH, rank=RANK, seed=seed)
        outcomes[name] = forget(name, models.copy, images, levels, settings, output / "fits")
        after[name] = drawn(name, models.copy)
        nats[name] = in_nats(
            denoiser_of(models.copy), images, stage.held_out, [""] * len(stage.held_out),
            seed=seed + 12, noise_levels=NOISE_LEVELS, repeats=REPEATS,
        )  # fmt: skip
    remove_lora(denoiser_of(models.copy))
    threshold = thresholds(drawn("threshold", models.base, 1), stage.planted)
    shown = {"never_shown": drawn("never shown", models.base), "before": drawn("before", models.copy), **after}
    settings_used = PlantedSettings(
        seed=seed, steps=steps, further=further, fit_steps=fit_steps, samples=samples, sampler_steps=SAMPLER_STEPS,
        quantile=quantile, processor_seconds_this_time=round(time.process_time() - started),
    )  # fmt: skip
    result = study(stage, levels, gap, threshold, shown, outcomes, nats, settings_used)
    with atomic_write(output / "study.json") as partial:
        partial.write_text(result.to_json(), encoding="utf-8")
    figure = Figure(figsize=(9.2, 8.2), layout="constrained")
    image(result, figure)
    with atomic_write(output / "study.png") as partial:
        figure.savefig(partial, dpi=130, format="png")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for models, samples, fits and results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000, help="of the base model")
    parser.add_argument("--further", type=int, default=1200, help="of the model that copies")
    parser.add_argument("--fit-steps", type=int, default=800, help="of each method")
    parser.add_argument("--samples", type=int, default=8000, help="of each model")
    parser.add_argument("--quantile", type=float, help="of the negative ELBO of held-out digits; default: their mean")
    parser.add_argument("--methods", nargs="+", default=list(IMAGE_METHODS), help="'siss=2': at another strength")
    given = parser.parse_args()
    for name in given.methods:
        try:
            method_named(name)
        except ValueError as unknown:
            parser.error(f"--methods: {unknown}")
    if not {"tilted", "primal-dual"} & set(given.methods):
        parser.error("--methods must hold tilted or primal-dual, which the table is about")
    result = run(
        given.output, seed=given.seed, steps=given.steps, further=given.further, fit_steps=given.fit_steps,
        samples=given.samples, methods=given.methods, quantile=given.quantile,
    )  # fmt: skip
    print(table(result))


if __name__ == "__main__":
    main()
