"""What the pipeline commands share beside their options: the model, its cache, independent classifiers, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from diffusion.pipelines import Denoiser
    from diffusion.runtime.cache import Cache
    from diffusion.tasks.concepts import TaskPrompts
    from diffusion.tasks.config import Config
    from diffusion.tasks.task import ConceptTask

OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace a result that nobody has changed")]


def model_of(task: Any) -> str:
    """The name of the task's model. ``ValueError`` where none was given."""
    if task.model is None:
        raise ValueError("model must be given: 'digits', a folder, or a hub name")
    return str(task.model)


def prompts_for(denoiser: Denoiser, task: ConceptTask) -> TaskPrompts:
    """What the task is about for this model, checked; the contrast is said."""
    from diffusion.api import prompts_of
    from diffusion.workflows.validation import check

    prompts = prompts_of(denoiser, task)
    check(denoiser, prompts)
    say_rest(task, prompts)
    return prompts


def say_rest(task: ConceptTask, prompts: TaskPrompts) -> None:
    """What the classifier learns the concept from beside it, where no retained prompts are given."""
    if task.words:
        typer.echo("retained prompts proposed: " + "; ".join(prompts.retained))
    if prompts.unlabelled:
        typer.echo("no retained prompts for all of it: unlabelled samples of the model itself are the contrast")


def with_cache(config: Config) -> Config:
    """The configuration, keeping what it computes in the user's cache folder unless another one is named."""
    from diffusion.runtime.cache import default_folder

    folder = config.runtime.cache_folder or default_folder()
    return config.but(runtime=config.runtime.but(cache_folder=folder))


def store_of(denoiser: Denoiser, config: Config) -> Cache:
    """What is kept of this model between runs."""
    from diffusion.pipelines.fingerprint import fingerprint
    from diffusion.runtime.cache import Cache, default_folder

    return Cache(config.runtime.cache_folder or default_folder(), fingerprint(denoiser.pipeline))


def image_classifier_of(task: ConceptTask) -> Any:
    """Independent classifiers, for embedded pipelines and concepts that they know; None elsewhere.

    One that is the task's own detector is not asked a second time as if it were another.
    """
    from diffusion.api import embedded

    found: Any
    name = embedded(task.model) if task.model else None
    said = [*(each.detector for each in task.concepts), *(each.detector for each in task.keep)]
    own = any(isinstance(each, str) and each.startswith(f"{name}:") for each in said)
    if name == "digits":
        from diffusion.digits.detectors import CLASSIFIER
        from diffusion.digits.prompts import DigitsClassifiers

        found = DigitsClassifiers([CLASSIFIER] if own else ())
    elif name == "wardrobe":
        from diffusion.wardrobe.detectors import CLASSIFIER
        from diffusion.wardrobe.prompts import WardrobeClassifiers, axis_of, concept_of

        cells = [concept_of(each.prompts[0]) for each in task.concepts if each.prompts]
        axes = {axis_of(cell) for cell in cells if cell is not None}
        if len(axes) != 1:
            return None
        found = WardrobeClassifiers(axes.pop(), [CLASSIFIER] if own else ())
    else:
        return None
    known = all(each.prompts and found.asked(each.prompts[0]) is not None for each in task.concepts)
    return found if known else None


def check_lora(folder: Path) -> None:
    """``ValueError`` where a folder holds neither a LoRA nor a network."""
    from diffusion.pipelines.fitted import holds_fit

    if not folder.is_dir():
        raise ValueError(f"lora {str(folder)!r} is no folder")
    if not holds_fit(folder):
        raise ValueError(f"lora folder {str(folder)!r} holds neither a LoRA nor a network")
