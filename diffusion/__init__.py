"""Unlearning in diffusers pipelines, from prompts or images to a certified LoRA: :func:`unlearn`, :func:`forget`.

Importing this package imports neither torch nor diffusers; its functions and modules do.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion.evaluation.samples import ImageClassifier
    from diffusion.methods import ImageMethod, Method
    from diffusion.reports.detector_results import DetectedUnlearned
    from diffusion.reports.image_results import Forgotten
    from diffusion.reports.results import Unlearned
    from diffusion.runtime.progress import Bar
    from diffusion.tasks.config import Config, EvaluationConfig, FitConfig, RatiosConfig, RuntimeConfig, Sampling
    from diffusion.tasks.image_task import ImageTask
    from diffusion.tasks.prompts import Prompts
    from diffusion.tasks.task import Concept, ConceptTask

__all__ = [
    "Concept",
    "ConceptTask",
    "Config",
    "EvaluationConfig",
    "FitConfig",
    "ImageTask",
    "Prompts",
    "RatiosConfig",
    "RuntimeConfig",
    "Sampling",
    "forget",
    "merge",
    "need_extra",
    "undo",
    "unlearn",
]

# What is data is imported when somebody asks for it: pydantic belongs to the extra.
_DATA = {
    "Concept": "diffusion.tasks.task",
    "ConceptTask": "diffusion.tasks.task",
    "ImageTask": "diffusion.tasks.image_task",
    "Prompts": "diffusion.tasks.prompts",
    **dict.fromkeys(
        ("Config", "EvaluationConfig", "FitConfig", "RatiosConfig", "RuntimeConfig", "Sampling"),
        "diffusion.tasks.config",
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _DATA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_DATA[name]), name)


def need_extra() -> None:
    """Raise ``ImportError``, naming what is missing, where the extra ``diffusion`` is not installed."""
    needed = ("torch", "diffusers", "transformers", "peft", "sklearn", "pydantic", "yaml")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ImportError(f"this needs {', '.join(missing)}: install unlearning-duality[diffusion]")


def unlearn(
    pipeline: Any,
    task: ConceptTask,
    config: Config | None = None,
    *,
    output: Path | str | None = None,
    overwrite: bool = False,
    method: Method | None = None,
    image_classifier: ImageClassifier | None = None,
    bar: Bar | None = None,
) -> Unlearned | DetectedUnlearned:
    r"""min distance(p, q) over laws p of images, subject to separation from the concepts, fitted into a LoRA.

    ::

        rho_i(x) = log q_i(x)/q(x) from a ratio classifier  ->  lam* (m,) by `duality.solve`  ->  adapters on the
        network

    The adapters are left active on the pipeline: sample from it, or :func:`undo` it for the law q. A pipeline that
    carries them already is refused, until :func:`merge` or :func:`undo` has said what it is to be.

    Args:
        pipeline: any `DiffusionPipeline` of a supported family (`diffusion.pipelines.FAMILIES`), or what
            `diffusion.pipelines.load_pipeline` takes: a folder, a hub name, or ``digits``.
        task: what must go, how far, and what is retained, see `diffusion.tasks.task.ConceptTask`. For a
            pipeline without prompts concepts are given by images; these are fitted by all methods but esd and, for
            `ReverseKL`, primal-dual and equal-weights.
        config: how it is done, see `diffusion.tasks.config.Config`; defaults where left out. With
            ``config.runtime.cache_folder`` an interrupted run goes on where it stopped.
        output: folder for LoRA, certificate, card, images, ``task.yaml`` and ``config.yaml``; nothing is written where
            it is left out.
        overwrite: replace an output folder that a run has made and nobody has changed; no other folder is replaced.
        method: an object in the place of the method that ``config.fit`` names.
        image_classifier: independent classifiers of images, where there are any.
        bar: progress bars, see `diffusion.runtime.progress.Bar`.

    Returns:
        `diffusion.reports.results.Unlearned`: what is known of the model, the solution, what was measured, the
        certificate (``result.certificate.certified``); where detectors define the concepts, the like
        `diffusion.reports.detector_results.DetectedUnlearned`.

    Raises:
        ImportError: without the extra ``diffusion``.
        ValueError: before any work, naming what does not fit: the pipeline or a component of it, prompts, levels, a
            method or folder; later where a cache does not belong to the model.
        duality.InfeasibleError: before any training; says what level could be had.
        FloatingPointError: when a loss is not finite; the last checkpoint is kept.
    """
    need_extra()
    from diffusion.api import unlearn as call
    from diffusion.tasks.config import Config

    return call(
        pipeline,
        task,
        config or Config(),
        output=output,
        overwrite=overwrite,
        method=method,
        image_classifier=image_classifier,
        bar=bar,
    )


def forget(
    pipeline: Any,
    task: ImageTask,
    config: Config | None = None,
    *,
    output: Path | str | None = None,
    overwrite: bool = False,
    method: ImageMethod | None = None,
    bar: Bar | None = None,
) -> Forgotten:
    r"""min KL(q‖p) over laws p of images, subject to a negative ELBO higher by level_i nats at each image, as a LoRA.

    ::

        levels, shares pi (m,)  ->  lam* (m,) by `duality.point_masses`  ->  adapters, lam moved by measured ELBO drops

    The adapters are left active on the pipeline, as by :func:`unlearn`.

    Args:
        pipeline: as for :func:`unlearn`.
        task: the images, at most 64, their prompts, data and levels, see `diffusion.tasks.image_task.ImageTask`.
        config: left out, :meth:`diffusion.tasks.config.Config.for_images`. ``evaluation.samples``: samples before and
            after the fit under the images' prompts, among which copies are counted.
        output, overwrite, method, bar: as for :func:`unlearn`. Nothing that is written to ``output`` shows the images
            or names them.

    Returns:
        `diffusion.reports.image_results.Forgotten`: the levels and shares, the exact answer, what was measured, the
        certificate.

    Raises:
        ImportError: without the extra ``diffusion``.
        ValueError: before any work, naming the field that does not fit; after the first samples, where shares are
            neither given nor seen, or every image is as unlikely as asked already.
        FloatingPointError: when a loss is not finite; the last checkpoint is kept.
    """
    need_extra()
    from diffusion.api import forget as call
    from diffusion.tasks.config import Config

    return call(
        pipeline, task, config or Config.for_images(), output=output, overwrite=overwrite, method=method, bar=bar
    )


def merge(pipeline: Any) -> None:
    """``W + (alpha/r) B A`` in the place of W for good: what `unlearn` or `forget` has fitted becomes the model itself.

    The next run begins with it, and so does its fingerprint; LoRAs of both, saved one by one, belong on top of each
    other. For all weights (``FitConfig(full_weights=True)``) the trained ones stay. Nothing changes where nothing was
    fitted. Raises ``ValueError`` for a pipeline of no supported family.
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
