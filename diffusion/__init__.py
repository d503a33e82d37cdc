"""Unlearning in diffusers pipelines, from prompts or images to a certified LoRA: :func:`unlearn`, :func:`forget`.

Importing this package imports neither torch nor diffusers; its functions and modules do.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duality as du
    from diffusion.evaluation.measure import Evaluation
    from diffusion.evaluation.samples import ImageClassifier
    from diffusion.methods import ImageMethod, Method
    from diffusion.ratios.ratio_estimate import Budget
    from diffusion.reports.image_results import Forgotten
    from diffusion.reports.results import Unlearned
    from diffusion.runtime.progress import Bar
    from diffusion.runtime.trackers import Tracked
    from diffusion.tasks.images import Images
    from diffusion.tasks.levels import Asked
    from diffusion.training.trainer import Fit

__all__ = ["forget", "levels", "merge", "need_extra", "undo", "unlearn"]


def need_extra() -> None:
    """Raise ``ImportError``, naming what is missing, where the extra ``diffusion`` is not installed."""
    missing = [name for name in ("torch", "diffusers", "transformers", "peft", "sklearn") if find_spec(name) is None]
    if missing:
        raise ImportError(f"this needs {', '.join(missing)}: install unlearning-duality[diffusion]")


def levels(kind: type[du.Problem], given: str | float | Sequence[str | float]) -> Asked:
    """A problem whose levels are given as people say them: ``levels(du.Likelihood, "0.1x")``, ``["1%", "2x"]``.

    A number in the problem's unit, a percentage, ``"4 nats"``, or a multiple ``"0.1x"`` of the level that the model has
    already, which becomes a number once the model has been surveyed. To be given to :func:`unlearn` as ``problem``;
    see :mod:`diffusion.tasks.levels`. Raises ``ValueError`` for what fits none of these, or not this kind of problem.
    """
    from diffusion.tasks.levels import levels as make

    return make(kind, given)


def unlearn(
    pipeline: Any,
    concepts: Sequence[Any],
    problem: du.Problem | Asked,
    *,
    contrast: Sequence[str | Sequence[str]] = (),
    vocabulary: Sequence[str] = (),
    priors: float | Sequence[float] | None = None,
    anchor: str = "",
    method: str | Method = "tilted",
    output: Path | str | None = None,
    overwrite: bool = False,
    budget: Budget | None = None,
    fit: Fit | None = None,
    evaluation: Evaluation | None = None,
    image_classifier: ImageClassifier | None = None,
    cache_folder: Path | str | None = None,
    bar: Bar | None = None,
    tracked: Tracked | None = None,
    checkpointing_steps: int = 100,
) -> Unlearned:
    r"""min distance(p, q) over laws p of images, subject to separation from the concepts, fitted into a LoRA.

        rho_i(x) = log q_i(x)/q(x) from a ratio classifier  ->  lam* (m,) by `duality.solve`  ->  adapters on the
        network

    The adapters are left active on the pipeline: sample from it, or :func:`undo` it for the law q. A pipeline
    that carries them already is refused, until :func:`merge` or :func:`undo` has said what it is to be.

    Args:
        pipeline: any `DiffusionPipeline` of a supported family (`diffusion.pipelines.FAMILIES`), or what
            `diffusion.pipelines.load_pipeline` takes: a folder, a hub name, or ``digits``.
        concepts: m things to unlearn, each a prompt that asks for it, or several paraphrases of one, or at least ten
            images that show it (paths, Pillow images, or a tensor of samples (k, ...)): for a pipeline without prompts
            the only way. A concept known by images alone is fitted by all methods but esd and, for `ReverseKL`,
            primal-dual and equal-weights.
        problem: `duality.Likelihood` (levels are probabilities), `ReverseKL` or `ForwardKL` (nats); one level for all
            concepts, or one each. :func:`levels` takes levels in other units and as multiples of the present ones.
        contrast: what stands for the rest of what the model makes, each a prompt or several paraphrases of one thing.
            Left out, the other digits serve for ``digits``; elsewhere the concepts' neighbours in ``vocabulary``
            together with samples of the model itself, or these alone.
        vocabulary: prompts among which neighbours are looked for, by the text encoder
            (:mod:`diffusion.tasks.contrast_prompts`).
        priors: the share of each concept in what the model makes unasked, one for all or one each (m,); left out, they
            are estimated from its samples (:mod:`diffusion.ratios.priors`).
        anchor: what prompts that ask for a concept fall back to.
        method: a name in `diffusion.methods.METHODS`, or a method.
        output: folder for LoRA, certificate, card and images; nothing is written where it is left out.
        overwrite: replace an output folder that a run has made and nobody has changed; no other folder is replaced.
        budget, fit, evaluation: how many samples, training steps and judged samples; see their classes.
            ``Fit(rank=None)`` trains all weights of the network instead of a LoRA.
        image classifier: independent classifiers of images, where there are any.
        cache_folder: where samples, ratios and checkpoints are kept, so that an interrupted run goes on from there.
        bar: progress bars, see `diffusion.runtime.progress.Bar`.
        tracked: TensorBoard or W&B, see `diffusion.runtime.trackers.Tracked`.
        checkpointing_steps: optimiser steps from one checkpoint in ``cache_folder`` to the next. There is one at the
            end of every dual round and of the fit, too, and one when the run is interrupted.

    Returns:
        `diffusion.reports.results.Unlearned`: what is known of the model, the solution, what was measured, the
        certificate.

    Raises:
        ImportError: without the extra ``diffusion``.
        ValueError: before any work, naming what does not fit: the pipeline or a component of it, prompts, levels, a
            method or folder; later where a cache does not belong to the model.
        duality.InfeasibleError: before any training; says what level could be had.
        FloatingPointError: when a loss is not finite; the last checkpoint is kept.
    """
    need_extra()
    from diffusion.api import unlearn as call

    return call(
        pipeline,
        concepts,
        problem,
        contrast=contrast,
        vocabulary=vocabulary,
        priors=priors,
        anchor=anchor,
        method=method,
        output=output,
        overwrite=overwrite,
        budget=budget,
        fit=fit,
        evaluation=evaluation,
        image_classifier=image_classifier,
        cache_folder=cache_folder,
        bar=bar,
        tracked=tracked,
        checkpointing_steps=checkpointing_steps,
    )


def forget(
    pipeline: Any,
    images: Images,
    *,
    prompts: str | Sequence[str] = "",
    data: Images | None = None,
    data_prompts: str | Sequence[str] | None = None,
    held_out: Images | None = None,
    held_out_prompts: str | Sequence[str] | None = None,
    levels: str | float | Sequence[float] = "unseen",
    shares: float | Sequence[float] | None = None,
    method: str | ImageMethod = "tilted",
    samples_per_image: int = 1000,
    sampler_steps: int = 25,
    output: Path | str | None = None,
    overwrite: bool = False,
    fit: Fit | None = None,
    cache_folder: Path | str | None = None,
    bar: Bar | None = None,
    tracked: Tracked | None = None,
    checkpointing_steps: int = 100,
) -> Forgotten:
    r"""min KL(q‖p) over laws p of images, subject to at least level_i nats more surprise at each image, as a LoRA.

        levels, shares pi (m,)  ->  lam* (m,) by `duality.point_masses`  ->  adapters, lam moved by measured gains

    The adapters are left active on the pipeline: sample from it, or :func:`undo` it for the law q. A pipeline
    that carries them already is refused, until :func:`merge` or :func:`undo` has said what it is to be.

    Args:
        pipeline: as for :func:`unlearn`.
        images: m images to forget, at most 64: paths, Pillow images, or a tensor (m, ...) as the network sees them.
        prompts: under which each is to be forgotten, one for all or one each; none for a pipeline without prompts.
        data: what the images are to be forgotten among, in the same forms: training data, copies of the images
            included if it is there, under ``data_prompts`` (left out, that of the images if they share one). Data under
            other prompts are held to the model. A prompt of an image without other data gets samples of the model,
            less those that are copies (:mod:`diffusion.evaluation.near_duplicates`).
        held_out: images of the same kind that the model was never trained on.
        levels: nats of surprise above the present, one for all or one each, or ``"unseen"``: as surprising as the
            held-out images in the mean; ``"unseen 90%"``: at least as surprising as nine tenths of them.
        shares: pi_i, the part of the data of its prompt that is image i, one for all or one each: its copies over the
            size of the data. Left out, counted in the data, or among samples of the model.
        method: a name in `diffusion.methods.IMAGE_METHODS`, or a method.
        looks, sampler_steps: samples before and after the fit under the images' prompts, among which copies are
            counted, and steps of the pipeline's sampler in each.
        fit: left out, 600 steps of rank 16, as the command has it.
        output, overwrite, cache_folder, bar, tracked, checkpointing_steps: as for :func:`unlearn`. Nothing that is
            written to ``output`` shows the images or names them.

    Returns:
        `diffusion.reports.image_results.Forgotten`: the task as settled, the exact answer, what was measured, the
        certificate.

    Raises:
        ImportError: without the extra ``diffusion``.
        ValueError: before any work, naming the argument that does not fit; after the first samples, where shares are
            neither given nor seen, or every image is as surprising as asked already.
        FloatingPointError: when a loss is not finite; the last checkpoint is kept.
    """
    need_extra()
    from contextlib import nullcontext

    from diffusion.methods import image_method_of
    from diffusion.pipelines import denoiser_of, load_pipeline
    from diffusion.reports.save_images import save
    from diffusion.runtime.distributed import is_main
    from diffusion.runtime.output_folder import OutputFolder
    from diffusion.runtime.progress import progress_bar
    from diffusion.tasks.images import task_of
    from diffusion.training.trainer import Fit
    from diffusion.workflows.images import forget as run

    chosen = image_method_of(method)
    place = OutputFolder(Path(output), overwrite) if output is not None else nullcontext(None)
    denoiser = denoiser_of(load_pipeline(pipeline) if isinstance(pipeline, str) else pipeline)
    task = task_of(
        denoiser,
        images,
        prompts=prompts,
        data=data,
        data_prompts=data_prompts,
        held_out=held_out,
        held_out_prompts=held_out_prompts,
        levels=levels,
        shares=shares,
    )
    with place as folder:
        result = run(
            denoiser,
            task,
            chosen,
            fit=fit or Fit(steps=600, rank=16),
            samples_per_image=samples_per_image,
            sampler_steps=sampler_steps,
            cache_folder=Path(cache_folder) if cache_folder is not None else None,
            bar=bar or progress_bar,
            tracked=tracked,
            folder=folder,
            checkpointing_steps=checkpointing_steps,
        )
        if folder is not None and is_main():
            save(result, denoiser, folder)
    return result


def merge(pipeline: Any) -> None:
    """``W + (alpha/r) B A`` in the place of W for good: what `unlearn` or `forget` has fitted becomes the model itself.

    The next run begins with it, and so does its fingerprint; LoRAs of both, saved one by one, belong on top of each
    other. For all weights (``Fit(rank=None)``) the trained ones stay. Nothing changes where nothing was fitted. Raises
    ``ValueError`` for a pipeline of no supported family.
    """
    need_extra()
    from diffusion.pipelines import denoiser_of
    from diffusion.training.lora import merge as put_in

    put_in(denoiser_of(pipeline))


def undo(pipeline: Any) -> None:
    """``W`` again: takes off what `unlearn` or `forget` has fitted on a pipeline of any family.

    Nothing changes where nothing was fitted. Raises ``ValueError`` for a pipeline of no supported family.
    """
    need_extra()
    from diffusion.pipelines import denoiser_of
    from diffusion.training.lora import undo as take_off

    take_off(denoiser_of(pipeline))
