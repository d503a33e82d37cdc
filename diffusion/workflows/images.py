r"""Images out of a pipeline: samples before, the exact answer, the fit, samples after, and what was measured.

::

    levels (m,)  ->  lam (m,) by `duality.point_masses`  ->  a method's fit into a LoRA  ->  rise of the negative ELBO,
    cost, copies among samples under the images' prompts

Everything that is written is about numbers: images that are to be forgotten are no part of the output folder.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
from torch import Tensor

from diffusion.evaluation.image_likelihood import ImageMeasurement, copies, in_nats
from diffusion.evaluation.near_duplicates import distances
from diffusion.methods import ImageFitContext, ImageMethod, configured_for_images
from diffusion.pipelines import Denoiser
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.latents import decode, try_out
from diffusion.pipelines.sampling import sample_latents
from diffusion.reports.fitted import save_fit
from diffusion.reports.image_certificate import CONFIDENCE, certificate
from diffusion.reports.image_results import Forgotten
from diffusion.runtime.cache import Cache
from diffusion.runtime.distributed import Part, world
from diffusion.runtime.progress import Bar, progress_bar
from diffusion.tasks.config import Config
from diffusion.tasks.image_set import exact
from diffusion.tasks.images import ImageTensors
from diffusion.tasks.sampling import IMAGE_STEPS, at_law, of_ratios
from diffusion.training.lora import check_as_given, left_as_given, merged_adapters
from diffusion.workflows.concepts import fitted_data, tracked_by
from diffusion.workflows.image_levels import image_targets
from diffusion.workflows.validation import check_images

NOISE_LEVELS, REPEATS = 40, 8  # of what is measured after the fit


@left_as_given
def forget(
    denoiser: Denoiser,
    task: ImageTensors,
    config: Config,
    *,
    method: ImageMethod | None = None,
    bar: Bar = progress_bar,
    folder: Path | None = None,
) -> Forgotten:
    """Forget the task's images by a method, into adapters that are left active on the network.

    ``config.evaluation.samples``: samples before and as many after, from common noise, under the images' prompts in
    turn, by the pipeline's own sampler in ``config.sampling.num_inference_steps``. ``method``: left out, the one that
    ``config.fit`` names. ``folder``: of an output that is being written; the fit is kept there before it is measured.
    Raises ``ValueError`` where something is missing, before the fit; ``FloatingPointError`` when a loss is not finite.
    """
    check_images(config)
    denoiser, sampling = at_law(denoiser, of_ratios(denoiser, config.sampling), IMAGE_STEPS)
    method, config = method or configured_for_images(config.fit), config.but(sampling=sampling)
    fit, count, steps = config.fit, config.evaluation.samples, sampling.steps(denoiser)
    cache_folder = config.runtime.cache_folder
    if count < 3 * len(task.asked):
        raise ValueError(f"evaluation samples must be at least 3 for each of {len(task.asked)} prompts, got {count}")
    # Refuses a batch that cannot be split evenly.
    Part(0, world().num_processes * fit.gradient_accumulation_steps).rows(fit.train_batch_size)
    tracked = tracked_by(config)
    check_as_given(denoiser)
    started = time.monotonic()
    asked = [task.asked[j % len(task.asked)] for j in range(count)]

    def drawn(title: str) -> Tensor:
        try_out(denoiser.pipeline, asked[0], steps=steps)
        with bar(title, count) as shown:
            return sample_latents(denoiser.pipeline, asked, seed=fit.seed, steps=steps, progress=shown.update)

    name = fingerprint(denoiser.pipeline)
    request = {"prompts": asked, "seed": fit.seed, "steps": steps}
    if cache_folder is None:
        before = drawn("samples before")
    else:
        before = Cache(cache_folder, name).get("looks", request, lambda: {"samples": drawn("samples before")})[
            "samples"
        ]
    targets = image_targets(denoiser, task, before, asked)
    answers = exact(targets.images, targets.levels)
    checkpoint = None
    if cache_folder is not None:
        key = hashlib.sha256(f"{name}{method}{fit!r}{targets.levels.tolist()}{targets.images.shares.tolist()}".encode())
        for some in (targets.images.forget, targets.images.data):
            key.update(some.numpy().tobytes())
        key.update(repr((targets.images.forget_prompts, targets.images.data_prompts)).encode())
        checkpoint = cache_folder / f"forget-{key.hexdigest()[:12]}.safetensors"
    title = "fit of all weights" if fit.full_weights else "fit of the LoRA"
    with bar(title, fit.max_train_steps) as shown, tracked:
        outcome = method.fit(
            ImageFitContext(
                denoiser,
                targets.images,
                targets.levels,
                fit,
                checkpoint,
                config.runtime.checkpointing_steps,
                shown.update,
            )
        )
    fitted = fitted_data(config, method)
    so_far = certificate(task, targets, answers, outcome, None, fit=fitted, fingerprint=name)
    save_fit(denoiser, folder, so_far)
    with merged_adapters(denoiser):
        after = drawn("samples after")
    images, was, now = (decode(denoiser.pipeline, some) for some in (task.images, before, after))
    under = np.array([[text == own for own in task.prompts] for text in asked])
    far_was, far_now = (distances(some, images, targets.spacing) for some in (was, now))
    of_any, of_each = copies(far_was, far_now, under, CONFIDENCE)
    nats = in_nats(
        denoiser, targets.images, task.held_out, task.held_out_prompts, seed=fit.seed + 1, noise_levels=NOISE_LEVELS,
        repeats=REPEATS,
    )  # fmt: skip
    measured = ImageMeasurement(
        **dict(nats), samples=count, num_inference_steps=steps, sampling=sampling.plain(), copies=of_any,
        copies_of_each=of_each,
    )  # fmt: skip
    seconds = time.monotonic() - started
    proof = certificate(task, targets, answers, outcome, measured, fit=fitted, fingerprint=name, seconds=seconds)
    far_was, far_now = (np.where(under, far, np.inf) for far in (far_was, far_now))
    nearest = was[far_was.argmin(0)], now[far_now.argmin(0)]
    return Forgotten(targets, answers, outcome, measured, proof, images, *nearest, now[:60])
