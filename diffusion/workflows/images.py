r"""Images out of a pipeline: samples before, the exact answer, the fit, samples after, and what was measured.

    levels (m,)  ->  lam (m,) by `duality.point_masses`  ->  a method's fit into a LoRA  ->  surprise gained,
    cost, copies among samples under the images' prompts

Everything that is written is about numbers: images that are to be forgotten are no part of the output folder.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from diffusion.evaluation.image_likelihood import ImageMeasurement, copies, in_nats
from diffusion.evaluation.near_duplicates import distances
from diffusion.methods import ImageFitContext, ImageMethod
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
from diffusion.runtime.trackers import Tracked
from diffusion.tasks.image_set import exact
from diffusion.tasks.images import Task
from diffusion.training.lora import check_as_given, left_as_given, merged_adapters
from diffusion.training.trainer import Fit
from diffusion.workflows.image_levels import image_targets

NOISE_LEVELS, REPEATS = 40, 8  # of what is measured after the fit


@left_as_given
def forget(
    denoiser: Denoiser,
    task: Task,
    method: ImageMethod,
    *,
    fit: Fit,
    samples_per_image: int = 1000,
    sampler_steps: int = 25,
    cache_folder: Path | None = None,
    bar: Bar = progress_bar,
    tracked: Tracked | None = None,
    folder: Path | None = None,
    checkpointing_steps: int = 100,
) -> Forgotten:
    """Forget the task's images by a method, into adapters that are left active on the network.

    ``samples_per_image``: samples before and as many after, from common noise, dealt to the images' prompts, by the
    pipeline's own sampler in ``sampler_steps``. ``folder``: of an output that is being written; the fit is kept there
    before it is measured. ``checkpointing_steps``: from one checkpoint to the next. Raises ``ValueError`` where
    something is missing, before the fit; ``FloatingPointError`` when a loss is not finite.
    """
    if samples_per_image < 3 * len(task.asked):
        raise ValueError(f"looks must be at least 3 for each of {len(task.asked)} prompts, got {samples_per_image}")
    Part(0, world().num_processes * fit.accumulate).rows(fit.batch)  # refuses a batch that cannot be dealt evenly
    check_as_given(denoiser)
    started = time.monotonic()
    asked = [task.asked[j % len(task.asked)] for j in range(samples_per_image)]

    def drawn(title: str) -> Tensor:
        try_out(denoiser.pipeline, asked[0], sampler_steps)
        with bar(title, samples_per_image) as shown:
            return sample_latents(denoiser.pipeline, asked, seed=fit.seed, steps=sampler_steps, progress=shown.update)

    name = fingerprint(denoiser.pipeline)
    request = {"prompts": asked, "seed": fit.seed, "steps": sampler_steps}
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
        key = hashlib.sha256(f"{name}{method}{fit}{targets.levels.tolist()}{targets.images.shares.tolist()}".encode())
        for some in (targets.images.forget, targets.images.data):
            key.update(some.numpy().tobytes())
        key.update(repr((targets.images.forget_prompts, targets.images.data_prompts)).encode())
        checkpoint = cache_folder / f"forget-{key.hexdigest()[:12]}.safetensors"
    title = "fit of the LoRA" if fit.rank is not None else "fit of all weights"
    with bar(title, fit.steps) as shown, tracked or nullcontext():
        outcome = method.fit(
            ImageFitContext(
                denoiser, targets.images, targets.levels, fit, checkpoint, checkpointing_steps, shown.update
            )
        )
    fitted = {"method": repr(method), **asdict(fit), "processes": world().num_processes}
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
        **dict(nats), samples=samples_per_image, num_inference_steps=sampler_steps, copies=of_any,
        copies_of_each=of_each,
    )  # fmt: skip
    seconds = time.monotonic() - started
    proof = certificate(task, targets, answers, outcome, measured, fit=fitted, fingerprint=name, seconds=seconds)
    far_was, far_now = (np.where(under, far, np.inf) for far in (far_was, far_now))
    nearest = was[far_was.argmin(0)], now[far_now.argmin(0)]
    return Forgotten(targets, answers, outcome, measured, proof, images, *nearest, now[:60])
